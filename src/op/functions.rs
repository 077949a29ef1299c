//! Transcendental functions of an fp32 argument, evaluated in fp64 so that their fp32 values are
//! correctly rounded but for one in about 10^7, and made of IEEE operations alone, so that they are
//! the same on every machine (a system's libm is not). Without branches: loops over them vectorise.

/// e^x. Relative error below 1e-15 before rounding; below e^-708 the fp32 value is 0 in any case.
///
/// Cody and Waite's reduction: `x = n·ln 2 + r` with |r| ≤ ln 2 / 2, ln 2 in two parts, and the
/// Taylor series of degree 13, whose remainder is below 5e-18.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1; // 32 significant bits: n·high is exact
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding 1.5·2^52 leaves round(n) in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const TAYLOR: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let x = x.clamp(-708.0, 709.0);
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        sum = sum * r + coefficient;
    }
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(1023);
    sum * f64::from_bits(exponent << 52)
}

/// tanh x as `(1 − e) / (1 + e)` with `e = exp(−2|x|)`; by its series where that would cancel.
/// Relative error below 1e-12 before rounding.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let e = exp(-2.0 * x.abs());
    let large = (1.0 - e) / (1.0 + e);
    let square = x * x;
    let small = x.abs() * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)));
    let magnitude = if x.abs() < 1e-3 { small } else { large };
    magnitude.copysign(x) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_values() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0) as f32, 0.0);
        assert!(exp(f64::NAN).is_nan());
        assert_eq!(tanh(0.0).to_bits(), 0.0_f32.to_bits());
        assert_eq!(tanh(-0.0).to_bits(), (-0.0_f32).to_bits());
        assert_eq!((tanh(100.0), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn exp_is_the_systems_to_roundoff(x in -700.0_f64..700.0) {
            prop_assert!((exp(x) / x.exp() - 1.0).abs() < 2e-15);
        }

        #[test]
        fn tanh_is_the_systems_to_half_an_ulp(x in prop_oneof![-10.0_f32..10.0, -2e-3_f32..2e-3]) {
            let exact = f64::from(x).tanh();
            prop_assert!((f64::from(tanh(x)) - exact).abs() <= exact.abs() * 0.5000001 * f64::from(f32::EPSILON));
        }
    }
}
