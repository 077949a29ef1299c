//! What a pickle builds: numbered values.

use super::Node;
use super::machine::{self, Fault};

/// The number of a value in its pickle. Values refer to each other by number, so a value can be
/// reached in many ways without being copied, and dropping never recurses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u32);

/// A value as the pickle describes it. Nothing has been called to make it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Beyond 64 bits: two's complement, little-endian.
    Long(Box<[u8]>),
    Float(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, by the texts that name its module and itself.
    Global(Id, Id),
    /// What calling a class or function on arguments would give.
    Object(Box<Object>),
    /// A reference to something outside the pickle; a storage in torch's files.
    Persistent(Id),
}

/// A call that was not made, and what would have been done to its result.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) class: Id,
    pub(super) args: Id,
    /// What `__setstate__` would have been given; attributes, as a rule.
    pub(super) state: Option<Id>,
    /// Entries set on it, if it is a mapping.
    pub(super) entries: Vec<(Id, Id)>,
    /// Elements appended to it, if it is a sequence or a set.
    pub(super) elements: Vec<Id>,
}

/// A pickle that has been read.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

/// Reads the pickle at the start of `bytes` and looks at the value it stands for. `None` if it is
/// no pickle.
pub fn read_pickle<T>(bytes: &[u8], look: impl FnOnce(Node<'_>) -> T) -> Option<T> {
    let (pickle, _) = Pickle::read(bytes).ok()?;
    Some(look(pickle.root()))
}

impl Pickle {
    /// Reads the pickle at the start of `bytes`. Returns how long it is, too.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, usize), Fault> {
        machine::run(bytes)
    }

    /// The value that the pickle stands for.
    pub(crate) fn root(&self) -> Node<'_> {
        self.node(self.root)
    }

    /// Every value.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.values.len()).map(|index| self.node(Id(index as u32)))
    }

    fn node(&self, id: Id) -> Node<'_> {
        Node { pickle: self, id }
    }
}
