//! megatron-core's names of tensors.

/// What layers' names begin with.
pub(super) const LAYERS: &str = "decoder.layers.";

/// Transformer Engine's linear layers have the norm before them fused in, and distributed
/// checkpoints name norms so even where they were not: fused name, name without.
const FUSED_NORMS: [(&str, &str); 4] = [
    ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
    ("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."),
    (
        "self_attention.linear_q_up_proj.layer_norm_",
        "self_attention.q_layernorm.",
    ),
    (
        "self_attention.linear_kv_up_proj.layer_norm_",
        "self_attention.kv_layernorm.",
    ),
];

/// The name that a tensor has without Transformer Engine.
pub(super) fn canonical(name: &str) -> String {
    for (fused, plain) in FUSED_NORMS {
        if let Some((before, after)) = name.split_once(fused) {
            return format!("{before}{plain}{after}");
        }
    }
    name.to_owned()
}

/// Whether this is the state of a quantisation recipe; empty for other runs.
pub(super) fn is_extra_state(name: &str) -> bool {
    name.contains("._extra_state")
}

/// The number of a rank, a pipeline stage or a layer in a file's name; the sizes of no machine need
/// more than six digits.
pub(super) fn number(digits: &str) -> Option<usize> {
    let plain = digits.len() <= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// `decoder.layers.7.mlp.linear_fc1.weight` → 7 and `mlp.linear_fc1.weight`.
pub(super) fn layer_and_rest(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix(LAYERS)?.split_once('.')?;
    Some((number(layer)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_norms_have_the_names_of_plain_ones() {
        let plain = |name: &str| canonical(&format!("decoder.layers.3.{name}"));
        assert_eq!(
            plain("self_attention.linear_qkv.layer_norm_weight"),
            "decoder.layers.3.input_layernorm.weight"
        );
        assert_eq!(
            plain("mlp.linear_fc1.layer_norm_bias"),
            "decoder.layers.3.pre_mlp_layernorm.bias"
        );
        assert_eq!(
            plain("mlp.linear_fc1.weight"),
            "decoder.layers.3.mlp.linear_fc1.weight"
        );
    }

    #[test]
    fn layers_are_counted() {
        assert_eq!(
            layer_and_rest("decoder.layers.12.mlp.x"),
            Some((12, "mlp.x"))
        );
        assert_eq!(layer_and_rest("decoder.layers.mlp.x"), None);
        assert_eq!(layer_and_rest("decoder.final_layernorm.weight"), None);
    }
}
