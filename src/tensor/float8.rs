//! The two 8-bit floating types: stored and widened, never computed in.

use super::float::{F8_E4M3, F8_E5M2, FloatFormat};
use super::{DType, Element};
use bytemuck::{Pod, Zeroable};

/// The value of every code.
const fn values(format: &FloatFormat) -> [f64; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = format.decode(code as u64);
        code += 1;
    }
    values
}

macro_rules! float8 {
    ($(#[$doc:meta])* $name:ident, $format:ident, $dtype:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name(u8);

        impl $name {
            /// The value of this code.
            pub const fn from_bits(code: u8) -> Self {
                Self(code)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.to_f64() == other.to_f64()
            }
        }

        impl Element for $name {
            const DTYPE: DType = DType::$dtype;
            type Ulps = u32;

            #[inline(always)]
            fn to_f64(self) -> f64 {
                static VALUES: [f64; 256] = values(&$format);
                VALUES[usize::from(self.0)]
            }

            #[inline(always)]
            fn ulps(self, other: Self) -> u32 {
                let [place, other] = [self, other].map(|value| {
                    let magnitude = i16::from(value.0 & 0x7f);
                    if value.0 & 0x80 == 0 { magnitude } else { -magnitude }
                });
                place.abs_diff(other).into()
            }
        }
    };
}

float8! {
    /// torch's `float8_e4m3fn`: up to 448, one NaN a sign, no infinities.
    E4M3, F8_E4M3, F8E4M3
}
float8! {
    /// torch's `float8_e5m2`: the upper half of an fp16.
    E5M2, F8_E5M2, F8E5M2
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// What torch gives for `torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()`.
    #[test]
    fn e4m3_is_torchs() {
        let value = |code: u8| E4M3::from_bits(code).to_f64();
        for code in 0..=u8::MAX {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            let magnitude = match (exponent, code & 0x7f) {
                (_, 0x7f) => f64::NAN,
                (0, _) => mantissa * 2_f64.powi(-9),
                _ => (1.0 + mantissa / 8.0) * 2_f64.powi(exponent - 7),
            };
            let expected = magnitude.copysign(if code & 0x80 == 0 { 1.0 } else { -1.0 });
            let same = value(code).to_bits() == expected.to_bits();
            assert!(same || expected.is_nan() && value(code).is_nan(), "{code}");
            assert!(!value(code).is_infinite());
        }
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
        let known = [0x01, 0x07, 0x08, 0x38, 0x7e, 0xfe].map(value);
        assert_eq!(
            known,
            [0.001953125, 0.013671875, 0.015625, 1.0, 448.0, -448.0]
        );
    }

    #[test]
    fn e5m2_is_the_upper_half_of_fp16() {
        let value = |code: u8| E5M2::from_bits(code).to_f64();
        for code in 0..=u8::MAX {
            let expected = f16::from_bits(u16::from(code) << 8).to_f64();
            let same = value(code).to_bits() == expected.to_bits();
            assert!(same || expected.is_nan() && value(code).is_nan(), "{code}");
        }
        let known = [0x01, 0x7b, 0x7c, 0xfc].map(value);
        let infinity = f64::INFINITY;
        assert_eq!(known, [1.52587890625e-05, 57344.0, infinity, -infinity]);
    }

    #[test]
    fn neighbours_are_one_ulp_apart() {
        let ulps = |a: u8, b: u8| E4M3::from_bits(a).ulps(E4M3::from_bits(b));
        assert_eq!(ulps(0x00, 0x80), 0);
        assert_eq!(ulps(0x01, 0x81), 2);
        assert_eq!(ulps(0x7e, 0xfe), 252);
    }
}
