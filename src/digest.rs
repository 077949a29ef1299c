//! Digests of files: BLAKE3 and SHA-256.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// What a file is hashed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// BLAKE3, as `b3sum` prints it: as fast as reading, on several threads.
    Blake3,
    /// SHA-256, as `sha256sum` prints it.
    Sha256,
}

/// A digest with its algorithm, written `blake3:` or `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 32],
}

/// From here on, several threads hash faster than one.
const PARALLEL: usize = 1 << 20;

impl Algorithm {
    const ALL: [Self; 2] = [Self::Blake3, Self::Sha256];

    /// Its name in a digest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }

    /// The digest of some bytes.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let bytes = match self {
            Self::Blake3 if bytes.len() >= PARALLEL => {
                blake3::Hasher::new().update_rayon(bytes).finalize().into()
            }
            Self::Blake3 => blake3::hash(bytes).into(),
            Self::Sha256 => Sha256::digest(bytes).into(),
        };
        Digest {
            algorithm: self,
            bytes,
        }
    }
}

impl Digest {
    /// From 64 lower-case hexadecimal digits; `None` if they are none.
    pub(crate) fn from_hex(algorithm: Algorithm, digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let pairs = digits.as_bytes().chunks_exact(2);
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self { algorithm, bytes })
    }

    /// What it was made with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// In lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

/// A text that is no digest.
#[derive(Debug, thiserror::Error)]
#[error("unknown digest {0:?} (known: blake3:… and sha256:… of 64 hexadecimal digits)")]
pub struct NoDigest(String);

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let (name, digits) = text.split_once(':').unwrap_or(("", text));
        let known = Algorithm::ALL
            .into_iter()
            .find(|known| known.name() == name);
        known
            .and_then(|algorithm| Self::from_hex(algorithm, digits))
            .ok_or_else(|| NoDigest(text.chars().take(100).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The SHA-256 of some bytes, in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Algorithm::Sha256.digest(bytes).hex()
}

/// The SHA-256 of several parts, one after the other.
pub(crate) fn sha256_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    parts.into_iter().for_each(|part| digest.update(part));
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digests_are_those_of_the_usual_tools() {
        let of = |algorithm: Algorithm| algorithm.digest(b"").to_string();
        assert_eq!(
            of(Algorithm::Blake3),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            of(Algorithm::Sha256),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn several_threads_give_the_digest_that_one_gives() {
        let bytes: Vec<u8> = (0..PARALLEL + 1).map(|i| ((i * i) >> 7) as u8).collect();
        let alone: [u8; 32] = blake3::hash(&bytes).into();
        assert_eq!(Algorithm::Blake3.digest(&bytes).hex(), hex(&alone));
    }

    proptest! {
        #[test]
        fn a_digest_is_read_back_and_a_garbled_one_is_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            blake3 in any::<bool>(),
            at in 0_usize..71,
            other in any::<char>(),
        ) {
            let algorithm = if blake3 { Algorithm::Blake3 } else { Algorithm::Sha256 };
            let digest = algorithm.digest(&bytes);
            let text = digest.to_string();
            prop_assert_eq!(text.parse::<Digest>().unwrap(), digest);
            let mut garbled: Vec<char> = text.chars().collect();
            garbled[at] = other;
            let garbled: String = garbled.into_iter().collect();
            match garbled.parse::<Digest>() {
                Ok(read) => prop_assert_eq!(read.to_string(), garbled),
                Err(refused) => prop_assert!(refused.to_string().contains("unknown digest")),
            }
            prop_assert!(text[..text.len() - 1].parse::<Digest>().is_err());
            prop_assert!(text.to_uppercase().parse::<Digest>().is_err());
        }
    }
}
