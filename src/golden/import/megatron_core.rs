//! Dumps of megatron-core's `GPTModel`: hooks are named by module paths, the wrappers' prefixes taken
//! off.

use super::described::Described;
use super::ranks::Ranks;
use super::raw::RawDump;
use crate::arch::{Framework, ModelConfig, Settings};
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, MegatronArithmetic};
use crate::tensor::DType;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What wrappers such as `Float16Module` put before the names of modules.
const WRAPPER: &str = "module.";
/// Groups of settings, by the class whose they are.
const GROUPS: [&str; 2] = ["transformer_config", "gpt_model"];

/// The setting that says how tokens get to their experts.
const DISPATCHER: &str = "moe_token_dispatcher_type";

/// What a `config.json` that several dumps share says of one of them.
#[derive(Deserialize)]
struct Run {
    dtype: DType,
    tensor_parallel: usize,
    #[serde(default = "one")]
    pipeline_parallel: usize,
    #[serde(default = "one")]
    expert_parallel: usize,
    sequence_parallel: Option<bool>,
    moe_token_dispatcher_type: Option<String>,
}

fn one() -> usize {
    1
}

/// Reads the settings that megatron-core's dumps come with.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    let framework = Framework::MegatronCore;
    let run = run(dump)?;
    let mut settings = settings(dump)?;
    let context_parallel =
        dump.context_parallel(&Settings::new(dump.config_path(), settings.clone()))?;
    let expert_parallel = expert_parallel(dump, run.as_ref(), &settings)?;
    if expert_parallel > 1 && context_parallel > 1 {
        let expected = "ranks of expert parallelism or of context parallelism";
        let fault = BadInput::new(dump.config_path(), expected, "of both");
        return Err(fault.at("context_parallel_size").into());
    }
    let ranks = ranks(
        dump,
        run.as_ref(),
        &settings,
        context_parallel * expert_parallel,
    )?;
    settings.insert("tensor_parallel".to_owned(), ranks.into());
    let dispatcher = run
        .as_ref()
        .and_then(|run| run.moe_token_dispatcher_type.clone());
    if let Some(dispatcher) = dispatcher {
        settings.insert(DISPATCHER.to_owned(), dispatcher.into());
    }
    let settings = Settings::new(dump.config_path(), settings);
    let sequence_parallel = settings.optional_flag(&["sequence_parallel"])?;
    let (model, megatron) = ModelConfig::of_dump(framework, &settings)?;
    // Another dispatcher brings what all of a token's experts gave to one rank.
    let dispatcher: Option<String> = settings.text(&[DISPATCHER])?;
    let rounds_by_rank = dispatcher.is_none_or(|dispatcher| dispatcher == "allgather");
    Ok(Described {
        framework,
        model,
        dtype: dtype(dump, run.as_ref())?,
        arithmetic: Arithmetic::Megatron(MegatronArithmetic {
            // Megatron has kernels of its own for GPUs alone.
            fused_kernels: megatron.fused_kernels && dump.is_of_a_gpu(),
            expert_ranks: if rounds_by_rank { expert_parallel } else { 1 },
            ..megatron
        }),
        ranks: Ranks {
            tensor: ranks,
            context: context_parallel,
            expert: expert_parallel,
            sequence_parallel: run
                .and_then(|run| run.sequence_parallel)
                .or(sequence_parallel),
        },
        packs: Some(dump.resets_attention()?),
        hook: Box::new(|name| {
            let name = name.trim_start_matches(WRAPPER);
            Some(name.to_owned())
        }),
    })
}

/// What the settings say of this run, by the name of its folder.
fn run(dump: &RawDump) -> Result<Option<Run>> {
    let runs: Option<BTreeMap<String, Run>> = dump.optional(&["runs"], "runs by their folders")?;
    let name = dump.name()?;
    Ok(runs.and_then(|mut runs| runs.remove(&name)))
}

/// All settings, those of every group beside the others.
fn settings(dump: &RawDump) -> Result<Map<String, Value>> {
    let mut settings = dump.config().clone();
    for group in GROUPS {
        let inner: Option<Map<String, Value>> = dump.optional(&[group], "an object of settings")?;
        settings.extend(inner.into_iter().flatten());
    }
    Ok(settings)
}

/// How many stages the layers of the run in a folder are divided into.
pub(super) fn pipeline_parallel(dump: &RawDump) -> Result<usize> {
    let run = run(dump)?.map(|run| run.pipeline_parallel);
    parallel(dump, run, &settings(dump)?, "pipeline_model_parallel_size")
}

/// How many ranks have experts of their own.
fn expert_parallel(
    dump: &RawDump,
    run: Option<&Run>,
    settings: &Map<String, Value>,
) -> Result<usize> {
    let run = run.map(|run| run.expert_parallel);
    parallel(dump, run, settings, "expert_model_parallel_size")
}

/// A number of ranks: what is said of the run, or else what the settings say.
fn parallel(
    dump: &RawDump,
    run: Option<usize>,
    settings: &Map<String, Value>,
    key: &str,
) -> Result<usize> {
    const MOST: usize = 4096;
    let said = Settings::new(dump.config_path(), settings.clone());
    let ranks = match run {
        Some(ranks) => ranks,
        None => said.optional_size(&[key])?.unwrap_or(1),
    };
    match ranks {
        1..=MOST => Ok(ranks),
        other => Err(said.fault(key, "1 to 4096 ranks", other)),
    }
}

/// How many ranks there are: what the settings say, which must be what lies there.
fn ranks(
    dump: &RawDump,
    run: Option<&Run>,
    settings: &Map<String, Value>,
    others: usize,
) -> Result<usize> {
    let keys = ["tensor_parallel", "tensor_model_parallel_size"];
    let said = match run {
        Some(run) => Some(run.tensor_parallel),
        None => match dump.optional::<usize>(&keys, "a number of ranks")? {
            Some(said) => Some(said),
            None => settings
                .get(keys[1])
                .and_then(Value::as_u64)
                .map(|said| said as usize),
        },
    };
    let found = dump.listing.ranks();
    if !found.is_multiple_of(others) {
        let expected = format!("arrays of a multiple of {others} ranks");
        let fault = BadInput::new(dump.config_path(), expected, format!("of {found}"));
        return Err(fault.at("context_parallel_size").into());
    }
    let found = found / others;
    match said {
        Some(said) if said != found => {
            let expected = format!("arrays of {said} ranks");
            let fault = BadInput::new(dump.config_path(), expected, format!("of {found}"));
            Err(fault.at(keys[0]).into())
        }
        _ => Ok(found),
    }
}

/// The type the model ran in: what the settings say, which must be what the first array is said to be.
fn dtype(dump: &RawDump, run: Option<&Run>) -> Result<DType> {
    let what = "fp32, fp16 or bf16";
    let said = match run {
        Some(run) => Some(run.dtype),
        None => dump.optional::<DType>(&["dtype"], what)?,
    };
    match (said, dump.listing.first_type()) {
        (Some(said), Some((file, found))) if said != found => {
            let expected = format!("{said}, as {} has", dump.config_path().display());
            Err(BadInput::new(file, expected, found.to_string()).into())
        }
        (Some(dtype), _) | (None, Some((_, dtype))) => Ok(dtype),
        (None, None) => dump.setting(&["dtype"], what),
    }
}

#[cfg(test)]
mod tests {
    use super::super::import::import;
    use super::*;
    use crate::golden::{Golden, Reference};
    use crate::tensor::{Tensor, npy};
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    const QKV: &str = "004.decoder.layers.0.self_attention.linear_qkv.output";

    fn write(path: &Path, shape: &[usize], values: Vec<f32>) {
        npy::write(path, &Tensor::from_vec(shape, values).unwrap()).unwrap();
    }

    /// A Llama of one token, two heads of two entries and a gate of two, on two ranks, laid out as the
    /// reference dumps are: settings two folders up.
    fn dump() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let config = json!({
            "transformer_config": {
                "num_layers": 1, "hidden_size": 4, "num_attention_heads": 2, "num_query_groups": 2,
                "ffn_hidden_size": 2, "normalization": "RMSNorm", "layernorm_epsilon": 1e-5,
                "add_bias_linear": false, "activation_func": "silu", "gated_linear_unit": true,
            },
            "gpt_model": {"vocab_size": 8, "position_embedding_type": "rope", "rotary_base": 100},
            "runs": {"bf16_tp2": {"dtype": "bf16", "tensor_parallel": 2}},
        });
        fs::write(root.path().join("config.json"), config.to_string()).unwrap();
        for (name, values) in [("tokens", vec![7_i64]), ("position_ids", vec![0])] {
            let path = root.path().join(format!("{name}.npy"));
            npy::write(&path, &Tensor::from_vec(&[1, 1], values).unwrap()).unwrap();
        }
        for rank in 0..2 {
            let folder = root.path().join(format!("dumps/bf16_tp2/rank{rank}"));
            fs::create_dir_all(&folder).unwrap();
            let from = |from: usize, count: usize| (from..from + count).map(|x| x as f32).collect();
            let files = [
                // A query, a key and a value of two entries.
                (QKV, vec![1, 1, 6], from(6 * rank, 6)),
                (
                    "014.decoder.layers.0.mlp.linear_fc1.output",
                    vec![1, 1, 2],
                    from(2 * rank, 2),
                ),
                ("030.output_layer.output", vec![1, 1, 16], from(0, 16)),
            ];
            let listed = files.map(|(name, shape, values): (&str, Vec<usize>, Vec<f32>)| {
                let file = format!("{name}.npy");
                write(&folder.join(&file), &shape, values);
                json!({"file": file, "torch_dtype": "torch.bfloat16"})
            });
            fs::write(folder.join("manifest.json"), json!(listed).to_string()).unwrap();
        }
        root
    }

    fn imported(root: &Path) -> Result<Golden> {
        let (from, to) = (root.join("dumps/bf16_tp2"), root.join("golden"));
        import(&from, Some(Framework::MegatronCore), &to, false)?;
        Golden::open(to)
    }

    #[test]
    fn an_array_may_be_several_stages() {
        let root = dump();
        let golden = imported(root.path()).unwrap();
        let manifest = golden.manifest();
        assert_eq!(
            (manifest.dtype, manifest.tensor_parallel()),
            (DType::Bf16, 2)
        );
        // Rows of the padded vocabulary are those of the logits, which ranks gathered.
        assert_eq!(manifest.model.vocab_size(), 16);
        assert!(golden.positions().unwrap().is_some());
        let value = |stage: &str| {
            let stage = stage.into();
            let Some(Reference::Full(value)) = golden.reference(&stage).unwrap() else {
                panic!("{stage}");
            };
            let value = value.widened().unwrap();
            assert_eq!(value.shape()[..2], [1, 1]);
            value.as_slice::<f64>().unwrap().to_vec()
        };
        assert_eq!(value("layers.0.self_attn.q_proj"), [0.0, 1.0, 6.0, 7.0]);
        assert_eq!(value("layers.0.self_attn.k_proj"), [2.0, 3.0, 8.0, 9.0]);
        assert_eq!(value("layers.0.self_attn.v_proj"), [4.0, 5.0, 10.0, 11.0]);
        assert_eq!(value("layers.0.mlp.gate_proj"), [0.0, 2.0]);
        assert_eq!(value("layers.0.mlp.up_proj"), [1.0, 3.0]);
        let sources = manifest.stages.iter().map(|record| record.source.as_str());
        assert_eq!(sources.filter(|source| QKV.ends_with(source)).count(), 3);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |edit: &dyn Fn(&Path), words: &str| {
            let root = dump();
            edit(root.path());
            let error = imported(root.path()).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!root.path().join("golden").exists());
        };
        let replace = |file: &'static str, from: &'static str, to: &'static str| {
            move |root: &Path| {
                let path = root.join(file);
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.contains(from), "{text}");
                fs::write(path, text.replace(from, to)).unwrap();
            }
        };
        let ranks = replace(
            "config.json",
            "\"tensor_parallel\":2",
            "\"tensor_parallel\":4",
        );
        refused(&ranks, "expected arrays of 4 ranks, found of 2");
        let dtype = replace("config.json", "\"dtype\":\"bf16\"", "\"dtype\":\"fp16\"");
        refused(&dtype, "found bf16");
        let rank = "dumps/bf16_tp2/rank1/manifest.json";
        refused(&replace(rank, "bfloat16", "float32"), "rank0");
        refused(&replace(rank, "004.", "005."), "no 005.");
        let gone = |root: &Path| {
            fs::remove_dir_all(root.join("dumps/bf16_tp2/rank0")).unwrap();
        };
        refused(&gone, "folders rank0 to rank0, found ranks [1]");
        let heads = replace(
            "config.json",
            "\"num_query_groups\":2",
            "\"num_query_groups\":1",
        );
        refused(&heads, "linear_qkv.output.npy");
        let percent = replace(
            "config.json",
            "\"rotary_base\":100",
            "\"rotary_percent\":0.5",
        );
        refused(&percent, "rotary_percent");
        let norm = replace("config.json", "RMSNorm", "LayerNorm");
        refused(&norm, "normalization");
    }
}
