//! What `tokenizer.ggml.pre` says: how texts are cut before byte pairs are merged. Each name stands for the steps of the
//! `tokenizer.json` that it was given for, so that a text has the ids that it has there. (Where that also normalizes a text,
//! llama.cpp does not, and cuts the few texts that are not composed otherwise.)

use serde_json::{Value, json};

use super::wrong;
use crate::Result;
use crate::files::shown;

/// How texts are cut.
#[derive(Debug)]
pub(super) struct Pre {
    /// What it is called; the first name is the one that is written.
    names: &'static [&'static str],
    /// Whether characters are composed first (NFC).
    composed: bool,
    /// Whether a whole piece that is a token is that token, whatever the merges.
    pub(super) ignore_merges: bool,
    /// Whether a begin-of-text stands before texts where nothing else is said.
    pub(super) add_bos: bool,
    steps: &'static [Step],
}

/// A step; each cuts the pieces of the one before.
#[derive(Debug)]
enum Step {
    /// The regular expression of GPT-2, then bytes to characters.
    Gpt2,
    /// Bytes to characters.
    Bytes,
    /// Matches of a regular expression, and what is between them.
    Split(&'static str),
    /// Punctuation in a row.
    Punctuation,
    /// Digits in a row, or each.
    Digits { each: bool },
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

const PLAIN: Pre = Pre { names: &[], composed: false, ignore_merges: false, add_bos: false, steps: &[] };

/// All that are known.
const ALL: [Pre; 11] = [
    Pre { names: &["gpt-2", "phi-2"], steps: &[Step::Gpt2], ..PLAIN },
    Pre { names: &["bloom", "poro-chat", "gpt3-finnish"], steps: &[Step::Split(BLOOM), Step::Bytes], ..PLAIN },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        ignore_merges: true,
        add_bos: true,
        steps: &[Step::Split(LLAMA_3), Step::Bytes],
        ..PLAIN
    },
    // The same without the rule for whole pieces.
    Pre { names: &["smaug-bpe"], steps: &[Step::Split(LLAMA_3), Step::Bytes], ..PLAIN },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        composed: true,
        steps: &[Step::Split(QWEN_2), Step::Bytes],
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        steps: &[Step::Punctuation, Step::Gpt2, Step::Digits { each: false }, Step::Split("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    Pre {
        names: &["starcoder", "refact", "smollm", "codeshell"],
        steps: &[Step::Digits { each: true }, Step::Gpt2],
        ..PLAIN
    },
    Pre { names: &["command-r"], composed: true, steps: &[Step::Digits { each: true }, Step::Gpt2], ..PLAIN },
    Pre { names: &["mpt", "olmo"], composed: true, steps: &[Step::Gpt2], ..PLAIN },
    Pre { names: &["tekken"], ignore_merges: true, add_bos: true, steps: &[Step::Split(TEKKEN), Step::Bytes], ..PLAIN },
    // What llama.cpp does with files that do not say.
    Pre {
        names: &["default"],
        steps: &[
            Step::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            Step::Split(r"\p{N}+"),
            Step::Split("[0-9][0-9][0-9]"),
            Step::Bytes,
        ],
        ..PLAIN
    },
];

impl Pre {
    /// The one of that name.
    pub(super) fn named(name: &str) -> Result<&'static Self> {
        let found = ALL.iter().find(|pre| pre.names.contains(&name));
        found.ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().flat_map(|pre| pre.names).copied().collect();
            wrong(format!("it cuts texts in the way {}; known are {}", shown(name), known.join(", ")))
        })
    }

    /// The one that does what a `tokenizer.json` says.
    pub(super) fn that_does(normalizer: &Value, pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static Self> {
        let said = plain(pre_tokenizer);
        let same = |pre: &&Pre| {
            pre.normalizer() == *normalizer && plain(&pre.pre_tokenizer()) == said && pre.ignore_merges == ignore_merges
        };
        ALL.iter().find(same)
    }

    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// As in a `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.composed { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// As in a `tokenizer.json`.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(Step::json).collect();
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

impl Step {
    fn json(&self) -> Value {
        let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex });
        match self {
            Step::Gpt2 => bytes(true),
            Step::Bytes => bytes(false),
            Step::Split(pattern) => {
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
            }
            Step::Punctuation => json!({ "type": "Punctuation", "behavior": "Contiguous" }),
            Step::Digits { each } => json!({ "type": "Digits", "individual_digits": each }),
        }
    }
}

/// The steps of a pre-tokenizer, without what changes no ids.
fn plain(pre_tokenizer: &Value) -> Vec<Value> {
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![pre_tokenizer.clone()],
    };
    let mut plain = steps;
    for step in plain.iter_mut().filter_map(Value::as_object_mut).filter(|step| step["type"] == "ByteLevel") {
        step.remove("trim_offsets");
        step.entry("use_regex").or_insert(true.into());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_found_again() {
        for pre in &ALL {
            for name in pre.names {
                assert_eq!(Pre::named(name).unwrap().names, pre.names);
            }
            let again = Pre::that_does(&pre.normalizer(), &pre.pre_tokenizer(), pre.ignore_merges).unwrap();
            assert_eq!(again.name(), pre.name());
        }
        let names = ALL.iter().flat_map(|pre| pre.names);
        assert_eq!(names.clone().collect::<std::collections::HashSet<_>>().len(), names.count());
        let error = Pre::named("chameleon").unwrap_err().to_string();
        assert!(error.contains("in the way \"chameleon\"; known are gpt-2, phi-2, bloom,"), "{error}");
    }
}
