//! Megatron's arguments, as a checkpoint keeps them.

use crate::checkpoint::torch::Node;
use crate::error::{BadInput, Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest text believed to be an argument's; a longer one is shown cut, and is none that is known.
const MAX_TEXT: usize = 1 << 16;
/// Largest size believed; products of two or three of them must still be numbers.
const MAX_SIZE: usize = 1 << 28;
/// Most layers believed: recipes are made before tensors are looked for.
const MAX_LAYERS: usize = 10_000;

/// The arguments of the training run by name, and where they come from.
#[derive(Clone, Debug)]
pub struct Args {
    origin: PathBuf,
    values: BTreeMap<String, Arg>,
    /// Whether the checkpoint holds any of its own.
    are_saved: bool,
    /// Those that the user has given another value, with the checkpoint's own.
    overruled: BTreeMap<String, Arg>,
    /// Those that the user knows to be without effect.
    dismissed: BTreeMap<String, Arg>,
}

/// An argument's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// `None`.
    None,
    /// A flag.
    Flag(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
    /// What has no meaning outside Python, as it would be shown: a class, an enumeration, a list.
    Other(String),
}

impl Args {
    /// No arguments; `origin` is the file that might have held them.
    pub(super) fn none(origin: &Path) -> Self {
        Self {
            origin: origin.to_owned(),
            values: BTreeMap::new(),
            are_saved: false,
            overruled: BTreeMap::new(),
            dismissed: BTreeMap::new(),
        }
    }

    /// The arguments in a `Namespace`, or in a dictionary.
    pub(super) fn from_node(origin: &Path, node: Node<'_>) -> Self {
        let mut args = Self::none(origin);
        let insert = |(name, value): (Node<'_>, Node<'_>)| {
            if let Some(name) = name.text() {
                args.values.insert(name.to_owned(), Arg::from_node(value));
            }
        };
        match node.fields() {
            Some(fields) => fields.for_each(insert),
            None => node.entries().into_iter().flatten().for_each(insert),
        }
        args.are_saved = !args.is_empty();
        args
    }

    /// Adds arguments that the user has given; they take the place of the checkpoint's.
    pub(super) fn overridden(mut self, given: &[(String, Arg)]) -> Self {
        let own = self.values.clone();
        self.values.extend(given.iter().cloned());
        let own = own.into_iter();
        self.overruled = own
            .filter(|(name, own)| !self.values[name].agrees_with(own))
            .collect();
        self
    }

    /// Takes away arguments that the user knows to be without effect.
    pub(super) fn without(mut self, names: &[String]) -> Result<Self> {
        for name in names {
            let Some(arg) = self.values.remove(name) else {
                let expected = "an argument that can be without effect";
                let fault = BadInput::new(&self.origin, expected, "none of this name");
                return Err(fault.at(name).into());
            };
            self.dismissed.insert(name.clone(), arg);
        }
        Ok(self)
    }

    /// What was taken at the user's word against the checkpoint's, for the reader.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        let overruled = self.overruled.iter().filter_map(|(name, own)| {
            let given = self.values.get(name)?;
            Some(format!(
                "{name}={given} as --arg says, where the checkpoint says {own}"
            ))
        });
        let dismissed = self.dismissed.iter().map(|(name, arg)| {
            format!("{name}={arg} is taken to be without effect, as --without-effect says")
        });
        overruled.chain(dismissed)
    }

    /// Whether the checkpoint holds any of its own.
    pub(crate) fn are_saved(&self) -> bool {
        self.are_saved
    }

    /// All arguments, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arg)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// An argument that is there and is not `None`.
    pub fn get(&self, name: &str) -> Option<&Arg> {
        self.values.get(name).filter(|value| **value != Arg::None)
    }

    /// The name under which an argument of several names is there.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming both if two are there and say different things.
    pub fn named<'n>(&self, names: &[&'n str]) -> Result<Option<&'n str>> {
        let mut there = names
            .iter()
            .filter_map(|name| Some((*name, self.get(name)?)));
        let Some((first, value)) = there.next() else {
            return Ok(None);
        };
        match there.find(|(_, other)| !other.agrees_with(value)) {
            Some((second, _)) => {
                let expected =
                    format!("what {first} says, {value}: they are two names of one setting");
                Err(self.contradiction(first, second, expected))
            }
            None => Ok(Some(first)),
        }
    }

    /// Says that the second of two arguments is not what goes with the first.
    pub(crate) fn contradiction(&self, first: &str, second: &str, expected: String) -> Error {
        let found = self.text(second).unwrap_or_default();
        BadInput::new(&self.origin, expected, found)
            .at(second)
            .remedy(format!(
                "convert with --arg {first}=None or --arg {second}=None, whichever the run did not heed"
            ))
            .into()
    }

    /// A size.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is not there or is no whole number above 0.
    pub fn size(&self, name: &str) -> Result<usize> {
        match self.optional_size(name)? {
            Some(size) => Ok(size),
            None => Err(self.fault(name, "a whole number above 0")),
        }
    }

    /// `num_layers`.
    ///
    /// # Errors
    /// As [`Self::size`], and if there are more than any model has.
    pub fn layers(&self) -> Result<usize> {
        let layers = self.size("num_layers")?;
        if layers > MAX_LAYERS {
            return Err(self.fault("num_layers", &format!("at most {MAX_LAYERS}")));
        }
        Ok(layers)
    }

    /// A size, if it is there.
    ///
    /// # Errors
    /// As [`Self::size`], of one that is there.
    pub fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let size = |value: &Arg| match value {
            Arg::Int(value) => usize::try_from(*value)
                .ok()
                .filter(|size| (1..=MAX_SIZE).contains(size)),
            _ => None,
        };
        let found = self.get(name);
        found
            .map(|value| size(value).ok_or_else(|| self.fault(name, "a whole number above 0")))
            .transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is not there or is no number.
    pub fn number(&self, name: &str) -> Result<f64> {
        match self.get(name) {
            Some(Arg::Float(value)) if value.is_finite() => Ok(*value),
            Some(Arg::Int(value)) => Ok(*value as f64),
            _ => Err(self.fault(name, "a number")),
        }
    }

    /// How likely an element is dropped in training; never, if nothing is said.
    ///
    /// # Errors
    /// As [`Self::number`], of one that is there, and if it is no probability.
    pub fn dropout(&self, name: &str) -> Result<f64> {
        if self.get(name).is_none() {
            return Ok(0.0);
        }
        match self.number(name)? {
            dropout if (0.0..=1.0).contains(&dropout) => Ok(dropout),
            _ => Err(self.fault(name, "a number between 0 and 1")),
        }
    }

    /// A flag, or `default` if it is not there.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is something else.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            Some(Arg::Flag(value)) => Ok(*value),
            None => Ok(default),
            Some(_) => Err(self.fault(name, "True or False")),
        }
    }

    /// A text, or a value as it would be shown (enumerations are texts to their users).
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(Arg::to_string)
    }

    /// Says that an argument is not what it has to be.
    pub fn fault(&self, name: &str, expected: &str) -> Error {
        let found = self
            .values
            .get(name)
            .map_or("nothing".to_owned(), Arg::to_string);
        BadInput::new(
            &self.origin,
            format!("{expected} in Megatron's arguments"),
            found,
        )
        .at(name)
        .remedy(format!("convert with --arg {name}=VALUE"))
        .into()
    }

    /// The file they come from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }
}

impl Arg {
    /// Whether it switches nothing on: `None`, `False`, an empty text, an empty list.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::None | Self::Flag(false) => true,
            Self::Text(text) => text.is_empty(),
            Self::Other(shown) => matches!(shown.as_str(), "[]" | "()" | "{}"),
            Self::Flag(true) | Self::Int(_) | Self::Float(_) => false,
        }
    }

    /// Whether it says what another does, numbers however they are written.
    fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(int), Self::Float(float)) | (Self::Float(float), Self::Int(int)) => {
                *int as f64 == *float
            }
            // An enumeration is a text to who gives it.
            _ => self == other || self.to_string() == other.to_string(),
        }
    }

    fn from_node(node: Node<'_>) -> Self {
        if node.is_none() {
            return Self::None;
        }
        let known = node.boolean().map(Self::Flag);
        let known = known.or_else(|| node.int().map(Self::Int));
        let known = known.or_else(|| node.float().map(Self::Float));
        let known = known.or_else(|| {
            // Texts may be one text, and copies of it more than there is memory for.
            let text = node.text().filter(|text| text.len() <= MAX_TEXT)?;
            Some(Self::Text(text.to_owned()))
        });
        known.unwrap_or_else(|| Self::Other(node.shown().to_string()))
    }
}

/// As it is typed on a command line: `none`, `true`, `12`, `1e-5`, else a text.
impl FromStr for Arg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "None" | "none" => Self::None,
            "True" | "true" => Self::Flag(true),
            "False" | "false" => Self::Flag(false),
            _ => match (text.parse(), text.parse()) {
                (Ok(value), _) => Self::Int(value),
                (_, Ok(value)) => Self::Float(value),
                _ => Self::Text(text.to_owned()),
            },
        })
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Flag(true) => f.write_str("True"),
            Self::Flag(false) => f.write_str("False"),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => fmt::Debug::fmt(value, f),
            Self::Text(text) | Self::Other(text) => f.write_str(text),
        }
    }
}
