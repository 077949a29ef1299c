//! Latent attention, as configs describe it.

use crate::arch::{Checks, Settings};
use crate::error::Result;
use crate::op::RopeScaling;
use serde::{Deserialize, Serialize};

/// Keys and values, and queries if they have a rank, are made of a latent that is narrower than they are. A part of
/// every head of queries and keys is rotated; of keys all heads share it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentAttention {
    /// Width of the latent that queries are made of; `None` if they are projected at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<usize>,
    /// Width of the latent that keys and values are made of.
    pub key_value_rank: usize,
    /// Entries of a head of queries and keys that are not rotated.
    pub plain_dim: usize,
    /// Those that are.
    pub rotary_dim: usize,
    /// Entries of a head of values.
    pub value_dim: usize,
    /// Whether neighbours are rotated together, which are taken apart first.
    pub interleaved: bool,
    /// By what scores are multiplied twice besides: YaRN's factor.
    pub mscale: f64,
}

impl LatentAttention {
    /// Entries of a head of queries and keys.
    pub(super) fn head_dim(&self) -> usize {
        self.plain_dim.saturating_add(self.rotary_dim)
    }

    /// Checks sizes.
    pub(super) fn check(&self, checks: &Checks<'_>) -> Result<()> {
        if let Some(rank) = self.query_rank {
            checks.size("latent.query_rank", rank)?;
        }
        checks.size("latent.key_value_rank", self.key_value_rank)?;
        checks.size("latent.plain_dim", self.plain_dim)?;
        checks.size("latent.rotary_dim", self.rotary_dim)?;
        checks.size("latent.value_dim", self.value_dim)?;
        checks.positive("latent.mscale", self.mscale)
    }

    /// Reads megatron-core's settings, with the defaults of its `MLATransformerConfig`.
    pub(super) fn of_megatron(settings: &Settings<'_>) -> Result<Self> {
        let rotary = settings.text(&["rope_type"])?;
        let is_yarn = rotary.as_deref() != Some("rope");
        let factor = settings.number_or(&["rotary_scaling_factor"], 40.0)?;
        let all = settings.number_or(&["mscale_all_dim"], 0.0)?;
        Ok(Self {
            query_rank: settings.optional_size(&["q_lora_rank"])?,
            key_value_rank: settings.size_or(&["kv_lora_rank"], 512)?,
            plain_dim: settings.size_or(&["qk_head_dim"], 128)?,
            rotary_dim: settings.size_or(&["qk_pos_emb_head_dim"], 64)?,
            value_dim: settings.size_or(&["v_head_dim"], 128)?,
            interleaved: true,
            mscale: if is_yarn {
                RopeScaling::yarn_mscale(factor, all)
            } else {
                1.0
            },
        })
    }
}
