//! How a model's attention is divided into heads.

/// The heads of every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// How many heads queries have.
    pub(crate) queries: usize,
    /// How many keys and values have; a divisor of `queries`.
    pub(crate) keys: usize,
    /// Entries of a head.
    pub(crate) dim: usize,
}

impl Heads {
    /// How many heads of queries share one of keys.
    pub(crate) fn per_key(self) -> usize {
        self.queries / self.keys.max(1)
    }
}
