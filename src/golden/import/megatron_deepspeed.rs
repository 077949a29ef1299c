//! Dumps of Megatron-DeepSpeed's pipelined model (`GPTModelPipe`).
//!
//! The pipeline's layer list: 1 embeddings, 3 to L+2 the blocks, L+4 the final norm. Hooks name
//! modules by their place in it; here blocks are counted from 0 as in checkpoints, `layers.0`, and the
//! final norm is `final_layernorm`.

use super::described::Described;
use super::ranks::Ranks;
use super::raw::RawDump;
use crate::arch::{Framework, ModelConfig};
use crate::error::Result;
use crate::plan::{Arithmetic, MegatronArithmetic};
use crate::tensor::DType;

/// Pipeline index of the first block.
const FIRST_BLOCK: usize = 3;

/// Reads the settings that Megatron-DeepSpeed's dumps come with.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    let framework = Framework::MegatronDeepspeed;
    let (model, megatron) = ModelConfig::of_dump(framework, &dump.settings())?;
    let layers = model.layers();
    Ok(Described {
        framework,
        model,
        dtype: dump.setting::<DType>(&["dtype"], "fp32, fp16 or bf16")?,
        arithmetic: Arithmetic::Megatron(MegatronArithmetic {
            // Megatron has kernels of its own for GPUs alone.
            fused_kernels: megatron.fused_kernels && dump.is_of_a_gpu(),
            ..megatron
        }),
        ranks: Ranks {
            tensor: megatron.tensor_parallel,
            context: dump.context_parallel(&dump.settings())?,
            expert: 1,
            sequence_parallel: dump.optional(&["sequence_parallel"], "true or false")?,
        },
        packs: Some(dump.resets_attention()?),
        hook: Box::new(move |name| hook(name, layers)),
    })
}

/// `3.mlp.output` → `layers.0.mlp.output`.
fn hook(name: &str, layers: usize) -> Option<String> {
    let numbered = name
        .split_once('.')
        .and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
    let Some((index, rest)) = numbered else {
        return Some(name.to_owned());
    };
    if index == layers + FIRST_BLOCK + 1 {
        return Some(format!("final_layernorm.{rest}"));
    }
    let block = index.checked_sub(FIRST_BLOCK)?;
    (block < layers).then(|| format!("layers.{block}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::hook;

    #[test]
    fn places_in_the_pipeline_are_blocks() {
        let hook = |name| hook(name, 2);
        assert_eq!(hook("3.mlp.output").unwrap(), "layers.0.mlp.output");
        assert_eq!(hook("4.output").unwrap(), "layers.1.output");
        assert_eq!(hook("6.output").unwrap(), "final_layernorm.output");
        assert_eq!(hook("logits").unwrap(), "logits");
        assert_eq!(
            [hook("2.output"), hook("5.output"), hook("7.output")],
            [const { None }; 3]
        );
    }
}
