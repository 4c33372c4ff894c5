//! A JSON object per line (JSON Lines).

use std::fmt;
use std::io::BufRead;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::collect::Collector;
use super::lines::Lines;
use super::source::Source;
use super::{Place, Result};

/// Lines that are blank count as no rows. Columns are those of the first object.
pub(super) fn read(source: &Source, stream: Box<dyn BufRead + '_>, rows: &mut Collector<'_>) -> Result<()> {
    let options = rows.options();
    let mut lines = Lines::new(stream, options.max_row_bytes);
    while let Some(line) = lines.next().map_err(|error| source.failed(error, options))? {
        let place = Place::Line(line.number);
        let object = match line.bytes {
            Some(bytes) if bytes.trim_ascii().is_empty() => continue,
            Some(bytes) => object(bytes),
            None => Err(rows.too_long()),
        };
        let mut object = match object {
            Ok(object) => object,
            Err(reason) => {
                rows.bad(place, reason)?;
                continue;
            }
        };
        if !rows.has_mapping() {
            let names: Vec<String> = object.keys().cloned().collect();
            rows.columns(&names, None)?;
        }
        let cells = |name: &str, _| object.remove(name).unwrap_or(Value::Null);
        rows.row(place, cells, false)?;
    }
    Ok(())
}

fn object(bytes: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    // The line that serde_json knows is always the first.
    serde_json::from_str(text).map(|Object(object)| object).map_err(|error| match error.column() {
        0 => format!("it is not a JSON object: {error}"),
        _ => format!("it is not a JSON object: {}", error.to_string().replace(" at line 1 column ", " at column ")),
    })
}

/// An object of which no key is there twice: which of the two was meant, nobody knows.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Object, A::Error> {
                let mut object = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if object.contains_key(&key) {
                        return Err(A::Error::custom(format!("{} is there twice", super::error::quoted(&key))));
                    }
                    object.insert(key, value);
                }
                Ok(Object(object))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
