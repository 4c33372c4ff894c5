//! The metadata that says what a `tokenizer.json` says.

use std::collections::HashSet;

use bouquet_gguf::Metadata;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::pre::Pre;
use super::{TokenType, key, wrong};
use crate::Result;
use crate::files::shown;

/// Tokens that a model's configuration names and its `tokenizer.json` does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin-of-text.
    pub bos: Option<u32>,
    /// End-of-text.
    pub eos: Option<u32>,
    /// What stands for nothing.
    pub padding: Option<u32>,
}

/// A `tokenizer.json`, as far as the metadata has words for it.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Map<String, Value>,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Written(String),
    Pair(String, String),
}

/// The metadata of a GGUF file that says what a `tokenizer.json` says, for a model of `vocab_size` tokens: ids that no token
/// has become tokens that no text has, because llama.cpp counts the rows of an embedding by the tokens.
///
/// # Errors
/// [`ModelError::GgufTokenizer`](crate::ModelError::GgufTokenizer) for a tokenizer that the metadata has no words for, and
/// for one that does not fit the model.
pub fn metadata(tokenizer_json: &[u8], vocab_size: usize, ids: SpecialIds) -> Result<Metadata> {
    let file: File = serde_json::from_slice(tokenizer_json)
        .map_err(|error| wrong(format!("tokenizer.json cannot be read: {error}")))?;
    // Older files do not say their type.
    if let Some(kind) = file.model.r#type.as_deref().filter(|kind| *kind != "BPE") {
        return Err(wrong(format!("GGUF files are written of byte pairs, and this is of the type {}", shown(kind))));
    }
    let sentence_piece = file.model.byte_fallback;
    let (tokens, types) = vocabulary(&file, vocab_size, sentence_piece)?;
    let (around, merges) = (Around::of(&file.post_processor)?, merges(&file.model.merges)?);

    let mut metadata = Metadata::default();
    match sentence_piece {
        true => {
            metadata.set(key::MODEL, "llama");
            metadata.set(key::PRE, "default");
            metadata.set(key::SCORES, scores(&tokens, &merges));
            metadata.set(key::ADD_SPACE, space_before(&file)?);
        }
        false => {
            let pre = Pre::that_does(&file.normalizer, &file.pre_tokenizer, file.model.ignore_merges);
            let pre = pre.ok_or_else(|| wrong("it cuts texts in a way that no name in GGUF files stands for"))?;
            metadata.set(key::MODEL, "gpt2");
            metadata.set(key::PRE, pre.name());
        }
    }
    let id_of = |token: &str| tokens.iter().position(|other| other == token).map(|id| id as u32);
    let unknown = file.model.unk_token.as_deref().and_then(id_of);
    let special = [
        (key::BOS, around.before.as_deref().and_then(id_of).or(ids.bos)),
        (key::EOS, around.behind.as_deref().and_then(id_of).or(ids.eos)),
        (key::UNKNOWN, unknown),
        (key::PADDING, ids.padding),
    ];
    metadata.set(key::TOKENS, tokens);
    metadata.set(key::TYPES, types.into_iter().map(|kind| kind as i32).collect::<Vec<_>>());
    // llama.cpp makes those of SentencePiece from its scores; here they tell what scores cannot, the order among equals.
    metadata.set(key::MERGES, merges.iter().map(|(first, second)| format!("{first} {second}")).collect::<Vec<_>>());
    for (key, id) in special.into_iter().filter_map(|(key, id)| Some((key, id?))) {
        if id as usize >= vocab_size {
            return Err(wrong(format!("{key} would be {id}, which is no token of the model's {vocab_size}")));
        }
        metadata.set(key, id);
    }
    metadata.set(key::ADD_BOS, around.before.is_some());
    metadata.set(key::ADD_EOS, around.behind.is_some());
    Ok(metadata)
}

/// Tokens and their types, by id.
fn vocabulary(file: &File, vocab_size: usize, sentence_piece: bool) -> Result<(Vec<String>, Vec<TokenType>)> {
    let mut slots = vec![None; vocab_size];
    let mut put = |token: &str, id: usize, kind: TokenType| match slots.get_mut(id) {
        Some(slot) => {
            *slot = Some((token.to_owned(), kind));
            Ok(())
        }
        None => Err(wrong(format!("the token {} has the id {id}, but the model has {vocab_size}", shown(token)))),
    };
    for (token, id) in &file.model.vocab {
        let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = if sentence_piece && is_byte { TokenType::Byte } else { TokenType::Normal };
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        put(token, id.ok_or_else(|| wrong(format!("the token {} has no id", shown(token))))?, kind)?;
    }
    for token in &file.added_tokens {
        if token.single_word || token.lstrip || token.rstrip {
            let token = shown(&token.content);
            return Err(wrong(format!("the token {token} minds what stands beside it, which GGUF files cannot say")));
        }
        let kind = match token.special {
            true if sentence_piece && file.model.unk_token.as_ref() == Some(&token.content) => TokenType::Unknown,
            true => TokenType::Control,
            false => TokenType::UserDefined,
        };
        // The tokenizers crate gives a token that the vocabulary has the id that it has there.
        let id = file.model.vocab.get(&token.content).and_then(Value::as_u64).map_or(token.id, |id| id as usize);
        put(&token.content, id, kind)?;
    }
    // As llama.cpp's converter names them.
    let hole = |id: usize| (format!("[PAD{id}]"), TokenType::Unused);
    let all = slots.into_iter().enumerate().map(|(id, slot)| slot.unwrap_or_else(|| hole(id)));
    let (tokens, types): (Vec<String>, Vec<TokenType>) = all.unzip();
    let mut seen = HashSet::new();
    match tokens.iter().find(|token| !seen.insert(*token)) {
        Some(token) => Err(wrong(format!("the token {} would stand there twice", shown(token)))),
        None => Ok((tokens, types)),
    }
}

fn merges(merges: &[Merge]) -> Result<Vec<(&str, &str)>> {
    fn pair(merge: &Merge) -> Option<(&str, &str)> {
        match merge {
            Merge::Pair(first, second) => Some((first, second)),
            Merge::Written(merge) => merge.split_once(' '),
        }
    }
    let pairs: Option<Vec<_>> = merges.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| wrong("a merge of its tokenizer.json is no two tokens"))?;
    match pairs.iter().find(|(first, second)| first.contains(' ') || second.contains(' ')) {
        Some((first, _)) => Err(wrong(format!("a merge of {} has a space, which GGUF files cannot say", shown(first)))),
        None => Ok(pairs),
    }
}

/// Scores that make of every token what its first merge makes of it: the earlier, the higher. What no merge makes comes last.
fn scores(tokens: &[String], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut ranks = std::collections::HashMap::new();
    for (rank, (first, second)) in merges.iter().enumerate() {
        ranks.entry([*first, *second].concat()).or_insert(rank);
    }
    tokens.iter().map(|token| -(*ranks.get(token).unwrap_or(&merges.len()) as f32)).collect()
}

/// Whether a space is put before texts, of a tokenizer whose spaces are `▁`.
fn space_before(file: &File) -> Result<bool> {
    let is_spaces = |step: &Value| step["pattern"]["String"] == " " && step["content"] == "▁";
    let steps = match file.normalizer["normalizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&file.normalizer),
    };
    let found = match (steps, &file.pre_tokenizer) {
        ([prepend, spaces], Value::Null) if prepend["prepend"] == "▁" && is_spaces(spaces) => Some(true),
        ([spaces], Value::Null) if is_spaces(spaces) => Some(false),
        // Words that are cut at spaces have other merges than texts that are not.
        ([Value::Null], cuts) if cuts["type"] == "Metaspace" && cuts["split"] == false => {
            cuts["prepend_scheme"].as_str().map(|scheme| scheme != "never")
        }
        _ => None,
    };
    found.ok_or_else(|| wrong("it treats spaces in a way that GGUF files cannot say"))
}

/// What is put around a text.
#[derive(Default)]
struct Around {
    before: Option<String>,
    behind: Option<String>,
}

impl Around {
    fn of(post_processor: &Value) -> Result<Self> {
        let steps = match post_processor["processors"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(post_processor),
        };
        let mut around = Around::default();
        for step in steps {
            match step["type"].as_str() {
                // Of offsets only.
                None | Some("ByteLevel") => {}
                Some("TemplateProcessing") => around = Around::of_template(&step["single"])?,
                Some(other) => {
                    return Err(wrong(format!("what it puts around texts is of the type {}", shown(other))));
                }
            }
        }
        Ok(around)
    }

    fn of_template(single: &Value) -> Result<Self> {
        let token = |piece: &Value| piece["SpecialToken"]["id"].as_str().map(str::to_owned);
        let is_text = |piece: &Value| piece["Sequence"].is_object();
        match single.as_array().map(Vec::as_slice) {
            Some([text]) if is_text(text) => Ok(Around::default()),
            Some([before, text]) if is_text(text) => Ok(Around { before: token(before), behind: None }),
            Some([text, behind]) if is_text(text) => Ok(Around { before: None, behind: token(behind) }),
            Some([before, text, behind]) if is_text(text) => {
                Ok(Around { before: token(before), behind: token(behind) })
            }
            _ => Err(wrong("it puts more around a text than a token before and one behind")),
        }
    }
}
