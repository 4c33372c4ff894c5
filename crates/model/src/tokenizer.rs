//! Text to token ids and back, by the model's own `tokenizer.json`, or by the metadata of its GGUF file ([`gguf`]). The one
//! module that knows the tokenizers crate.
//!
//! That crate trusts its files more than we do. What we can check is checked when the file is read, one text is cut as a
//! trial, and a panic inside of the crate becomes an error.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bouquet_span::counted;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, ModelWrapper};

use crate::files::{self, missing};
use crate::form::Form;
use crate::gguf::GgufFile;
use crate::{ModelError, Result};

mod coverage;
pub mod gguf;

/// Bytes that a `tokenizer.json` may have.
const MAX_BYTES: u64 = 256 << 20;

/// A tokenizer. Cheap to share by reference.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The most bytes of a text that a token can cover, where that is certain.
    longest_token_bytes: Option<usize>,
}

/// A text cut into tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them.
    pub tokens: Vec<String>,
    /// Where each token stands in the text, in characters (not bytes): start and end.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model's folder and checks that its ids fit `vocab_size`.
    ///
    /// # Errors
    /// [`ModelError::Missing`]; [`ModelError::Tokenizer`] for a file that is damaged, or has ids beyond the model's
    /// vocabulary.
    pub fn load(folder: &Path, vocab_size: usize) -> Result<Self> {
        Unparsed::read(&Form::open(folder)?)?.parse(vocab_size)
    }

    /// The bytes of `tokenizer.json` of a model's folder; of a GGUF file, what says the same.
    ///
    /// # Errors
    /// [`ModelError::Missing`]; [`ModelError::Io`]; [`ModelError::GgufTokenizer`].
    pub fn read(folder: &Path) -> Result<Vec<u8>> {
        match Unparsed::read(&Form::open(folder)?)? {
            Unparsed::Json(bytes) => Ok(bytes),
            Unparsed::Gguf(file) => Ok(gguf::json(file.metadata(), file.spec()?.vocab_size)?.to_string().into_bytes()),
        }
    }

    /// A tokenizer from the bytes of its file.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn parse(bytes: &[u8], vocab_size: usize) -> Result<Self> {
        // Some parts of the crate panic where they meet text that is none, or breaks off.
        let text = std::str::from_utf8(bytes).map_err(|error| wrong(format!("it is not UTF-8: {error}")))?;
        let steps: Steps = serde_json::from_str(text).map_err(|error| wrong(format!("it is not JSON: {error}")))?;
        check_growth(&steps)?;
        let inner = guarded("be read", || tokenizers::Tokenizer::from_bytes(bytes))?;
        Tokenizer::checked(inner, &steps, vocab_size)
    }

    /// A tokenizer of byte pairs from a `tokenizer.json` without tokens and merges, and from these, which would be nearly all
    /// of its text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    fn of_byte_pairs(rest: &Value, pairs: BytePairs, vocab_size: usize) -> Result<Self> {
        let steps = Steps::deserialize(rest).map_err(|error| wrong(error.to_string()))?;
        check_growth(&steps)?;
        let inner = guarded("be read", || {
            let mut inner = tokenizers::Tokenizer::from_bytes(rest.to_string())?;
            let mut model = BPE::builder().vocab_and_merges(pairs.tokens, pairs.merges).build()?;
            let ModelWrapper::BPE(settings) = inner.get_model() else {
                return Err("its model has no byte pairs".into());
            };
            model.unk_token.clone_from(&settings.unk_token);
            (model.fuse_unk, model.byte_fallback) = (settings.fuse_unk, settings.byte_fallback);
            model.ignore_merges = settings.ignore_merges;
            inner.with_model(model);
            inner.add_tokens(pairs.added)?;
            Ok(inner)
        })?;
        Tokenizer::checked(inner, &steps, vocab_size)
    }

    fn checked(inner: tokenizers::Tokenizer, steps: &Steps, vocab_size: usize) -> Result<Self> {
        // A copy of all tokens, which takes a while: one is enough.
        let vocabulary = inner.get_vocab(true);
        let longest_token_bytes = coverage::longest_token_bytes(&inner, &vocabulary, steps);
        let mut tokenizer = Tokenizer { inner, longest_token_bytes };
        // A file may ask for texts to be cut off or filled up; that is for a caller to decide, as in transformers.
        guarded("be read", || tokenizer.inner.with_truncation(None).map(|_| ()))?;
        tokenizer.inner.with_padding(None);
        tokenizer.check(&vocabulary, vocab_size)?;
        Ok(tokenizer)
    }

    /// Cuts a text. `special_tokens` says whether the template's own (a begin-of-text, say) are put around it.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for a text that this tokenizer cannot cut.
    pub fn encode(&self, text: &str, special_tokens: bool) -> Result<Encoding> {
        let encoding = guarded("cut this text", || self.inner.encode_char_offsets(text, special_tokens))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// Cuts what a [chat template](crate::chat_template) wrote, which has all special tokens that it should have.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_chat(&self, text: &str) -> Result<Encoding> {
        self.encode(text, false)
    }

    /// Whether a token stands for no text: begin- and end-of-text and their like.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// A number of tokens that a text has at least, without cutting it; 0 where nothing is certain.
    pub fn at_least_tokens(&self, text: &str) -> usize {
        self.longest_token_bytes.map_or(0, |longest| text.len().div_ceil(longest.max(1)))
    }

    /// The text of ids; with `skip_special_tokens`, without begin- and end-of-text and their like. Ids that the tokenizer
    /// does not have (a model's vocabulary may be larger) add nothing. Bytes that are no whole character become U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for ids that this tokenizer cannot join.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guarded("join these tokens", || self.inner.decode(ids, skip_special_tokens))
    }

    /// The id of a token as the vocabulary spells it: `</s>`, say.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The number of different tokens; the model may have room for more.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn check(&self, vocabulary: &HashMap<String, u32>, vocab_size: usize) -> Result<()> {
        if let ModelWrapper::BPE(model) = self.inner.get_model()
            && model.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(wrong("its model drops merges at random, so that a text has no tokens of its own"));
        }
        // Not the text of the token: which of several is named should not depend on the order of a map.
        match vocabulary.values().max() {
            None => return Err(wrong("it has no tokens")),
            Some(&id) if id as usize >= vocab_size => return Err(does_not_fit(id, vocab_size)),
            Some(_) => {}
        }
        // Templates carry ids of their own.
        let trial = self.encode("A trial, 試み", true)?;
        if let Some(&id) = trial.ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(does_not_fit(id, vocab_size));
        }
        self.decode(&trial.ids, false).map(|_| ())
    }
}

/// What a tokenizer is made of, read but not looked at.
pub(crate) enum Unparsed {
    /// The bytes of `tokenizer.json`.
    Json(Vec<u8>),
    /// The metadata of a file.
    Gguf(GgufFile),
}

impl Unparsed {
    /// Reads it.
    ///
    /// # Errors
    /// [`ModelError::Missing`]; [`ModelError::Io`].
    pub(crate) fn read(model: &Form) -> Result<Unparsed> {
        let folder = match model {
            Form::Folder(folder) => folder,
            Form::Gguf(file) => return Ok(Unparsed::Gguf(file.clone())),
        };
        files::check_folder(folder)?;
        let path = folder.join("tokenizer.json");
        if let Some(bytes) = files::read(&path, MAX_BYTES)? {
            return Ok(Unparsed::Json(bytes));
        }
        let hint = if folder.join("tokenizer.model").exists() {
            "tokenizer.model alone is not read, it has to be converted to tokenizer.json"
        } else {
            "it cuts texts into the model's tokens"
        };
        Err(missing(path, hint))
    }

    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Unparsed::Json(bytes) => bytes.len() as u64,
            Unparsed::Gguf(file) => file.header_bytes(),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`]; [`ModelError::GgufTokenizer`].
    pub(crate) fn parse(&self, vocab_size: usize) -> Result<Tokenizer> {
        match self {
            Unparsed::Json(bytes) => Tokenizer::parse(bytes, vocab_size),
            Unparsed::Gguf(file) => Tokenizer::from_gguf(file.metadata(), vocab_size),
        }
    }
}

/// What a tokenizer of byte pairs knows by heart.
struct BytePairs {
    tokens: Vocab,
    merges: Merges,
    /// Tokens that are found in a text before it is cut.
    added: Vec<AddedToken>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// How many times longer a text may become while it is normalized, cut or joined. (A space that becomes `▁` grows
/// threefold.)
const MAX_GROWTH: f64 = 64.0;

/// What a text goes through besides the vocabulary, as the file has it.
#[derive(Default, Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses replacements that, one after another, would make a short text fill the memory.
fn check_growth(steps: &Steps) -> Result<()> {
    let parts =
        [("normalizer", &steps.normalizer), ("pre_tokenizer", &steps.pre_tokenizer), ("decoder", &steps.decoder)];
    match parts.iter().find(|(_, part)| growth(part) > MAX_GROWTH) {
        Some((name, _)) => Err(wrong(format!("its {name} would make texts more than {MAX_GROWTH} times as long"))),
        None => Ok(()),
    }
}

/// How many times longer the replacements of a part can make a text, all together.
fn growth(part: &Value) -> f64 {
    match part {
        Value::Array(steps) => steps.iter().map(growth).product(),
        Value::Object(fields) => {
            let length = |value: &Value| value.as_str().map_or(0, str::len);
            let of_fields: f64 = fields.values().map(growth).product();
            let own = match fields.get("content") {
                // A regular expression can match between any two bytes.
                Some(content) => length(content) as f64 / length(&part["pattern"]["String"]).max(1) as f64,
                None => 1.0,
            };
            of_fields * own.max(1.0)
        }
        _ => 1.0,
    }
}

/// What the crate answers, its panics made errors: it `cannot` do something.
fn guarded<T>(cannot: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    // What a panic may leave half-done inside of the crate is a cache, which it guards by itself.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(wrong(format!("it cannot {cannot}: {error}"))),
        Err(_) => Err(wrong(format!("it cannot {cannot}: the file contradicts itself"))),
    }
}

fn wrong(problem: impl Into<String>) -> ModelError {
    ModelError::Tokenizer(problem.into())
}

fn does_not_fit(id: u32, vocab_size: usize) -> ModelError {
    wrong(format!(
        "it has the token id {id}, but the model has {}, with ids from 0",
        counted(vocab_size as u64, "token")
    ))
}
