//! The checksum by which a hub names a file's contents: SHA-256 for what is stored apart from git, else git's own, the
//! SHA-1 of `blob LENGTH\0` and the contents (<https://git-scm.com/book/en/v2/Git-Internals-Git-Objects>).

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The name of a blob, and what it says of the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Etag(String);

/// A checksum on its way.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
    /// The name is no checksum: some mirrors have names of their own. Only the length can be held against it.
    Unknown,
}

impl Etag {
    /// Reads the header, with or without quotes and the mark of a weak one; `None` for what can be no file's name.
    pub(crate) fn parse(header: &str) -> Option<Etag> {
        let header = header.trim();
        let text = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
        // No dot: what has an ending is not a blob.
        let known = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let valid = (1..=128).contains(&text.len()) && text.chars().all(known);
        valid.then(|| Etag(text.to_owned()))
    }

    /// The name of the blob.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is a checksum of the contents.
    pub(crate) fn is_checksum(&self) -> bool {
        !matches!(self.hasher(0), Hasher::Unknown)
    }

    /// Begins the checksum of contents of a length.
    pub(crate) fn hasher(&self, length: u64) -> Hasher {
        let hex = self.0.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match self.0.len() {
            64 if hex => Hasher::Sha256(Sha256::new()),
            40 if hex => Hasher::Git(Sha1::new_with_prefix(format!("blob {length}\0"))),
            _ => Hasher::Unknown,
        }
    }

    /// Whether contents with this checksum are those of this name.
    pub(crate) fn fits(&self, hasher: Hasher) -> bool {
        match hasher {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()) == self.0,
            Hasher::Git(hasher) => hex(&hasher.finalize()) == self.0,
            Hasher::Unknown => true,
        }
    }
}

impl Hasher {
    /// Goes on with the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Git(hasher) => hasher.update(bytes),
            Hasher::Unknown => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello\n' | sha256sum`, and `git hash-object` of the same.
    const HELLO: [&str; 2] = [
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "ce013625030ba8dba906f756967f9e9ca394464a",
    ];

    #[test]
    fn checksums_are_those_of_sha256sum_and_git() {
        for name in HELLO {
            let etag = Etag::parse(&format!("\"{name}\"")).unwrap();
            assert!(etag.is_checksum());
            let sum = |parts: &[&str]| {
                let mut hasher = etag.hasher(6);
                parts.iter().for_each(|part| hasher.update(part.as_bytes()));
                etag.fits(hasher)
            };
            assert!(sum(&["hel", "lo\n"]));
            assert!(!sum(&["hello "]));
        }
        assert!(!Etag::parse("hello").unwrap().is_checksum());
    }

    #[test]
    fn names_of_blobs_stay_in_their_folder() {
        assert_eq!(Etag::parse("W/\"abc-1\"").unwrap().as_str(), "abc-1");
        for header in ["", "\"\"", "../x", "a/b", "..", "a.incomplete", "a b", "a\0", &"a".repeat(129)] {
            assert_eq!(Etag::parse(header), None, "{header:?}");
        }
    }
}
