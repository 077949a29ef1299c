//! Megatron's checkpoints: three ways to lay tensor-parallel shards out on disk, one way to ask for
//! them.
//!
//! | format | folder | written by |
//! |---|---|---|
//! | [`Format::DeepSpeed`] | `global_stepN/layer_LL-model_TT-model_states.pt` | Megatron-DeepSpeed's pipeline |
//! | [`Format::Classic`] | `iter_N/mp_rank_TT[_PPP]/model_optim_rng.pt` | Megatron-LM, `--ckpt-format torch` |
//! | [`Format::TorchDist`] | `iter_N/.metadata`, `*.distcp` | Megatron-LM, `--ckpt-format torch_dist` |
//!
//! `TT` is the tensor-parallel rank, `PPP` the pipeline's. Whatever the format, a tensor has one
//! name, Megatron's own with layers counted through all pipeline stages: `layers.7.…` for
//! Megatron-DeepSpeed, `decoder.layers.7.…` for megatron-core. Norms that Transformer Engine fuses
//! into the next linear layer have the name they have without it.

mod args;
mod checkpoint;
mod classic;
mod deepspeed;
mod names;
mod shards;
mod torch_dist;

pub use args::{Arg, Args};
pub use checkpoint::{Format, MegatronCheckpoint};
pub use shards::{Joined, Listed, Partition};
