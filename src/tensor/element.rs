//! What the storage types can do: be widened, and be told apart by ulp.

use super::DType;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;

/// A type whose values can lie in a [`Tensor`](super::Tensor).
pub trait Element: Pod + PartialEq + Send + Sync {
    /// The storage type.
    const DTYPE: DType;

    /// The value, exactly (an `i64` beyond 2^53 is rounded to nearest even).
    fn to_f64(self) -> f64;

    /// Holds the distance of any two values.
    type Ulps: Copy + Default + Ord + Send + Into<u64>;

    /// How many steps to a neighbouring value of the type lead from one value to the other; −0 and
    /// +0 are the same place. Of NaNs it means nothing.
    fn ulps(self, other: Self) -> Self::Ulps;
}

/// A floating type, in which a model can be stored.
pub trait Float: Element {
    /// The value as fp32; exact for the half types.
    fn to_f32(self) -> f32;

    /// Rounds an fp32 value to this type, to nearest even; beyond the largest value gives ±inf.
    fn from_f32(value: f32) -> Self;

    /// Rounds an fp64 value to this type *once*, to nearest even: never through fp32, which would
    /// round twice. Not named as `half`'s own conversion is, which a macro's type alias would prefer:
    /// that one drops the low half of an fp64, and takes what is beyond a tie for the tie.
    fn nearest(value: f64) -> Self;

    /// The values as fp32; borrowed if they are.
    fn widened(values: &[Self]) -> Cow<'_, [f32]>;
}

/// Distance of two floating values by their places in the ordered list of all values: positive
/// bit patterns are ordered already, negative ones in reverse.
macro_rules! float_ulps {
    ($int:ty) => {
        #[inline(always)]
        fn ulps(self, other: Self) -> Self::Ulps {
            let [place, other] = [self, other].map(|value| {
                let bits = value.to_bits() as $int;
                let magnitude = bits & <$int>::MAX;
                if bits < 0 { -magnitude } else { magnitude }
            });
            place.abs_diff(other).into()
        }
    };
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    type Ulps = u64;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    float_ulps!(i64);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    type Ulps = u32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.into()
    }
    float_ulps!(i32);
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    type Ulps = u32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        Float::to_f32(self).into()
    }
    float_ulps!(i16);
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
    type Ulps = u32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        Float::to_f32(self).into()
    }
    float_ulps!(i16);
}

macro_rules! integer_element {
    ($type:ty, $dtype:ident, $ulps:ty) => {
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            type Ulps = $ulps;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn ulps(self, other: Self) -> $ulps {
                self.abs_diff(other).into()
            }
        }
    };
}
integer_element!(i64, I64, u64);
integer_element!(i32, I32, u32);
integer_element!(i16, I16, u32);
integer_element!(i8, I8, u32);
integer_element!(u8, U8, u32);

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn nearest(value: f64) -> Self {
        value as f32
    }
    fn widened(values: &[Self]) -> Cow<'_, [f32]> {
        values.into()
    }
}

impl Float for f16 {
    /// Without a branch and without asking for processor features, so that loops vectorise: the
    /// half's exponent and mantissa moved into place are its magnitude times 2^-112, exactly.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
        let special = if bits & 0x7c00 == 0x7c00 {
            0x7f80_0000
        } else {
            0
        };
        f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn nearest(value: f64) -> Self {
        f16::from_f32(round_to_odd(value))
    }
    fn widened(values: &[Self]) -> Cow<'_, [f32]> {
        let mut wide = vec![0.0; values.len()];
        values.convert_to_f32_slice(&mut wide);
        wide.into()
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline(always)]
    fn nearest(value: f64) -> Self {
        bf16::from_f32(round_to_odd(value))
    }
    fn widened(values: &[Self]) -> Cow<'_, [f32]> {
        values.iter().map(|value| Float::to_f32(*value)).collect()
    }
}

/// Rounds fp64 to fp32 so that a further rounding to a half type gives the correctly rounded half:
/// an inexact value goes to the neighbour whose last bit is odd (Boldo & Melquiond 2008,
/// "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd"; fp32 has
/// well over the two extra bits that the theorem asks for).
#[inline(always)]
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || value.is_nan() || nearest.to_bits() & 1 == 1 {
        // Overflow to infinity is even and handled below: the largest finite fp32 is odd.
        return nearest;
    }
    // The nearest is even: step to the neighbour on the other side of the value, which is odd.
    let away = (back.abs() < value.abs()) as u32;
    f32::from_bits(nearest.to_bits() + away - (1 - away))
}

/// Runs `$body` with `$T` standing for the element type of `$dtype`; `Bool` is stored as `u8`.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {{
        use $crate::tensor::DType::*;
        match $dtype {
            F64 => {
                type $T = f64;
                $body
            }
            F32 => {
                type $T = f32;
                $body
            }
            F16 => {
                type $T = half::f16;
                $body
            }
            Bf16 => {
                type $T = half::bf16;
                $body
            }
            F8E4M3 => {
                type $T = $crate::tensor::E4M3;
                $body
            }
            F8E5M2 => {
                type $T = $crate::tensor::E5M2;
                $body
            }
            I64 => {
                type $T = i64;
                $body
            }
            I32 => {
                type $T = i32;
                $body
            }
            I16 => {
                type $T = i16;
                $body
            }
            I8 => {
                type $T = i8;
                $body
            }
            U8 | Bool => {
                type $T = u8;
                $body
            }
        }
    }};
}
pub(crate) use with_element;

/// Runs `$body` with `$T` standing for the type of a model stored in `$dtype`, or `$otherwise` if
/// no model is stored so.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr, else $otherwise:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::tensor::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::tensor::DType::F64
            | $crate::tensor::DType::F8E4M3
            | $crate::tensor::DType::F8E5M2
            | $crate::tensor::DType::I64
            | $crate::tensor::DType::I32
            | $crate::tensor::DType::I16
            | $crate::tensor::DType::I8
            | $crate::tensor::DType::U8
            | $crate::tensor::DType::Bool => $otherwise,
        }
    };
}
pub(crate) use with_float;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ulp<T: Element>(a: T, b: T) -> u64 {
        a.ulps(b).into()
    }

    #[test]
    fn every_fp16_is_widened_as_half_does_it() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let (ours, theirs) = (Float::to_f32(half), half.to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }

    #[test]
    fn neighbours_are_one_ulp_apart() {
        assert_eq!(ulp(1.0_f32, 1.0_f32.next_up()), 1);
        assert_eq!(ulp(-0.0_f32, 0.0_f32), 0);
        assert_eq!(ulp(0.0_f32, 0.0_f32.next_down()), 1);
        assert_eq!(ulp(bf16::from_f32(1.0), bf16::from_bits(0x3f81)), 1);
        assert_eq!(ulp(f64::MAX, f64::INFINITY), 1);
        assert_eq!(ulp(-1_i64, 1), 2);
    }

    #[test]
    fn rounding_from_f64_rounds_once() {
        // Halfway between two bf16 values plus a hair that fp32 cannot hold: through fp32 it would
        // be a tie and go to even, down.
        let tie = 1.0 + 0.5_f64.powi(8);
        let value = tie + 0.5_f64.powi(40);
        assert_eq!(bf16::from_f32(value as f32), bf16::from_f32(1.0));
        assert_eq!(<bf16 as Float>::nearest(value), bf16::from_bits(0x3f81));
        assert_eq!(<bf16 as Float>::nearest(tie), bf16::from_f32(1.0));
        assert_eq!(<f16 as Float>::nearest(1e300), f16::INFINITY);
        assert_eq!(<f16 as Float>::nearest(-1e-300), f16::NEG_ZERO);
        assert!(<bf16 as Float>::nearest(f64::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn ulp_distance_is_symmetric_and_zero_iff_equal(a in any::<u16>(), b in any::<u16>()) {
            let (x, y) = (bf16::from_bits(a), bf16::from_bits(b));
            prop_assume!(!x.is_nan() && !y.is_nan());
            prop_assert_eq!(ulp(x, y), ulp(y, x));
            prop_assert_eq!(ulp(x, y) == 0, x == y);
            let (x, y) = (f16::from_bits(a), f16::from_bits(b));
            prop_assume!(!x.is_nan() && !y.is_nan());
            prop_assert_eq!(ulp(x, y), ulp(y, x));
            prop_assert_eq!(ulp(x, y) == 0, x == y);
        }

        #[test]
        fn ulp_distance_of_wide_types(a in any::<f32>(), b in any::<f32>(), c in any::<f64>(), d in any::<f64>()) {
            prop_assert_eq!(ulp(a, b), ulp(b, a));
            prop_assert_eq!(ulp(a, b) == 0, a == b);
            prop_assert_eq!(ulp(c, d), ulp(d, c));
            prop_assert_eq!(ulp(c, d) == 0, c == d);
        }

        #[test]
        fn a_half_survives_widening(bits in any::<u16>()) {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            prop_assert!(b.is_nan() || <bf16 as Float>::nearest(b.to_f64()) == b);
            prop_assert!(h.is_nan() || <f16 as Float>::nearest(h.to_f64()) == h);
        }

        #[test]
        fn rounding_from_f64_goes_to_a_nearest_value(value in -7e4_f64..7e4) {
            let got = <f16 as Float>::nearest(value);
            prop_assume!(got.is_finite());
            let error = (got.to_f64() - value).abs();
            for other in [f16::from_bits(got.to_bits() + 1), f16::from_bits(got.to_bits().wrapping_sub(1))] {
                if other.is_finite() {
                    prop_assert!(error <= (other.to_f64() - value).abs());
                }
            }
        }
    }
}
