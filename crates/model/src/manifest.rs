//! The list of the hashes of a model's parts, as machines that serve it together pass it on: by it a machine knows its own
//! blocks for those of the others, and by the fingerprint it knows the list.

use serde_json::{Value, json};

use crate::Hash;

/// Bytes that a list may have: 60 thousand blocks.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// The hash of each part of a model, over its codes as they are computed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of embedding and head.
    pub ends: Hash,
    /// Of each block.
    pub blocks: Vec<Hash>,
}

impl Manifest {
    /// As JSON: `{"ends": HASH, "blocks": [HASH, ...]}`.
    pub fn to_json(&self) -> String {
        json!({ "ends": self.ends, "blocks": self.blocks }).to_string()
    }

    /// Reads one; `None` if it is damaged, or too long.
    pub fn parse(bytes: &[u8]) -> Option<Manifest> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return None;
        }
        let manifest: Value = serde_json::from_slice(bytes).ok()?;
        let hash = |value: &Value| value.as_str()?.parse::<Hash>().ok();
        let blocks = manifest.get("blocks")?.as_array()?.iter().map(hash).collect::<Option<_>>()?;
        Some(Manifest { ends: hash(manifest.get("ends")?)?, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let manifest = Manifest { ends: Hash([1; 32]), blocks: vec![Hash([2; 32]), Hash([3; 32])] };
        let text = manifest.to_json();
        assert_eq!(Manifest::parse(text.as_bytes()), Some(manifest));
        for end in 0..text.len() {
            assert_eq!(Manifest::parse(&text.as_bytes()[..end]), None);
        }
        assert_eq!(Manifest::parse(text.replace("02", "0g").as_bytes()), None);
        assert_eq!(Manifest::parse(&vec![b' '; MAX_MANIFEST_BYTES as usize + 1]), None);
    }
}
