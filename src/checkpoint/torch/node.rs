//! Looking at a pickle's values.

use super::value::{Id, Object, Pickle, Value};
use std::fmt;

/// One value of a pickle. Questions that do not suit it are answered with `None`.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub(super) pickle: &'a Pickle,
    pub(crate) id: Id,
}

/// Most axes of a tensor, as of numpy's arrays.
const MOST_AXES: usize = 64;

impl<'a> Node<'a> {
    fn value(self) -> &'a Value {
        &self.pickle.values[self.id.0 as usize]
    }

    /// Another value of the same pickle.
    pub(crate) fn at(self, id: Id) -> Self {
        Self { id, ..self }
    }

    fn object(self) -> Option<&'a Object> {
        match self.value() {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.value(), Value::None)
    }

    /// A text.
    pub fn text(self) -> Option<&'a str> {
        match self.value() {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer of 64 bits.
    pub fn int(self) -> Option<i64> {
        match self.value() {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A number.
    pub fn float(self) -> Option<f64> {
        match self.value() {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// A truth value.
    pub fn boolean(self) -> Option<bool> {
        match self.value() {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Module and name of a class or function.
    pub fn global(self) -> Option<(&'a str, &'a str)> {
        match self.value() {
            Value::Global(module, name) => Some((self.at(*module).text()?, self.at(*name).text()?)),
            _ => None,
        }
    }

    /// Module and name of what an object would have been made by.
    pub fn class(self) -> Option<(&'a str, &'a str)> {
        self.at(self.object()?.class).global()
    }

    /// What an object would have been made from; nothing for other values.
    pub fn args(self) -> impl Iterator<Item = Self> {
        let args = self.object().map(|object| self.at(object.args));
        args.and_then(Self::elements).into_iter().flatten()
    }

    /// What a reference to something outside the pickle says.
    pub(super) fn persistent(self) -> Option<Self> {
        match self.value() {
            Value::Persistent(id) => Some(self.at(*id)),
            _ => None,
        }
    }

    /// The elements of a list, tuple or set.
    pub fn elements(self) -> Option<impl Iterator<Item = Self> + 'a> {
        let ids: &'a [Id] = match self.value() {
            Value::List(ids) | Value::Set(ids) => ids,
            Value::Tuple(ids) => ids,
            _ => return None,
        };
        Some(ids.iter().map(move |id| self.at(*id)))
    }

    /// Sizes or offsets: integers not below 0, in a tuple, a list or a `torch.Size`; of as many axes as a tensor has.
    pub fn sizes(self) -> Option<Vec<usize>> {
        let elements = match self.class() {
            Some(("torch", "Size")) => self.args().next()?,
            Some(_) => return None,
            None => self,
        };
        let size = |node: Self| usize::try_from(node.int()?).ok();
        let elements = elements.elements()?;
        // One long tuple may be named by every tensor.
        (elements.size_hint().0 <= MOST_AXES).then(|| elements.map(size).collect())?
    }

    /// The entries of a dictionary, or those that were set on an object such as an `OrderedDict`,
    /// in order.
    pub fn entries(self) -> Option<impl Iterator<Item = (Self, Self)> + 'a> {
        let entries: &'a [(Id, Id)] = match self.value() {
            Value::Dict(entries) => entries,
            Value::Object(object) => &object.entries,
            _ => return None,
        };
        Some(
            entries
                .iter()
                .map(move |(key, value)| (self.at(*key), self.at(*value))),
        )
    }

    /// The value under a key; the last one if it was set twice.
    pub fn get(self, key: &str) -> Option<Self> {
        let entries = self.entries()?;
        let found = entries.filter(|(name, _)| name.text() == Some(key));
        found.last().map(|(_, value)| value)
    }

    /// What an object's `__setstate__` would have been given.
    pub fn state(self) -> Option<Self> {
        Some(self.at(self.object()?.state?))
    }

    /// The attributes of an object.
    pub fn fields(self) -> Option<impl Iterator<Item = (Self, Self)> + 'a> {
        self.state()?.entries()
    }

    /// An attribute of an object.
    pub fn field(self, name: &str) -> Option<Self> {
        self.state()?.get(name)
    }

    /// The value as Python would print it, roughly; cut short where it is deep or long. Give the
    /// length at which to cut as the precision: `{:.80}`.
    pub fn shown(self) -> impl fmt::Display + 'a {
        Shown(self)
    }
}

struct Shown<'a>(Node<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = f.precision().unwrap_or(80);
        let mut text = String::new();
        show(self.0, 8, limit, &mut text);
        if text.chars().count() > limit {
            text = text.chars().take(limit).collect::<String>() + "…";
        }
        f.pad(&text)
    }
}

/// Appends a value to `text` until that has `limit` bytes, or so.
fn show(node: Node<'_>, depth: usize, limit: usize, text: &mut String) {
    if text.len() > limit || depth == 0 {
        text.push('…');
        return;
    }
    let list = |nodes: &mut dyn Iterator<Item = Node<'_>>, text: &mut String| {
        for (index, node) in nodes.enumerate() {
            if text.len() > limit {
                break;
            }
            if index > 0 {
                text.push_str(", ");
            }
            show(node, depth - 1, limit, text);
        }
    };
    let map = |nodes: &mut dyn Iterator<Item = (Node<'_>, Node<'_>)>, text: &mut String| {
        for (index, (key, value)) in nodes.enumerate() {
            if text.len() > limit {
                break;
            }
            if index > 0 {
                text.push_str(", ");
            }
            show(key, depth - 1, limit, text);
            text.push_str(": ");
            show(value, depth - 1, limit, text);
        }
    };
    match node.value() {
        Value::None => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Int(value) => text.push_str(&value.to_string()),
        Value::Long(bytes) => text.push_str(&format!("an integer of {} bytes", bytes.len())),
        Value::Float(value) => text.push_str(&format!("{value:?}")),
        Value::Text(value) => {
            let shown: String = value.chars().take(limit).collect();
            text.push_str(&format!("{shown:?}"));
        }
        Value::Bytes(bytes) => text.push_str(&format!("{} bytes", bytes.len())),
        Value::Global(..) => {
            let (module, name) = node.global().unwrap_or_default();
            let shown: String = module
                .chars()
                .chain(".".chars())
                .chain(name.chars())
                .take(limit)
                .collect();
            text.push_str(&shown);
        }
        Value::Persistent(_) => text.push_str("a storage"),
        Value::List(_) | Value::Set(_) | Value::Tuple(_) => {
            text.push('[');
            if let Some(mut elements) = node.elements() {
                list(&mut elements, text);
            }
            text.push(']');
        }
        Value::Dict(_) => {
            text.push('{');
            if let Some(mut entries) = node.entries() {
                map(&mut entries, text);
            }
            text.push('}');
        }
        Value::Object(object) => {
            show(node.at(object.class), depth - 1, limit, text);
            text.push('(');
            list(&mut node.args(), text);
            text.push(')');
        }
    }
}
