//! Parts of a whole.

use std::fmt;
use std::str::FromStr;

/// A part of a whole, such as `90%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0.0);
    /// All of it.
    pub const ALL: Self = Self(1.0);

    /// Whether so many of so many are as much; of nothing, nothing is.
    pub fn is_met(self, part: usize, of: usize) -> bool {
        part as f64 >= self.0 * of as f64
    }
}

impl FromStr for Share {
    type Err = String;

    /// A percentage, `90%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text
            .strip_suffix('%')
            .and_then(|number| number.parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or("expected a percentage between 0% and 100%")?;
        Ok(Self(percent / 100.0))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", 100.0 * self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        let share = |text: &str| text.parse::<Share>();
        assert_eq!(share("100%"), Ok(Share::ALL));
        assert_eq!(share("0%"), Ok(Share::NONE));
        assert!(share("50%").unwrap().is_met(2, 4) && !share("50%").unwrap().is_met(1, 4));
        for text in ["", "%", "101%", "-1%", "nan%", "90", "0.9"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
