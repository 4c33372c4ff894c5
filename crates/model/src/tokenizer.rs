//! Text to token ids and back, by the model's own `tokenizer.json`. The one place that knows the tokenizer crate.

use std::path::Path;

use crate::Result;

/// A tokenizer. Cheap to share by reference.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
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
    /// A file that is missing, damaged, or has ids beyond the model's vocabulary.
    pub fn load(folder: &Path, vocab_size: usize) -> Result<Self> {
        let _ = (folder, vocab_size);
        todo!()
    }

    /// Cuts a text. `special_tokens` says whether the template's own (a begin-of-text, say) are put around it.
    pub fn encode(&self, text: &str, special_tokens: bool) -> Result<Encoding> {
        let _ = (text, special_tokens, &self.inner);
        todo!()
    }

    /// The text of ids; with `skip_special_tokens`, without begin- and end-of-text and their like.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let _ = (ids, skip_special_tokens);
        todo!()
    }
}
