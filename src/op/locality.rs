//! Which elements of the inputs an element of a result depends on.

/// What an element of a result depends on, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locality {
    /// It is an element of an input: nothing is computed, so that there is nothing to compare that the
    /// input does not show.
    Copy,
    /// The same element of the inputs.
    Element,
    /// The same element of the inputs, and the entry of a parameter for its column.
    Column,
    /// The row it is in: a position of a sequence.
    Row,
    /// The row of its head, and which position that is.
    Head,
    /// Other positions of its sequence.
    Sequence,
}

impl Locality {
    /// Whether nothing is computed.
    pub fn is_copy(self) -> bool {
        self == Self::Copy
    }

    /// Whether columns (entries of the last axis) can be computed each for itself.
    pub fn is_by_column(self) -> bool {
        matches!(self, Self::Element | Self::Column)
    }

    /// Whether positions can be computed each for itself, wherever they are in a sequence.
    pub fn is_by_row(self) -> bool {
        matches!(self, Self::Element | Self::Column | Self::Row)
    }
}
