//! The names of models on a hub.

use std::fmt;

/// Characters that a part of a name may have, as on the hub.
const MAX_PART_CHARS: usize = 96;

/// Characters that a revision may have; git's own limit is that of a path.
const MAX_REVISION_CHARS: usize = 200;

/// What is meant when no revision is given.
const DEFAULT_REVISION: &str = "main";

/// A model on a hub, at a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    org: String,
    model: String,
    revision: String,
}

impl Name {
    /// Reads `org/name` or `org/name@revision`; `None` for what is no name that a hub would give. A name has letters,
    /// digits, `.`, `_` and `-`, and neither it nor a revision can lead out of a folder.
    pub fn parse(text: &str) -> Option<Name> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let (org, model) = repository.split_once('/')?;
        let valid = is_part(org) && is_part(model) && is_revision(revision);
        valid.then(|| Name { org: org.to_owned(), model: model.to_owned(), revision: revision.to_owned() })
    }

    /// `org/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.model)
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The revision, where it is a whole commit, which never changes.
    pub(crate) fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&self.revision)
    }

    /// The folder of a cache that it is in.
    pub(crate) fn cache_folder(&self) -> String {
        format!("models--{}--{}", self.org, self.model)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.model)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether this is a whole commit, as git writes it.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Text as a part of a URL's path, where `/` would begin another one.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

fn is_part(part: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // `--` separates the parts in the name of the cache's folder.
    (1..=MAX_PART_CHARS).contains(&part.len())
        && part.chars().all(known)
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether a revision is the path of a file under `refs` on every system: `refs/pr/1` is one.
fn is_revision(revision: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
    revision.len() <= MAX_REVISION_CHARS
        && revision.chars().all(known)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for (text, expected) in [
            ("bigscience/bloom-560m", true),
            ("a/b@v1.0", true),
            ("a/b@refs/pr/1", true),
            ("a_b.c/d-e_f.g", true),
            ("bloom", false),
            ("./bigscience/bloom", false),
            ("../bloom", false),
            ("/models/bloom", false),
            ("models/bloom/", false),
            ("a/b/c", false),
            ("a\\b/c", false),
            ("a--b/c", false),
            ("a/b@", false),
            ("a/b@../../etc", false),
            ("a/b@/main", false),
            ("a/b@v 1", false),
            ("C:/models", false),
            ("a/..", false),
        ] {
            assert_eq!(Name::parse(text).is_some(), expected, "{text}");
        }
        assert!(Name::parse(&format!("a/{}", "b".repeat(97))).is_none());
    }

    #[test]
    fn a_name_is_shown_as_it_is_written() {
        let name = Name::parse("a/b").unwrap();
        assert_eq!(
            (name.revision(), name.to_string().as_str(), name.cache_folder().as_str()),
            ("main", "a/b", "models--a--b")
        );
        let name = Name::parse("a/b@0123456789012345678901234567890123456789").unwrap();
        assert_eq!(name.commit(), Some("0123456789012345678901234567890123456789"));
        assert_eq!(name.to_string(), "a/b@0123456789012345678901234567890123456789");
        assert_eq!(percent_encoded("refs/pr/1 ä"), "refs%2Fpr%2F1%20%C3%A4");
    }
}
