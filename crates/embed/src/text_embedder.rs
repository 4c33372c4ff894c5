//! Texts to vectors: a tokenizer before an [`Embedder`].

use std::ops::AddAssign;
use std::thread;

use bouquet_kernels::Matrix;
use bouquet_model::Tokenizer;
use bouquet_model::pooling::unit_rows;
use bouquet_span::Pass;

use crate::{Embedder, Result};

/// Texts that are cut into tokens on a thread at least: fewer are not worth one.
const TEXTS_PER_THREAD: usize = 64;

/// A model as a function from texts to vectors.
#[derive(Clone, Copy)]
pub struct TextEmbedder<'a> {
    /// Cuts texts into tokens.
    pub tokenizer: &'a Tokenizer,
    /// What becomes of the tokens.
    pub embedder: Embedder<'a>,
    /// Tokens of a text, those that the tokenizer puts around it included; what is beyond is dropped.
    pub max_tokens: usize,
    /// Put before each text.
    pub prefix: &'a str,
    /// Whether vectors are made 1 long.
    pub normalize: bool,
}

/// The vectors of some texts, and what they took.
pub struct Embedded {
    /// `[texts, features]`.
    pub vectors: Matrix,
    /// What was counted.
    pub counts: Counts,
}

/// What was counted while texts were embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Texts.
    pub texts: usize,
    /// Tokens that were computed.
    pub tokens: usize,
    /// Texts that had more tokens than are computed.
    pub cut: usize,
    /// Texts that had none, whose vectors are zeros.
    pub empty: usize,
}

impl TextEmbedder<'_> {
    /// The vectors of texts, in their order. A text without tokens becomes zeros.
    ///
    /// # Errors
    /// A text that the tokenizer cannot cut, and those of [`Embedder::embed`].
    pub fn embed<T: AsRef<str> + Sync>(&self, texts: &[T], pass: &Pass) -> Result<Embedded> {
        let (sequences, cut) = self.tokens(texts)?;
        let vectors = self.embedder.embed(&sequences, pass)?;
        let counts = Counts {
            texts: texts.len(),
            tokens: sequences.iter().map(Vec::len).sum(),
            cut,
            empty: sequences.iter().filter(|ids| ids.is_empty()).count(),
        };
        let vectors = if self.normalize { unit_rows(vectors.view()) } else { vectors };
        Ok(Embedded { vectors, counts })
    }

    /// The token ids of texts, and how many texts had more.
    ///
    /// # Errors
    /// A text that the tokenizer cannot cut.
    pub fn tokens<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<(Vec<Vec<u32>>, usize)> {
        let threads = self.embedder.network.cpu.threads();
        if self.prefix.is_empty() {
            return tokens(self.tokenizer, texts, self.max_tokens, threads);
        }
        let texts: Vec<String> = texts.iter().map(|text| format!("{}{}", self.prefix, text.as_ref())).collect();
        tokens(self.tokenizer, &texts, self.max_tokens, threads)
    }
}

/// The token ids of texts, with what the tokenizer puts around a text, none with more than `max_tokens`; and how many texts
/// had more. What is learned is cut like this, too.
///
/// # Errors
/// A text that the tokenizer cannot cut.
pub fn tokens<T: AsRef<str> + Sync>(
    tokenizer: &Tokenizer,
    texts: &[T],
    max_tokens: usize,
    threads: usize,
) -> Result<(Vec<Vec<u32>>, usize)> {
    let chunk = texts.len().div_ceil(threads.max(1)).max(TEXTS_PER_THREAD);
    let cut = |texts: &[T]| -> Result<Vec<(Vec<u32>, bool)>> {
        texts.iter().map(|text| cut(tokenizer, text.as_ref(), max_tokens)).collect()
    };
    let parts: Vec<Result<Vec<_>>> = if texts.len() <= chunk {
        vec![cut(texts)]
    } else {
        thread::scope(|scope| {
            let threads: Vec<_> = texts.chunks(chunk).map(|texts| scope.spawn(move || cut(texts))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    };
    let (mut sequences, mut longer) = (Vec::with_capacity(texts.len()), 0);
    for part in parts {
        for (ids, was_longer) in part? {
            sequences.push(ids);
            longer += usize::from(was_longer);
        }
    }
    Ok((sequences, longer))
}

/// The ids of a text, and whether it had more. Special tokens around it stay when its end is dropped.
fn cut(tokenizer: &Tokenizer, text: &str, max_tokens: usize) -> Result<(Vec<u32>, bool)> {
    let mut ids = tokenizer.encode(text, true)?.ids;
    if ids.len() <= max_tokens {
        return Ok((ids, false));
    }
    let plain = tokenizer.encode(text, false)?.ids;
    let around = ids.len() - plain.len().min(ids.len());
    let place = (0..=around).find(|&before| ids[before..].starts_with(&plain));
    match place {
        Some(before) if around < max_tokens => {
            let end = before + plain.len();
            ids.drain(before + max_tokens - around..end);
        }
        _ => ids.truncate(max_tokens),
    }
    Ok((ids, true))
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.texts += other.texts;
        self.tokens += other.tokens;
        self.cut += other.cut;
        self.empty += other.empty;
    }
}
