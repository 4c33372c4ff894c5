//! The tokenizer in the metadata of a GGUF file, `tokenizer.ggml.*`: read by saying the same as a `tokenizer.json`, so
//! that there is one set of checks, though tokens and merges need not become text for it; and written from one ([`metadata`]).
//!
//! Two kinds are known, by the names that llama.cpp gave them: `gpt2`, byte pairs over bytes spelled as characters, where
//! `tokenizer.ggml.pre` names how texts are cut first (`pre`); and `llama`, byte pairs of SentencePiece, which has scores
//! where the others have merges (`merges`). What a `tokenizer.json` says and the metadata has no word for is in neither.

use std::collections::HashSet;

use bouquet_gguf::{GgufError, Metadata};
use bouquet_span::counted;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::{BytePairs, Tokenizer};
use crate::files::shown;
use crate::{ModelError, Result};

mod merges;
mod pre;
mod write;

use merges::Merge;
pub use write::{SpecialIds, metadata};

/// Keys of the metadata; `tokenizer.chat_template` is not of the tokenizer.
mod key {
    pub(super) const MODEL: &str = "tokenizer.ggml.model";
    pub(super) const PRE: &str = "tokenizer.ggml.pre";
    pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
    pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
    pub(super) const SCORES: &str = "tokenizer.ggml.scores";
    pub(super) const MERGES: &str = "tokenizer.ggml.merges";
    pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
    pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
    pub(super) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    pub(super) const PADDING: &str = "tokenizer.ggml.padding_token_id";
    pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
    pub(super) const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
}

/// Kinds of tokens, with the number that stands for each in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    /// What texts are cut into.
    Normal = 1,
    /// What stands for text that has no tokens.
    Unknown = 2,
    /// Begin- and end-of-text and their like.
    Control = 3,
    /// Found in a text before it is cut.
    UserDefined = 4,
    /// A hole in the vocabulary.
    Unused = 5,
    /// A byte that has no other token, spelled `<0x0A>`.
    Byte = 6,
}

/// Bytes that all tokens and merges may have together: ten times those of the largest vocabularies.
const MAX_TEXT_BYTES: usize = 64 << 20;

impl Tokenizer {
    /// The tokenizer of a GGUF file. Its ids are those that the model's own `tokenizer.json` would give.
    ///
    /// # Errors
    /// [`ModelError::GgufTokenizer`] for metadata that contradicts itself, for a kind that is not known, and for ids beyond
    /// the model's vocabulary.
    pub fn from_gguf(metadata: &Metadata, vocab_size: usize) -> Result<Self> {
        let Said { rest, vocabulary, merges } = Said::read(metadata, vocab_size)?;
        let added = vocabulary.added().map(|(_, token, special)| AddedToken::from(token, special).normalized(false));
        let pairs = BytePairs {
            tokens: vocabulary.used().map(|(id, token, _)| (token.to_owned(), id as u32)).collect(),
            merges: merges.into_iter().map(|(first, second)| (first.to_owned(), second.to_owned())).collect(),
            added: added.collect(),
        };
        Tokenizer::of_byte_pairs(&rest, pairs, vocab_size).map_err(|error| match error {
            ModelError::Tokenizer(problem) => ModelError::GgufTokenizer(problem),
            other => other,
        })
    }
}

/// The tokenizer of a GGUF file as a `tokenizer.json`.
///
/// # Errors
/// [`ModelError::GgufTokenizer`].
pub fn json(metadata: &Metadata, vocab_size: usize) -> Result<Value> {
    let Said { rest: mut json, vocabulary, merges } = Said::read(metadata, vocab_size)?;
    let added = vocabulary.added().map(|(id, token, special)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special })
    });
    json["added_tokens"] = added.collect();
    json["model"]["vocab"] = vocabulary.used().map(|(id, token, _)| (token, Value::from(id))).collect();
    json["model"]["merges"] = json!(merges);
    Ok(json)
}

/// What a file says of its tokenizer.
struct Said<'a> {
    /// A `tokenizer.json` without tokens and merges, of which there are hundreds of thousands.
    rest: Value,
    vocabulary: Vocabulary<'a>,
    merges: Vec<Merge<'a>>,
}

impl Said<'_> {
    fn read(metadata: &Metadata, vocab_size: usize) -> Result<Said<'_>> {
        let kind = metadata.text(key::MODEL).map_err(unusable)?;
        let vocabulary = Vocabulary::read(metadata, vocab_size)?;
        let (rest, merges) = match kind {
            "gpt2" => byte_level(metadata, &vocabulary)?,
            "llama" => sentence_piece(metadata, &vocabulary)?,
            _ => return Err(wrong(format!("it is of the kind {}; known are gpt2 and llama", shown(kind)))),
        };
        Ok(Said { rest, vocabulary, merges })
    }
}

/// Byte pairs over bytes spelled as characters.
fn byte_level<'a>(metadata: &'a Metadata, vocabulary: &Vocabulary) -> Result<(Value, Vec<Merge<'a>>)> {
    // Files without it are older than the names; what llama.cpp takes for them is called `default`.
    let pre = pre::Pre::named(metadata.optional_text(key::PRE).map_err(unusable)?.unwrap_or("default"))?;
    let merges = merges::written(metadata.texts(key::MERGES).map_err(unusable)?)?;
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let rest = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.pre_tokenizer(),
        "post_processor": template(metadata, vocabulary, Defaults { add_bos: pre.add_bos, bos: None, eos: None })?,
        "decoder": decoder,
        "model": { "type": "BPE", "ignore_merges": pre.ignore_merges, "vocab": {}, "merges": [] },
    });
    Ok((rest, merges))
}

/// Byte pairs of SentencePiece: spaces are spelled `▁`, and characters without a token in bytes.
fn sentence_piece<'a>(metadata: &'a Metadata, vocabulary: &Vocabulary<'a>) -> Result<(Value, Vec<Merge<'a>>)> {
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if metadata.optional_flag(key::ADD_SPACE).map_err(unusable)?.unwrap_or(true) {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let merges = match metadata.optional_texts(key::MERGES).map_err(unusable)? {
        // Not every converter writes them for this kind, but those that are there need not be guessed.
        Some(merges) => merges::written(merges)?,
        None => merges::of_scores(vocabulary.tokens, &vocabulary.types, &scores(metadata, vocabulary)?)?,
    };
    let unknown = vocabulary.named(metadata, key::UNKNOWN, Some(0))?.map(|(_, token)| token);
    let bytes = vocabulary.types.contains(&TokenType::Byte);
    let rest = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": template(metadata, vocabulary, Defaults { add_bos: true, bos: Some(1), eos: Some(2) })?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": { "type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": bytes,
            "vocab": {}, "merges": [] },
    });
    Ok((rest, merges))
}

/// The scores of all tokens: the highest is merged first.
fn scores(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Vec<f64>> {
    let scores = metadata.floats(key::SCORES).map_err(unusable)?;
    if scores.len() != vocabulary.tokens.len() {
        let tokens = counted(vocabulary.tokens.len() as u64, "token");
        return Err(wrong(format!("{} has {} for {tokens}", key::SCORES, counted(scores.len() as u64, "score"))));
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(wrong(format!("{} has no number for token {id}", key::SCORES))),
        None => Ok(scores),
    }
}

/// What holds where the metadata does not say.
struct Defaults {
    add_bos: bool,
    bos: Option<u64>,
    eos: Option<u64>,
}

/// What is put around a text, as a template; `null` for nothing.
fn template(metadata: &Metadata, vocabulary: &Vocabulary, defaults: Defaults) -> Result<Value> {
    let add = |key, default| metadata.optional_flag(key).map(|flag| flag.unwrap_or(default)).map_err(unusable);
    let mut special = Map::new();
    let mut put = |asked: bool, add_key: &str, id_key: &'static str, default| -> Result<Option<Value>> {
        if !asked {
            return Ok(None);
        }
        let missing = || wrong(format!("{add_key} is true, and no {id_key} says which token"));
        let (id, token) = vocabulary.named(metadata, id_key, default)?.ok_or_else(missing)?;
        special.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        Ok(Some(json!({ "SpecialToken": { "id": token, "type_id": 0 } })))
    };
    let bos = put(add(key::ADD_BOS, defaults.add_bos)?, key::ADD_BOS, key::BOS, defaults.bos)?;
    let eos = put(add(key::ADD_EOS, false)?, key::ADD_EOS, key::EOS, defaults.eos)?;
    if special.is_empty() {
        return Ok(Value::Null);
    }
    let around = |text: &str| {
        let text = json!({ "Sequence": { "id": text, "type_id": 0 } });
        bos.iter().cloned().chain([text]).chain(eos.clone()).collect::<Vec<_>>()
    };
    let (single, pair) = (around("A"), [around("A"), around("B")].concat());
    Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
}

/// The tokens of the metadata, each where its id says.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<TokenType>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata, vocab_size: usize) -> Result<Self> {
        let tokens = metadata.texts(key::TOKENS).map_err(unusable)?;
        if tokens.len() > vocab_size {
            let model = counted(vocab_size as u64, "token");
            return Err(wrong(format!("it has {}, but the model has {model}", counted(tokens.len() as u64, "token"))));
        }
        let merges = metadata.optional_texts(key::MERGES).map_err(unusable)?.unwrap_or(&[]);
        let bytes: usize = tokens.iter().chain(merges).map(String::len).sum();
        if bytes > MAX_TEXT_BYTES {
            return Err(wrong(format!("its tokens and merges have {bytes} bytes, more than {MAX_TEXT_BYTES}")));
        }
        let types = match metadata.optional_integers(key::TYPES).map_err(unusable)? {
            Some(types) if types.len() != tokens.len() => {
                let (found, tokens) = (types.len(), counted(tokens.len() as u64, "token"));
                return Err(wrong(format!("{} has {found} for {tokens}", key::TYPES)));
            }
            Some(types) => {
                types.into_iter().enumerate().map(|(id, number)| token_type(id, number)).collect::<Result<_>>()?
            }
            None => vec![TokenType::Normal; tokens.len()],
        };
        let mut vocabulary = Vocabulary { tokens, types };
        let mut seen = HashSet::new();
        for (id, token) in tokens.iter().enumerate() {
            if token.is_empty() {
                // llama.cpp gives it a name that no text has.
                vocabulary.types[id] = TokenType::Unused;
            } else if !seen.insert(token) {
                return Err(wrong(format!("the token {} stands there twice, the second time as {id}", shown(token))));
            }
        }
        Ok(vocabulary)
    }

    /// Tokens that are used, with their ids.
    fn used(&self) -> impl Iterator<Item = (usize, &'a str, TokenType)> {
        let all = self.tokens.iter().zip(&self.types).enumerate();
        all.map(|(id, (token, &kind))| (id, token.as_str(), kind)).filter(|(.., kind)| *kind != TokenType::Unused)
    }

    /// Tokens that are found in a text before it is cut, and whether they stand for none.
    fn added(&self) -> impl Iterator<Item = (usize, &'a str, bool)> {
        let special = |kind| match kind {
            TokenType::Control | TokenType::Unknown => Some(true),
            TokenType::UserDefined => Some(false),
            TokenType::Normal | TokenType::Unused | TokenType::Byte => None,
        };
        self.used().filter_map(move |(id, token, kind)| Some((id, token, special(kind)?)))
    }

    /// The token that a key gives the id of; `default` where it is missing, and the vocabulary has that id.
    fn named(&self, metadata: &Metadata, key: &str, default: Option<u64>) -> Result<Option<(u64, &'a str)>> {
        let said = metadata.optional_u64(key).map_err(unusable)?;
        let Some(id) = said.or(default) else { return Ok(None) };
        let used =
            usize::try_from(id).ok().filter(|&id| self.types.get(id).is_some_and(|&kind| kind != TokenType::Unused));
        match used {
            Some(used) => Ok(Some((id, self.tokens[used].as_str()))),
            None if said.is_none() => Ok(None),
            None => Err(wrong(format!("{key} is {id}, which is no token of the vocabulary"))),
        }
    }
}

fn token_type(id: usize, number: i64) -> Result<TokenType> {
    use TokenType::*;
    let known = [Normal, Unknown, Control, UserDefined, Unused, Byte];
    let found = known.into_iter().find(|kind| *kind as i64 == number);
    found.ok_or_else(|| wrong(format!("{} of token {id} is {number}; 1 to 6 are known", key::TYPES)))
}

fn unusable(error: GgufError) -> ModelError {
    wrong(error.to_string())
}

fn wrong(problem: impl Into<String>) -> ModelError {
    ModelError::GgufTokenizer(problem.into())
}
