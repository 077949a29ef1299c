//! Typed access to a model's settings: `config.json`, or what a dump says of the run that made it.

use crate::error::{BadInput, Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Settings with errors that name the key. A setting may have several names; the first that is there
/// counts. `null` is as good as nothing.
pub(crate) struct Settings<'a> {
    path: &'a Path,
    values: Map<String, Value>,
}

impl<'a> Settings<'a> {
    /// Settings that come from the file `path`.
    pub(crate) fn new(path: &'a Path, values: Map<String, Value>) -> Self {
        Self { path, values }
    }

    /// Where they come from.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Says that a setting is not what it has to be.
    pub(super) fn fault(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        BadInput::new(self.path, expected, found.to_string())
            .at(key)
            .into()
    }

    /// A text, if it is there.
    pub(super) fn text(&self, keys: &[&str]) -> Result<Option<String>> {
        self.find(keys, "text", |value| value.as_str().map(str::to_owned))
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

    /// A number.
    pub(super) fn number(&self, keys: &[&str]) -> Result<f64> {
        let number = self.find(keys, "a number", Value::as_f64)?;
        number.ok_or_else(|| self.fault(keys[0], "a number", "nothing"))
    }

    /// A number, or `default` if it is not there.
    pub(super) fn number_or(&self, keys: &[&str], default: f64) -> Result<f64> {
        let number = self.find(keys, "a number", Value::as_f64)?;
        Ok(number.unwrap_or(default))
    }

    /// A flag.
    pub(super) fn flag(&self, keys: &[&str]) -> Result<bool> {
        let flag = self.find(keys, "true or false", Value::as_bool)?;
        flag.ok_or_else(|| self.fault(keys[0], "true or false", "nothing"))
    }

    /// A flag, or `default` if it is not there.
    pub(super) fn flag_or(&self, keys: &[&str], default: bool) -> Result<bool> {
        let flag = self.find(keys, "true or false", Value::as_bool)?;
        Ok(flag.unwrap_or(default))
    }

    fn optional_size(&self, keys: &[&str]) -> Result<Option<usize>> {
        let size = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.find(keys, "a whole number", size)
    }

    fn find<T>(
        &self,
        keys: &[&str],
        expected: &str,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let given = keys
            .iter()
            .find_map(|key| Some((key, self.values.get(*key).filter(|value| !value.is_null())?)));
        let typed = |(key, value): (&&str, &Value)| {
            of(value).ok_or_else(|| self.fault(key, expected, value))
        };
        given.map(typed).transpose()
    }
}
