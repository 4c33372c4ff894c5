//! The metadata of a file: values by key, in the order in which they stand there.
//!
//! Each kind of value is asked for in two ways: one for keys that must be there, and `optional_` for those that may be
//! missing. Either is an error that names the key when the value is of another kind. Integers of all widths are one kind,
//! and so are floats: writers differ in which they choose.

use crate::value::{Array, Value};
use crate::{GgufError, Result};

/// Values by key. No key stands twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub(crate) Vec<(String, Value)>);

impl Metadata {
    /// The value of a key, of whatever kind.
    pub fn get(&self, key: &str) -> Option<&Value> {
        // Some dozens of keys, each asked for once: nothing to index.
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Gives a key a value: in the place of the one it had, or behind all others.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::Unexpected`]; so for all below.
    pub fn u64(&self, key: &str) -> Result<u64> {
        required(key, WHOLE, self.optional_u64(key)?)
    }

    /// As [`u64`](Self::u64), if the key is there.
    ///
    /// # Errors
    /// [`GgufError::Unexpected`]; so for all `optional_` below.
    pub fn optional_u64(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, WHOLE, |value| value.integer().and_then(|n| n.try_into().ok()))
    }

    /// A number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        required(key, NUMBER, self.optional_f64(key)?)
    }

    /// As [`f64`](Self::f64), if the key is there.
    pub fn optional_f64(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, NUMBER, |value| match *value {
            Value::F32(number) => Some(number.into()),
            Value::F64(number) => Some(number),
            _ => None,
        })
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str> {
        required(key, TEXT, self.optional_text(key)?)
    }

    /// As [`text`](Self::text), if the key is there.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, TEXT, |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<bool> {
        required(key, FLAG, self.optional_flag(key)?)
    }

    /// As [`flag`](Self::flag), if the key is there.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, FLAG, |value| match *value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<&[String]> {
        required(key, TEXTS, self.optional_texts(key)?)
    }

    /// As [`texts`](Self::texts), if the key is there.
    pub fn optional_texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.read(key, TEXTS, |value| match value {
            Value::Array(Array::Text(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of whole numbers, of any width.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>> {
        required(key, INTEGERS, self.optional_integers(key)?)
    }

    /// As [`integers`](Self::integers), if the key is there.
    pub fn optional_integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.read(key, INTEGERS, |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })
    }

    /// An array of floats, of either width.
    pub fn floats(&self, key: &str) -> Result<Vec<f64>> {
        required(key, FLOATS, self.optional_floats(key)?)
    }

    /// As [`floats`](Self::floats), if the key is there.
    pub fn optional_floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, FLOATS, |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.iter().map(|&number| number.into()).collect()),
            Value::Array(Array::F64(numbers)) => Some(numbers.clone()),
            _ => None,
        })
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(GgufError::Unexpected { key: key.to_owned(), expected, found: value.to_string() }),
        }
    }
}

const WHOLE: &str = "a whole number, 0 or more";
const NUMBER: &str = "a number with a fraction";
const TEXT: &str = "a text";
const FLAG: &str = "true or false";
const TEXTS: &str = "an array of texts";
const INTEGERS: &str = "an array of whole numbers";
const FLOATS: &str = "an array of numbers with fractions";

fn required<T>(key: &str, expected: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| GgufError::MissingKey { key: key.to_owned(), expected })
}

impl Array {
    fn integers(&self) -> Option<Vec<i64>> {
        fn widened<T: Copy + Into<i64>>(values: &[T]) -> Option<Vec<i64>> {
            Some(values.iter().map(|&value| value.into()).collect())
        }
        match self {
            Array::U8(values) => widened(values),
            Array::I8(values) => widened(values),
            Array::U16(values) => widened(values),
            Array::I16(values) => widened(values),
            Array::U32(values) => widened(values),
            Array::I32(values) => widened(values),
            Array::I64(values) => widened(values),
            Array::U64(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::default();
        metadata.set("count", 7u16);
        metadata.set("below", -7i64);
        metadata.set("share", 0.5f32);
        metadata.set("name", "a\nname");
        metadata.set("flag", true);
        metadata.set("words", vec!["a".to_owned(), "b".to_owned()]);
        metadata.set("heads", vec![1i32, -2]);
        metadata.set("scores", vec![-0.5f32]);
        metadata
    }

    #[test]
    fn values_are_read_as_what_they_are() {
        let metadata = metadata();
        assert_eq!(metadata.u64("count").unwrap(), 7);
        assert_eq!(metadata.f64("share").unwrap(), 0.5);
        assert_eq!(metadata.text("name").unwrap(), "a\nname");
        assert!(metadata.flag("flag").unwrap());
        assert_eq!(metadata.texts("words").unwrap(), ["a", "b"]);
        assert_eq!(metadata.integers("heads").unwrap(), [1, -2]);
        assert_eq!(metadata.floats("scores").unwrap(), [-0.5]);
        assert_eq!(metadata.optional_u64("missing").unwrap(), None);
        assert_eq!(metadata.iter().next().unwrap(), ("count", &Value::U16(7)));
        assert_eq!(metadata.iter().len(), 8);
    }

    #[test]
    fn what_was_expected_is_said() {
        let metadata = metadata();
        let said = |error: GgufError| error.to_string();
        for (error, expected) in [
            (metadata.u64("x").unwrap_err(), "its metadata has no x, which should be a whole number, 0 or more"),
            (metadata.u64("below").unwrap_err(), "its metadata below should be a whole number, 0 or more, but is -7"),
            (metadata.u64("share").unwrap_err(), "its metadata share should be a whole number, 0 or more, but is 0.5"),
            (metadata.f64("flag").unwrap_err(), "its metadata flag should be a number with a fraction, but is true"),
            (metadata.text("heads").unwrap_err(), "its metadata heads should be a text, but is an array of 2 i32"),
            (metadata.flag("name").unwrap_err(), "its metadata name should be true or false, but is \"a\\nname\""),
            (
                metadata.integers("words").unwrap_err(),
                "its metadata words should be an array of whole numbers, but is an array of 2 texts",
            ),
        ] {
            assert_eq!(said(error), expected);
        }
    }

    #[test]
    fn a_key_that_is_set_again_keeps_its_place() {
        let mut metadata = metadata();
        metadata.set("count", 8u8);
        assert_eq!(metadata.iter().next().unwrap(), ("count", &Value::U8(8)));
        assert_eq!(metadata.iter().len(), 8);
    }
}
