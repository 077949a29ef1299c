//! Writes small checkpoints as the Megatrons do.

use super::torch::{Py, Tensor, dict, file, text};
use std::fs;
use std::path::{Path, PathBuf};

/// The arguments of a run of Megatron-DeepSpeed that trained a BLOOM.
pub fn bloom_args(hidden: i64, heads: i64, layers: i64) -> Vec<(String, Py)> {
    let args = [
        ("hidden_size", Py::Int(hidden)),
        ("num_attention_heads", Py::Int(heads)),
        ("num_layers", Py::Int(layers)),
        ("layernorm_epsilon", Py::Float(1e-5)),
        ("position_embedding_type", text("alibi")),
        ("bias_gelu_fusion", Py::Bool(true)),
    ];
    args.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A BLOOM in Megatron-DeepSpeed's format, in a folder of this one: hidden 4, 2 heads, 1 layer, 8 rows of the
/// embedding on every rank. `tensor` makes one of a rank, a pipeline layer, a name and a shape.
pub fn bloom(
    folder: &Path,
    ranks: i64,
    tensor: impl Fn(i64, usize, &str, &[i64]) -> Tensor,
) -> PathBuf {
    let folder = folder.join("global_step5");
    fs::create_dir_all(&folder).expect("a folder");
    let wide = 16 / ranks;
    let blocks: [(&str, &[i64]); 12] = [
        ("input_layernorm.weight", &[4]),
        ("input_layernorm.bias", &[4]),
        ("self_attention.query_key_value.weight", &[12 / ranks, 4]),
        ("self_attention.query_key_value.bias", &[12 / ranks]),
        ("self_attention.dense.weight", &[4, 4 / ranks]),
        ("self_attention.dense.bias", &[4]),
        ("post_attention_layernorm.weight", &[4]),
        ("post_attention_layernorm.bias", &[4]),
        ("mlp.dense_h_to_4h.weight", &[wide, 4]),
        ("mlp.dense_h_to_4h.bias", &[wide]),
        ("mlp.dense_4h_to_h.weight", &[4, wide]),
        ("mlp.dense_4h_to_h.bias", &[4]),
    ];
    let embeddings: [(&str, &[i64]); 3] = [
        ("word_embeddings.weight", &[8, 4]),
        ("word_embeddings.norm.weight", &[4]),
        ("word_embeddings.norm.bias", &[4]),
    ];
    let last: [(&str, &[i64]); 2] = [("weight", &[4]), ("bias", &[4])];
    for rank in 0..ranks {
        for (layer, tensors) in [(1, &embeddings[..]), (3, &blocks), (5, &last)] {
            let tensors = tensors.iter().map(|(name, shape)| {
                let tensor = tensor(rank, layer, name, shape);
                ((*name).to_owned(), Py::Tensor(tensor))
            });
            let name = format!("layer_{layer:02}-model_{rank:02}-model_states.pt");
            fs::write(folder.join(name), file(&dict(tensors))).expect("written");
        }
    }
    let args = Py::Object("argparse Namespace", bloom_args(4, 2, 1));
    let state = dict([("args".to_owned(), args)]);
    let path = folder.join("mp_rank_00_model_states.pt");
    fs::write(path, file(&state)).expect("written");
    folder
}
