//! Typed access to a model's settings: `config.json`, or what a dump says of the run that made it.

use crate::checkpoint::megatron::{Arg, Args};
use crate::error::{BadInput, Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Settings with errors that name the key. A setting may have several names; where more than one is there,
/// they have to say the same. `null` is as good as nothing.
pub(crate) struct Settings<'a> {
    path: &'a Path,
    /// What stands before the keys in messages: the key under which the settings lie, and a dot.
    within: String,
    values: Map<String, Value>,
}

impl<'a> Settings<'a> {
    /// Settings that come from the file `path`.
    pub(crate) fn new(path: &'a Path, values: Map<String, Value>) -> Self {
        Self {
            path,
            within: String::new(),
            values,
        }
    }

    /// A checkpoint's arguments; what only Python has is text, as it shows it.
    pub(super) fn of_arguments(args: &'a Args) -> Self {
        let value = |arg: &Arg| match arg {
            Arg::None => Value::Null,
            Arg::Flag(flag) => (*flag).into(),
            Arg::Int(int) => (*int).into(),
            Arg::Float(float) => (*float).into(),
            Arg::Text(text) | Arg::Other(text) => text.as_str().into(),
        };
        let values = args.iter().map(|(name, arg)| (name.to_owned(), value(arg)));
        Self::new(args.origin(), values.collect())
    }

    /// Settings under a key of these, if it is there.
    pub(super) fn within(&self, key: &str) -> Result<Option<Self>> {
        let values = self.find(&[key], "an object of settings", |value| {
            value.as_object().cloned()
        })?;
        Ok(values.map(|values| Self {
            path: self.path,
            within: format!("{}{key}.", self.within),
            values,
        }))
    }

    /// None, in the same place.
    pub(super) fn empty(&self) -> Self {
        Self::new(self.path, Map::new())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Where they come from.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Says that a setting is not what it has to be.
    pub(crate) fn fault(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        BadInput::new(self.path, expected, found.to_string())
            .at(format!("{}{key}", self.within))
            .into()
    }

    /// Says that a setting contradicts another name of itself.
    fn contradiction(&self, key: &str, value: &Value, other: &str, its_value: &Value) -> Error {
        let expected = format!("what {other} says, {its_value}: they are two names of one setting");
        self.fault(key, &expected, value)
    }

    /// Refuses a setting that these others have as well, with another value.
    pub(super) fn agrees_with(&self, others: &Self) -> Result<()> {
        for (key, value) in &self.values {
            let other = others.values.get(key).filter(|other| !other.is_null());
            let Some(other) = other.filter(|_| !value.is_null()) else {
                continue;
            };
            if !are_equal(value, other) {
                let name = format!("{}{key}", others.within);
                return Err(self.contradiction(key, value, &name, other));
            }
        }
        Ok(())
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, keys: &[&str]) -> Result<Option<String>> {
        self.find(keys, "text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts, if it is there.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.find(&[key], "a list of texts", |value| {
            let texts = value.as_array()?.iter();
            texts.map(|text| Some(text.as_str()?.to_owned())).collect()
        })
    }

    /// A list of sizes, if it is there.
    pub(super) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.find(&[key], "a list of whole numbers", |value| {
            let sizes = value.as_array()?.iter();
            sizes
                .map(|size| usize::try_from(size.as_u64()?).ok())
                .collect()
        })
    }

    /// A size.
    pub(super) fn size(&self, keys: &[&str]) -> Result<usize> {
        let size = self.optional_size(keys)?;
        size.ok_or_else(|| self.fault(keys[0], "a whole number", "nothing"))
    }

    /// A size, or `default` if it is not there.
    pub(super) fn size_or(&self, keys: &[&str], default: usize) -> Result<usize> {
        Ok(self.optional_size(keys)?.unwrap_or(default))
    }

    /// Rows of Megatron's embedding: of the tokens that there are, and of padding if that is said.
    pub(super) fn rows_of_vocabulary(&self) -> Result<usize> {
        let (tokens, padded) = ("vocab_size", "padded_vocab_size");
        let Some(rows) = self.optional_size(&[padded])? else {
            return self.size(&[tokens]);
        };
        match self.optional_size(&[tokens])? {
            Some(all) if all > rows => {
                let expected = format!("the {all} rows of {tokens} at least");
                Err(self.fault(padded, &expected, rows))
            }
            _ => Ok(rows),
        }
    }

    /// A number.
    pub(super) fn number(&self, keys: &[&str]) -> Result<f64> {
        let number = self.optional_number(keys)?;
        number.ok_or_else(|| self.fault(keys[0], "a number", "nothing"))
    }

    /// A number, or `default` if it is not there.
    pub(super) fn number_or(&self, keys: &[&str], default: f64) -> Result<f64> {
        Ok(self.optional_number(keys)?.unwrap_or(default))
    }

    /// A number, if it is there.
    pub(super) fn optional_number(&self, keys: &[&str]) -> Result<Option<f64>> {
        self.find(keys, "a number", Value::as_f64)
    }

    /// A flag.
    pub(super) fn flag(&self, keys: &[&str]) -> Result<bool> {
        let flag = self.optional_flag(keys)?;
        flag.ok_or_else(|| self.fault(keys[0], "true or false", "nothing"))
    }

    /// A flag, or `default` if it is not there.
    pub(super) fn flag_or(&self, keys: &[&str], default: bool) -> Result<bool> {
        Ok(self.optional_flag(keys)?.unwrap_or(default))
    }

    /// A flag, if it is there.
    pub(crate) fn optional_flag(&self, keys: &[&str]) -> Result<Option<bool>> {
        self.find(keys, "true or false", Value::as_bool)
    }

    /// Refuses a flag that is set.
    pub(super) fn refuse_flag(&self, key: &str) -> Result<()> {
        if self.flag_or(&[key], false)? {
            return Err(self.fault(key, "false: parity has no plan for it", "true"));
        }
        Ok(())
    }

    /// Refuses what is there at all.
    pub(super) fn refuse(&self, key: &str) -> Result<()> {
        match self.find(&[key], "nothing", |value| Some(value.clone()))? {
            None => Ok(()),
            Some(found) => Err(self.fault(key, "nothing: parity has no plan for it", found)),
        }
    }

    /// Whether a setting is there, if only as `null`.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Refuses a setting that is there and not `false`.
    pub(super) fn refuse_on(&self, key: &str) -> Result<()> {
        match self.any(key)? {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(found) => Err(self.fault(key, "nothing: parity has no plan for it", found)),
        }
    }

    /// A setting of any type, if it is there.
    pub(super) fn any(&self, key: &str) -> Result<Option<Value>> {
        self.find(&[key], "anything", |value| Some(value.clone()))
    }

    /// A size, if it is there.
    pub(crate) fn optional_size(&self, keys: &[&str]) -> Result<Option<usize>> {
        let size = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.find(keys, "a whole number", size)
    }

    fn find<T>(
        &self,
        keys: &[&str],
        expected: &str,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut all = keys
            .iter()
            .filter_map(|key| Some((key, self.values.get(*key).filter(|value| !value.is_null())?)));
        let given = all.next();
        if let Some((first, value)) = given
            && let Some((second, other)) = all.find(|(_, other)| !are_equal(value, other))
        {
            return Err(self.contradiction(second, other, first, value));
        }
        let typed = |(key, value): (&&str, &Value)| {
            of(value).ok_or_else(|| self.fault(key, expected, value))
        };
        given.map(typed).transpose()
    }
}

/// Whether two values are the same, numbers however they are written.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
