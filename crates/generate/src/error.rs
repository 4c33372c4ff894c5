//! Why no text came out. The command line adds what to do.

use bouquet_model::ModelError;
use bouquet_span::{SpanError, counted};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, GenerateError>;

/// Why something could not be generated or scored.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A sampling option that no distribution can follow.
    #[error("{name} must be {expected}, not {found}")]
    Option {
        /// Which, as `generation_config.json` spells it.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {}, but the context has room for {context}, the answer included", counted(*prompt_tokens as u64, "token"))]
    PromptTooLong {
        /// Tokens of the prompt, and of the history before it.
        prompt_tokens: usize,
        /// Tokens that fit.
        context: usize,
        /// The most that a context of this model may have, where its positions set a limit.
        limit: Option<usize>,
    },
    /// A context beyond the positions that the model was made for.
    #[error("{asked} tokens were asked for, but the model is made for {}", counted(*limit as u64, "position"))]
    BeyondPositions {
        /// Tokens of the context or window.
        asked: usize,
        /// `max_position_embeddings` of the model.
        limit: usize,
    },
    /// Logits that are not numbers, or all of them −∞.
    #[error("the logits are not finite (token id {token_id})")]
    LogitsNotFinite {
        /// The first that is not, or 0 where all are −∞.
        token_id: usize,
    },
    /// A text that is too short for a token to be predicted from another.
    #[error("the text has {}; a perplexity needs at least 2", counted(*tokens as u64, "token"))]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
    },
    /// What the model or its blocks refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<SpanError> for GenerateError {
    fn from(error: SpanError) -> Self {
        GenerateError::Model(ModelError::Span(error))
    }
}

impl GenerateError {
    /// Whether the work was cancelled, rather than gone wrong.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, GenerateError::Model(ModelError::Span(SpanError::Cancelled)))
    }
}
