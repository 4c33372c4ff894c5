//! The names of models on a hub.

use std::fmt;

/// Characters that a part of a name may have, as on the hub.
const MAX_PART_CHARS: usize = 96;

/// Characters that a revision may have; git's own limit is that of a path.
const MAX_REVISION_CHARS: usize = 200;

/// Characters that the choice of a file may have.
const MAX_CHOICE_CHARS: usize = 200;

/// What is meant when no revision is given.
const DEFAULT_REVISION: &str = "main";

/// What people have before the name where they took it from: a page, or a command of another program.
const PREFIXES: [&str; 4] = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/"];

/// A model on a hub, at a revision: a branch, a tag or a commit; where the repository has GGUF files, which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    org: String,
    model: String,
    revision: String,
    choice: Option<String>,
}

impl Name {
    /// Reads `org/name`, `org/name@revision`, `org/name:choice` or `org/name@revision:choice`; `None` for what is no name
    /// that a hub would give. A name has letters, digits, `.`, `_` and `-`, and neither it nor a revision can lead out of a
    /// folder.
    pub fn parse(text: &str) -> Option<Name> {
        let text = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        let (org, rest) = text.split_once('/')?;
        let (rest, choice) = rest.split_once(':').map_or((rest, None), |(rest, choice)| (rest, Some(choice)));
        let (model, revision) = rest.split_once('@').unwrap_or((rest, DEFAULT_REVISION));
        let valid = is_part(org) && is_part(model) && is_revision(revision) && choice.is_none_or(is_choice);
        valid.then(|| Name {
            org: org.to_owned(),
            model: model.to_owned(),
            revision: revision.to_owned(),
            choice: choice.map(str::to_owned),
        })
    }

    /// `org/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.model)
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Which GGUF file is meant: the end of its name, which says how weights are stored (`Q4_K_M`), or all of it.
    pub fn choice(&self) -> Option<&str> {
        self.choice.as_deref()
    }

    /// The repository at its revision.
    pub(crate) fn without_choice(&self) -> Name {
        Name { choice: None, ..self.clone() }
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
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        self.choice.as_ref().map_or(Ok(()), |choice| write!(f, ":{choice}"))
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

/// Whether a file of a repository could be called that.
fn is_choice(choice: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
    (1..=MAX_CHOICE_CHARS).contains(&choice.len()) && choice.chars().all(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("C:\\models\\a.gguf", false),
            ("C:a/b", false),
            ("a/b:Q4_K_M", true),
            ("a/b@v1.0:Q4_K_M", true),
            ("a/b:x/a-Q4_K_M-00001-of-00002.gguf", true),
            ("a/b:Q4_K_M@v1.0", false),
            ("a/b:", false),
            ("a/b:Q4:Q5", false),
            ("a/b:Q4 K", false),
            ("a:b/c", false),
            ("b:Q4_K_M", false),
            ("hf.co/a/b:Q4_K_M", true),
            ("https://huggingface.co/a/b", true),
            ("https://huggingface.co/a/b/blob/main/x", false),
            ("hf.co/a", false),
            ("a/..", false),
        ] {
            assert_eq!(Name::parse(text).is_some(), expected, "{text}");
        }
        assert!(Name::parse(&format!("a/{}", "b".repeat(97))).is_none());
    }

    #[test]
    fn a_choice_stands_behind_the_revision() {
        let name = Name::parse("hf.co/a/b@refs/pr/1:Q4_K_M").unwrap();
        assert_eq!((name.repository().as_str(), name.revision(), name.choice()), ("a/b", "refs/pr/1", Some("Q4_K_M")));
        assert_eq!(name.to_string(), "a/b@refs/pr/1:Q4_K_M");
        assert_eq!(Name::parse("a/b:Q8_0").unwrap().to_string(), "a/b:Q8_0");
    }

    proptest! {
        /// Whatever is read is shown so that it is read alike, and nothing of it leads out of a folder.
        #[test]
        fn what_is_shown_is_read_again(text in "[a-c:@/.\\\\_ -]{0,12}|[a-z]{1,3}/[a-z.-]{1,4}(@[a-z/.]{1,4})?(:[a-zQ4_./-]{1,6})?") {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
                prop_assert!(!name.cache_folder().contains(['/', '\\', ':']));
                prop_assert!(name.revision().split('/').all(|part| part != ".." && !part.is_empty()));
            }
        }
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
