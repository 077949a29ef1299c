//! The one table of floating types: their bits, and what others call them.
//!
//! A storage type is a row here and a variant of [`DType`]. Everything that depends on a type's
//! precision or range, and every file that spells it, reads its row.

use super::DType;

/// A floating type: a sign, an exponent and a mantissa with a hidden leading bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatFormat {
    /// The type.
    pub dtype: DType,
    /// Bits of the exponent.
    pub exponent_bits: u32,
    /// Bits of the mantissa that are stored.
    pub mantissa_bits: u32,
    /// Whether the largest exponent is left to infinities and NaN, as IEEE 754 does it. Where not
    /// (e4m3fn), only a mantissa of ones beside it is NaN, and there are no infinities.
    pub has_infinities: bool,
    /// What parity writes, after Megatron's options.
    pub name: &'static str,
    /// Other names, from command lines and configs.
    pub aliases: &'static [&'static str],
    /// Kind and size in numpy's array protocol, as ml_dtypes writes types that numpy lacks. A `V`
    /// says only the size: whose bits they are has to be declared.
    pub numpy: &'static str,
    /// torch's name, and that in a `config.json`.
    pub torch: &'static str,
    /// safetensors' name.
    pub safetensors: &'static str,
    /// The name in CUDA's `cudaDataType`.
    pub cuda: &'static str,
    /// The macro that the CUDA kernels are compiled with; `None` if they do not compute on it.
    pub kernel_macro: Option<&'static str>,
}

/// IEEE binary64.
pub(super) const F64: FloatFormat = FloatFormat {
    dtype: DType::F64,
    exponent_bits: 11,
    mantissa_bits: 52,
    has_infinities: true,
    name: "fp64",
    aliases: &["double"],
    numpy: "f8",
    torch: "float64",
    safetensors: "F64",
    cuda: "CUDA_R_64F",
    kernel_macro: None,
};

/// IEEE binary32.
pub(super) const F32: FloatFormat = FloatFormat {
    dtype: DType::F32,
    exponent_bits: 8,
    mantissa_bits: 23,
    has_infinities: true,
    name: "fp32",
    aliases: &["float"],
    numpy: "f4",
    torch: "float32",
    safetensors: "F32",
    cuda: "CUDA_R_32F",
    kernel_macro: Some("PARITY_F32"),
};

/// IEEE binary16.
pub(super) const F16: FloatFormat = FloatFormat {
    dtype: DType::F16,
    exponent_bits: 5,
    mantissa_bits: 10,
    has_infinities: true,
    name: "fp16",
    aliases: &["half"],
    numpy: "f2",
    torch: "float16",
    safetensors: "F16",
    cuda: "CUDA_R_16F",
    kernel_macro: Some("PARITY_F16"),
};

/// The upper half of a binary32.
pub(super) const BF16: FloatFormat = FloatFormat {
    dtype: DType::Bf16,
    exponent_bits: 8,
    mantissa_bits: 7,
    has_infinities: true,
    name: "bf16",
    aliases: &[],
    numpy: "V2",
    torch: "bfloat16",
    safetensors: "BF16",
    cuda: "CUDA_R_16BF",
    kernel_macro: Some("PARITY_BF16"),
};

/// OCP's E4M3, without infinities.
pub(super) const F8_E4M3: FloatFormat = FloatFormat {
    dtype: DType::F8E4M3,
    exponent_bits: 4,
    mantissa_bits: 3,
    has_infinities: false,
    name: "fp8_e4m3",
    aliases: &[],
    numpy: "V1",
    torch: "float8_e4m3fn",
    safetensors: "F8_E4M3",
    cuda: "CUDA_R_8F_E4M3",
    kernel_macro: None,
};

/// OCP's E5M2: the upper half of a binary16.
pub(super) const F8_E5M2: FloatFormat = FloatFormat {
    dtype: DType::F8E5M2,
    exponent_bits: 5,
    mantissa_bits: 2,
    has_infinities: true,
    name: "fp8_e5m2",
    aliases: &[],
    numpy: "f1",
    torch: "float8_e5m2",
    safetensors: "F8_E5M2",
    cuda: "CUDA_R_8F_E5M2",
    kernel_macro: None,
};

/// All rows.
pub(super) const FLOATS: [&FloatFormat; 6] = [&F64, &F32, &F16, &BF16, &F8_E4M3, &F8_E5M2];

impl FloatFormat {
    /// Bytes an element takes.
    pub const fn bytes(&self) -> usize {
        ((1 + self.exponent_bits + self.mantissa_bits) / 8) as usize
    }

    /// What is taken off the stored exponent.
    pub const fn bias(&self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// Half the spacing of numbers just above 1: 2^-24 of fp32, 2^-11 of fp16, 2^-8 of bf16.
    pub const fn unit_roundoff(&self) -> f64 {
        power_of_two(-(self.mantissa_bits as i32) - 1)
    }

    /// Least positive number with a hidden leading bit.
    pub const fn min_normal(&self) -> f64 {
        power_of_two(1 - self.bias())
    }

    /// Least positive number.
    pub const fn smallest_subnormal(&self) -> f64 {
        power_of_two(1 - self.bias() - self.mantissa_bits as i32)
    }

    /// Greatest finite number.
    pub const fn largest(&self) -> f64 {
        let infinity = ((1 << self.exponent_bits) - 1) << self.mantissa_bits;
        self.decode(if self.has_infinities {
            infinity - 1
        } else {
            // The last code is NaN.
            (infinity | ((1 << self.mantissa_bits) - 1)) - 1
        })
    }

    /// Spacing of the numbers around a magnitude.
    pub fn ulp(&self, magnitude: f64) -> f64 {
        // The power of two at or below: the number without its mantissa.
        let power = f64::from_bits(magnitude.max(self.min_normal()).to_bits() & (0x7ff << 52));
        2.0 * self.unit_roundoff() * power
    }

    /// The value that a code stands for, exactly.
    pub const fn decode(&self, code: u64) -> f64 {
        let last_exponent = (1 << self.exponent_bits) - 1;
        let exponent = (code >> self.mantissa_bits) & last_exponent;
        let hidden_bit = 1 << self.mantissa_bits;
        let mantissa = code & (hidden_bit - 1);
        let is_negative = code >> (self.exponent_bits + self.mantissa_bits) & 1 == 1;
        let magnitude = if exponent == last_exponent && self.has_infinities {
            if mantissa == 0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        } else if exponent == last_exponent && mantissa == hidden_bit - 1 {
            f64::NAN
        } else if exponent == 0 {
            mantissa as f64 * self.smallest_subnormal()
        } else {
            let place = exponent as i32 - self.bias() - self.mantissa_bits as i32;
            (hidden_bit | mantissa) as f64 * power_of_two(place)
        };
        if is_negative { -magnitude } else { magnitude }
    }

    /// Every spelling; the first is the one that is written.
    pub(super) fn spellings(&self) -> impl Iterator<Item = &'static str> {
        let names = [self.name, self.torch, self.safetensors];
        names.into_iter().chain(self.aliases.iter().copied())
    }
}

/// 2^`exponent`, of any exponent that fp64 holds.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(match exponent {
        -1022.. => ((exponent + 1023) as u64) << 52,
        _ => 1 << (exponent + 1074),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn same(ours: f64, theirs: f64) -> bool {
        ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan()
    }

    #[test]
    fn every_half_is_decoded_as_half_does_it() {
        for code in 0..=u16::MAX {
            assert!(same(F16.decode(code.into()), f16::from_bits(code).into()));
            assert!(same(BF16.decode(code.into()), bf16::from_bits(code).into()));
        }
    }

    /// torch.finfo's numbers.
    #[test]
    fn rows_have_the_limits_that_torch_gives() {
        let limits = |f: &FloatFormat| (f.largest(), f.min_normal(), 2.0 * f.unit_roundoff());
        assert_eq!(limits(&F64), (f64::MAX, f64::MIN_POSITIVE, f64::EPSILON));
        let single = [f32::MAX, f32::MIN_POSITIVE, f32::EPSILON].map(f64::from);
        assert_eq!(limits(&F32), single.into());
        assert_eq!(limits(&F16), (65504.0, 6.103515625e-05, 0.0009765625));
        assert_eq!(
            limits(&BF16),
            (3.3895313892515355e38, 1.1754943508222875e-38, 0.0078125)
        );
        assert_eq!(limits(&F8_E4M3), (448.0, 0.015625, 0.125));
        assert_eq!(limits(&F8_E5M2), (57344.0, 6.103515625e-05, 0.25));
        let least = FLOATS.map(FloatFormat::smallest_subnormal);
        let expected = [
            f64::from_bits(1),
            f32::from_bits(1).into(),
            5.960464477539063e-08,
            9.183549615799121e-41,
            0.001953125,
            1.52587890625e-05,
        ];
        assert_eq!(least, expected);
    }

    #[test]
    fn no_two_types_have_a_spelling_in_common() {
        let mut all: Vec<&str> = FLOATS.iter().flat_map(|f| f.spellings()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    proptest! {
        #[test]
        fn wide_types_are_decoded_as_the_machine_does_it(single in any::<u32>(), double in any::<u64>()) {
            prop_assert!(same(F32.decode(single.into()), f32::from_bits(single).into()));
            prop_assert!(same(F64.decode(double), f64::from_bits(double)));
        }

        #[test]
        fn an_ulp_leads_to_the_next_number(code in 0_u64..0x7bff) {
            let (value, next) = (F16.decode(code), F16.decode(code + 1));
            prop_assert_eq!(F16.ulp(value), next - value);
        }
    }
}
