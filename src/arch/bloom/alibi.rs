//! ALiBi slopes (Press et al. 2022): head `i` of `n` is biased by `2^(−8i/n)` times the key's
//! position; for other head counts than powers of two, a second, interleaved series fills up.
//!
//! The two frameworks compute the same series in different precision, which moves slopes of
//! head counts beyond 8 by an fp32 ulp, and bf16 biases of far positions with them.

/// As transformers computes them: the base rounded to fp32, its powers in fp32.
pub(super) fn transformers(heads: usize) -> Vec<f32> {
    slopes(heads, |base, exponent| {
        f64::from(base as f32).powi(exponent) as f32
    })
}

/// As Megatron computes them: in double precision, rounded to fp32 at the end.
pub(super) fn megatron(heads: usize) -> Vec<f32> {
    slopes(heads, |base, exponent| base.powi(exponent) as f32)
}

fn slopes(heads: usize, power: impl Fn(f64, i32) -> f32) -> Vec<f32> {
    // The largest power of two that is not above the head count.
    let whole = 1_usize << heads.max(1).ilog2();
    let base = |heads: usize| 2_f64.powf(-(2_f64.powf(3.0 - (heads as f64).log2())));
    let first = (1..=whole).map(|i| power(base(whole), i as i32));
    let odd = (1..).step_by(2).map(|i| power(base(2 * whole), i));
    first.chain(odd.take(heads - whole)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_one_geometric_series() {
        let expected: Vec<f32> = (1..=8).map(|i| 0.5_f32.powi(i)).collect();
        assert_eq!(transformers(8), expected);
        assert_eq!(megatron(8), expected);
        assert_eq!(megatron(1), [2_f32.powi(-8)]);
    }

    #[test]
    fn other_head_counts_interleave_a_second_series() {
        // Figures of the ALiBi paper's own code for six heads.
        let expected = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        assert_eq!(megatron(6), expected);
        assert_eq!(transformers(6), expected);
        assert_eq!(megatron(112).len(), 112);
    }

    #[test]
    fn the_two_precisions_agree_to_fp32_roundoff() {
        for heads in [16, 20, 32, 112] {
            for (a, b) in transformers(heads).iter().zip(megatron(heads)) {
                // An exponent up to 64 multiplies the base's fp32 error.
                approx::assert_relative_eq!(*a, b, max_relative = 64.0 * f32::EPSILON);
            }
        }
    }
}
