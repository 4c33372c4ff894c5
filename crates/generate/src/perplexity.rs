//! How well a model predicts a text: `exp` of the mean negative log-likelihood of its tokens.
//!
//! The text is cut into tokens as a whole, without special ones, and then into consecutive windows; what is left at the
//! end is dropped, unless the text is shorter than one window. Each window stands alone, from position 0 or behind the soft
//! prompt of an adapter: its tokens 0 to w − 2 predict its tokens 1 to w − 1. Several windows go through the blocks at a time, and the head sees a few
//! positions at a time, since the logits of a whole window would be larger than many a model.

use bouquet_kernels::math::exp_f64;
use bouquet_kernels::ops::cross_entropy::cross_entropy;
use bouquet_span::{CancelToken, Limits, Pass};

use crate::generation::check_positions;
use crate::{Adapted, GenerateError, Result};

/// Tokens that go through the blocks together, unless a window has more.
const TOKENS_AT_A_TIME: usize = 2048;

/// What to score.
#[derive(Clone, Debug)]
pub struct PerplexityOptions {
    /// Tokens of a window, at least 2.
    pub window: usize,
    /// Windows to score, from the beginning of the text; all where there is no number.
    pub max_windows: Option<usize>,
    /// To stop from another thread.
    pub cancel: CancelToken,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp(mean_nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood of a token, in nats.
    pub mean_nll: f64,
    /// Tokens that were predicted: one less than there are in each window.
    pub tokens: usize,
    /// Windows scored.
    pub windows: usize,
    /// Tokens of a window.
    pub window: usize,
}

/// Scores a text. `progress` is called with the windows done, all windows, and the mean negative log-likelihood so far.
///
/// # Errors
/// A window below 2 or beyond the model's positions, a text that is too short, and what the blocks refuse: also a window
/// whose tokens do not fit into memory. A window of more tokens than the text has is one of all its tokens.
pub fn perplexity<'a>(
    model: impl Into<Adapted<'a>>,
    text: &str,
    options: &PerplexityOptions,
    progress: &mut dyn FnMut(usize, usize, f64),
) -> Result<Perplexity> {
    let adapted = model.into();
    if options.window < 2 {
        let found = options.window as f64;
        return Err(GenerateError::Option { name: "the window", expected: "2 tokens or more", found });
    }
    let token_ids = adapted.model.tokenizer.encode(text, false)?.ids;
    if token_ids.len() < 2 {
        return Err(GenerateError::TooShort { tokens: token_ids.len() });
    }
    let window = options.window.min(token_ids.len());
    check_positions(&adapted, window)?;
    let windows: Vec<&[u32]> = token_ids.chunks_exact(window).take(options.max_windows.unwrap_or(usize::MAX)).collect();
    if windows.is_empty() {
        let (name, expected) = ("the number of windows", "1 or more");
        return Err(GenerateError::Option { name, expected, found: 0.0 });
    }

    let limits = Limits { deadline: None, cancel: options.cancel.clone() };
    let (mut sum, mut tokens, mut done) = (0.0, 0, 0);
    for group in windows.chunks((TOKENS_AT_A_TIME / (adapted.prompt_tokens() + window)).max(1)) {
        for loss in losses(&adapted, group, &limits)? {
            sum += loss;
            tokens += 1;
        }
        done += group.len();
        progress(done, windows.len(), sum / tokens as f64);
    }
    let mean_nll = sum / tokens as f64;
    Ok(Perplexity { perplexity: exp_f64(mean_nll), mean_nll, tokens, windows: windows.len(), window })
}

/// The negative log-likelihood of each token of each sequence but its first, sequences from position 0.
fn losses(adapted: &Adapted<'_>, sequences: &[&[u32]], limits: &Limits) -> Result<Vec<f64>> {
    let (model, prompt_tokens) = (adapted.model, adapted.prompt_tokens());
    let pass = adapted.pass(Pass { limits: limits.clone(), ..Pass::default() });
    let lengths: Vec<usize> = sequences.iter().map(|token_ids| prompt_tokens + token_ids.len()).collect();
    // Before hidden states are made: a window can be a whole text.
    model.blocks.admit(&lengths, &pass)?;
    let hidden = adapted.embed(sequences)?;
    let (hidden, _) = model.blocks.forward(hidden, &pass)?;
    let mut losses = Vec::with_capacity(hidden.tokens());
    for (rows, token_ids) in hidden.rows().zip(sequences) {
        let predicting = hidden.values().slice(rows.start + prompt_tokens..rows.end - 1);
        let normalized = model.head.normalize(&model.cpu, predicting);
        model.head.for_logits(&model.cpu, normalized.view(), |first, logits| {
            limits.check()?;
            let targets = &token_ids[first + 1..][..logits.rows()];
            let chunk = cross_entropy(&model.cpu, logits, targets);
            if let Some(place) = chunk.iter().position(|loss| !loss.is_finite()) {
                return Err(GenerateError::LogitsNotFinite { token_id: targets[place] as usize });
            }
            losses.extend(chunk);
            Ok(())
        })?;
    }
    Ok(losses)
}
