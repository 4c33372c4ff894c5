//! How much of a text one token can cover: what tells that a text has too many tokens without cutting it.
//!
//! Only where that is certain: in a vocabulary of byte pairs that spells every byte, and where nothing on the way makes
//! a text shorter. Then each token covers no more bytes than its spelling has. (Byte-level vocabularies spell a byte in
//! one or two, SentencePiece spells a space in three and a byte token in six.)

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::ModelWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::Steps;

/// The most bytes of a text that a token can cover; `None` where no bound is known.
pub(super) fn longest_token_bytes(
    inner: &tokenizers::Tokenizer,
    vocabulary: &HashMap<String, u32>,
    steps: &Steps,
) -> Option<usize> {
    let ModelWrapper::BPE(model) = inner.get_model() else { return None };
    let has = |token: &str| inner.token_to_id(token).is_some();
    // A byte that no token spells is passed over, or becomes part of an unknown token of any length.
    let complete = match contains_type(&steps.pre_tokenizer, "ByteLevel") {
        true => ByteLevel::alphabet().into_iter().all(|byte| has(byte.encode_utf8(&mut [0; 4]))),
        false => model.byte_fallback && (0..=255).all(|byte| has(&format!("<0x{byte:02X}>"))),
    };
    // Added tokens can take the white space around them, however long.
    let greedy = inner.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
    let keeps = keeps_length(&steps.normalizer, "normalizers") && keeps_length(&steps.pre_tokenizer, "pretokenizers");
    if !complete || greedy || !keeps {
        return None;
    }
    vocabulary.keys().map(String::len).max()
}

/// Whether a normalizer or pre-tokenizer never makes a text shorter.
fn keeps_length(step: &Value, list: &str) -> bool {
    let text = |value: &Value| value.as_str().map(str::len);
    match step["type"].as_str() {
        None => step.is_null(),
        Some("Sequence") => {
            step[list].as_array().is_some_and(|steps| steps.iter().all(|step| keeps_length(step, list)))
        }
        Some("Replace") => match (text(&step["pattern"]["String"]), text(&step["content"])) {
            (Some(pattern), Some(content)) => content >= pattern,
            _ => false,
        },
        Some("Split") => step["behavior"] != "Removed",
        Some("Prepend" | "Metaspace" | "ByteLevel" | "Digits") => true,
        Some(_) => false,
    }
}

/// Whether a step is of a kind, or one of its steps is.
fn contains_type(step: &Value, kind: &str) -> bool {
    let steps = step["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
    step["type"] == kind || steps.iter().any(|step| contains_type(step, kind))
}
