//! Models in several files, as `gguf-split` of llama.cpp cuts them: `NAME-00001-of-00003.gguf` and so on. Each is a whole
//! GGUF file with some of the tensors; the first has the metadata of the model, and all say which part they are.
//!
//! ```
//! let parts = bouquet_gguf::split::parts("bloom-Q4_K_M-00002-of-00003.gguf").expect("one of three");
//! assert_eq!(parts.number, 1);
//! assert_eq!(parts.names[0], "bloom-Q4_K_M-00001-of-00003.gguf");
//! assert_eq!(bouquet_gguf::split::parts("bloom-Q4_K_M.gguf"), None);
//! ```

use crate::error::entry;
use crate::{MAX_TENSORS, Metadata, Result};

/// The number of a part, from 0.
pub const NUMBER: &str = "split.no";

/// The number of parts.
pub const COUNT: &str = "split.count";

/// The number of tensors of all parts.
pub const TENSORS: &str = "split.tensors.count";

/// What the name of a part says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The part that has the name, from 0.
    pub number: usize,
    /// The names of all parts, this one too, in order.
    pub names: Vec<String>,
}

/// What the metadata of a part says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Which part it is, from 0.
    pub number: usize,
    /// How many there are.
    pub count: usize,
    /// How many tensors they have, all together.
    pub tensors: Option<usize>,
}

/// Where a part belongs, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// What the names of all parts begin with.
    pub prefix: &'a str,
    /// Which part it is, from 0.
    pub number: usize,
    /// How many there are.
    pub count: usize,
}

/// What the name of a part says; `None` for the name of a file that is whole.
pub fn place(name: &str) -> Option<Place<'_>> {
    let (front, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = front.rsplit_once('-')?;
    // Five digits, and five digits only: other names are of files that are whole.
    let digits =
        |text: &str| (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok());
    let (number, count): (usize, usize) = (digits(number)??, digits(count)??);
    (1..=count).contains(&number).then(|| Place { prefix, number: number - 1, count })
}

/// The names of all parts, from the name of one; `None` for the name of a file that is whole.
pub fn parts(name: &str) -> Option<Parts> {
    let Place { prefix, number, count } = place(name)?;
    Some(Parts { number, names: (0..count).map(|number| name_of(prefix, number, count)).collect() })
}

/// The name of a part: `number` is from 0.
pub fn name_of(prefix: &str, number: usize, count: usize) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", number + 1)
}

impl Split {
    /// What the metadata says; `None` for a model in one file.
    ///
    /// # Errors
    /// [`GgufError`](crate::GgufError) for numbers that contradict each other.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(count) = metadata.optional_u64(COUNT)? else { return Ok(None) };
        // Its converters write 0 or 1 into files that are whole.
        if count <= 1 {
            return Ok(None);
        }
        if count > u16::MAX.into() {
            return Err(entry(COUNT, format!("is {count}, more than {}", u16::MAX)));
        }
        let number = metadata.u64(NUMBER)?;
        if number >= count {
            return Err(entry(NUMBER, format!("is {number}, but the parts, from 0, are {count}")));
        }
        let tensors = metadata.optional_u64(TENSORS)?;
        if let Some(tensors) = tensors.filter(|&tensors| tensors > MAX_TENSORS as u64) {
            return Err(entry(TENSORS, format!("is {tensors}, more than {MAX_TENSORS}")));
        }
        let tensors = tensors.map(|tensors| tensors as usize);
        Ok(Some(Split { number: number as usize, count: count as usize, tensors }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let parts = parts("a-of-b-00003-of-00003.gguf").unwrap();
        assert_eq!(parts.number, 2);
        let names = ["a-of-b-00001-of-00003.gguf", "a-of-b-00002-of-00003.gguf", "a-of-b-00003-of-00003.gguf"];
        assert_eq!(parts.names, names);
    }

    #[test]
    fn other_names_are_of_whole_files() {
        for name in [
            "bloom.gguf",
            "bloom-00001-of-00003.safetensors",
            "bloom-1-of-3.gguf",
            "bloom-00000-of-00003.gguf",
            "bloom-00004-of-00003.gguf",
            "bloom-00001-of-+0003.gguf",
            "00001-of-00003.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(parts(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_of_parts_hold_together() {
        let of = |numbers: &[(&str, i32)]| {
            let mut metadata = Metadata::default();
            numbers.iter().for_each(|(key, number)| metadata.set(*key, *number));
            Split::of(&metadata).map_err(|error| error.to_string())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[(COUNT, 1), (NUMBER, 0)]), Ok(None));
        let split = Split { number: 2, count: 3, tensors: Some(7) };
        assert_eq!(of(&[(NUMBER, 2), (COUNT, 3), (TENSORS, 7)]), Ok(Some(split)));
        for (numbers, problem) in [
            (&[(COUNT, 3)][..], "its metadata has no split.no, which should be a whole number, 0 or more"),
            (&[(COUNT, 3), (NUMBER, 3)], "its metadata \"split.no\" is 3, but the parts, from 0, are 3"),
            (&[(COUNT, 70_000)], "its metadata \"split.count\" is 70000, more than 65535"),
            (&[(COUNT, -1)], "its metadata split.count should be a whole number, 0 or more, but is -1"),
        ] {
            assert_eq!(of(numbers).unwrap_err(), problem);
        }
    }
}
