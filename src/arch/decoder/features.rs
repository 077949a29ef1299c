//! What tells decoders' architectures from one another.

use crate::arch::Settings;
use crate::arch::megatron_core::EXPERTS;
use crate::checkpoint::megatron::{Args, MegatronCheckpoint};
use crate::error::Result;

/// What a decoder has that others lack, as tensors and settings show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::arch) struct Features {
    /// Queries, keys and values have biases, other layers none.
    pub(in crate::arch) qkv_bias: bool,
    /// The heads of queries and keys have norms.
    pub(in crate::arch) qk_norm: bool,
    /// Experts are in the place of MLPs.
    pub(in crate::arch) experts: bool,
    /// Keys and values are made of a latent.
    pub(in crate::arch) latent: bool,
}

impl Features {
    /// None: a Llama.
    pub(in crate::arch) const NONE: Self = Self {
        qkv_bias: false,
        qk_norm: false,
        experts: false,
        latent: false,
    };

    /// Those of a checkpoint.
    pub(super) fn of_checkpoint(checkpoint: &MegatronCheckpoint) -> Self {
        let has = |ending: &str| {
            let mut tensors = checkpoint.tensors();
            tensors.any(|listed| listed.name.ends_with(ending))
        };
        let latent = has(".self_attention.linear_kv_down_proj.weight");
        Self {
            latent,
            qkv_bias: has(".self_attention.linear_qkv.bias")
                && !has(".self_attention.linear_proj.bias"),
            // Those of a latent are no norms of heads.
            qk_norm: has(".self_attention.q_layernorm.weight") && !latent,
            experts: has(".mlp.router.weight"),
        }
    }

    /// Those that megatron-core's arguments name.
    pub(super) fn of_dump(settings: &Settings<'_>) -> Result<Self> {
        let latent = settings.flag_or(&["multi_latent_attention"], false)?;
        let qk_norm = settings.flag_or(&["qk_layernorm"], false)?;
        if latent && !qk_norm {
            return Err(settings.fault("qk_layernorm", "true, as DeepSeek-V3 has it", qk_norm));
        }
        Ok(Self {
            latent,
            qkv_bias: settings.flag_or(&["add_qkv_bias"], false)?,
            qk_norm: qk_norm && !latent,
            experts: settings.optional_size(&EXPERTS)?.is_some(),
        })
    }

    /// Checks that a checkpoint's arguments, where they say so, name the same.
    pub(super) fn agree_with(self, args: &Args) -> Result<()> {
        for (name, has) in [
            ("add_qkv_bias", self.qkv_bias),
            ("qk_layernorm", self.qk_norm || self.latent),
            ("multi_latent_attention", self.latent),
        ] {
            if args.flag_or(name, has)? != has {
                let expected = format!("{has}, as the tensors show");
                return Err(args.fault(name, &expected));
            }
        }
        Ok(())
    }

    /// Whether they are those of an architecture.
    pub(super) fn are(self, architectures: Self) -> bool {
        self == architectures
    }
}
