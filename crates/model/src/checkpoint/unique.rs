//! A JSON object whose keys must differ. JSON itself lets a key stand twice, and readers disagree about which one
//! counts; where the keys are tensors, that is a lie like any other.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::files::shown;

/// An object with different keys, but for `__metadata__`, which is passed over.
pub(super) struct UniqueMap<V>(pub(super) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object whose keys are names of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = object.next_key::<String>()? {
            if key == "__metadata__" {
                object.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = object.next_value()?;
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{} stands in it twice", shown(&key))));
            }
            entries.insert(key, value);
        }
        Ok(UniqueMap(entries))
    }
}

/// The dimensions of a tensor: few, so that a list of millions is refused before it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape(pub(super) Vec<usize>);

/// Dimensions that a tensor may have.
const MAX_DIMENSIONS: usize = 16;

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_DIMENSIONS} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut shape = Vec::new();
        while let Some(dimension) = list.next_element()? {
            if shape.len() == MAX_DIMENSIONS {
                return Err(A::Error::custom(format_args!("a tensor has more than {MAX_DIMENSIONS} dimensions")));
            }
            shape.push(dimension);
        }
        Ok(Shape(shape))
    }
}
