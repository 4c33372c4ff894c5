//! What a span refuses, and why.

use std::fmt;
use std::ops::Range;

use crate::{LinearId, Site};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, SpanError>;

/// Why a span did not do what it was asked. The request is at fault, or the machine that runs it; never a panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpanError {
    /// Hidden states, gradients or matrices of another shape than this span takes.
    #[error("{what} should be {expected}, not {found}")]
    Shape {
        /// Which number.
        what: &'static str,
        /// What this span takes.
        expected: usize,
        /// What it was given.
        found: usize,
    },
    /// More tokens than the session or the pass reserved.
    #[error("a sequence of {} does not fit into a context of {limit}", counted(*needed as u64, "token"))]
    TooManyTokens {
        /// Tokens that the sequence would have.
        needed: usize,
        /// Tokens reserved for it.
        limit: usize,
    },
    /// Cached keys and values for this session do not fit into the memory that is left for them.
    #[error("a cache of {} does not fit: {} are left for it", human_bytes(*needed), human_bytes(*available))]
    CacheFull {
        /// Bytes that the session would reserve.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// A forward or a backward that would work in more memory than is left for it.
    #[error("computing {} at a time takes {}, and {} are left for it",
        counted(*tokens as u64, "token"), human_bytes(*needed), human_bytes(*available))]
    PassTooLarge {
        /// Tokens of all sequences together.
        tokens: usize,
        /// Bytes that they would take.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// Dropout whose sequences have numbers beyond what can be counted.
    #[error("dropout cannot number {sequences} sequences from {first} on")]
    SequenceNumbers {
        /// [`Dropout::first_sequence`](crate::Dropout::first_sequence).
        first: u64,
        /// Sequences of the pass.
        sequences: usize,
    },
    /// A rewind further back than was promised when the session was opened, or forward.
    #[error("sequence {sequence} cannot rewind to position {to}: positions {}..={} are kept", kept.start, kept.end)]
    Rewind {
        /// Which sequence of the session.
        sequence: usize,
        /// The position asked for.
        to: usize,
        /// The positions that it can go to: `start` to `end`, both included.
        kept: Range<usize>,
    },
    /// A session, or something saved by a forward, that belongs to another span.
    #[error("{0} belongs to another span")]
    Foreign(&'static str),
    /// A backward of a forward that kept nothing.
    #[error("nothing was kept for a backward")]
    NothingSaved,
    /// An adapter matrix whose shape does not suit its linear, or a linear that is not there.
    #[error("the adapter does not fit {linear}: {problem}")]
    Adapter {
        /// Which linear.
        linear: LinearId,
        /// What is wrong.
        problem: String,
    },
    /// A NaN or an infinity in the hidden states that were handed in.
    #[error("what goes into block {block} is not finite (token {token})")]
    InputNotFinite {
        /// The block, counted from the start of the model.
        block: usize,
        /// The row of the packed hidden states.
        token: usize,
    },
    /// A NaN or an infinity came out of a block.
    #[error("the output of block {block} is not finite (token {token})")]
    NotFinite {
        /// The block, counted from the start of the model.
        block: usize,
        /// The row of the packed hidden states.
        token: usize,
    },
    /// A NaN or an infinity in a gradient on its way back through a block.
    #[error("the gradient {gradient} of block {block} is not finite")]
    GradientNotFinite {
        /// The block, counted from the start of the model.
        block: usize,
        /// Which gradient.
        gradient: Gradient,
    },
    /// The deadline of the request passed.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The request was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The spans of a chain do not follow each other.
    #[error("a chain needs spans that follow each other, but blocks {}..{} come after {}..{}", next.start, next.end, previous.start, previous.end)]
    Gap {
        /// Blocks of the earlier span.
        previous: Range<usize>,
        /// Blocks of the later one.
        next: Range<usize>,
    },
    /// Whoever runs the blocks is gone, as is told; another that runs them may answer.
    #[error("{0}")]
    Unavailable(String),
    /// The span could not do its work for a reason of its own (a disk, a device).
    #[error("{0}")]
    Failed(String),
}

/// A gradient at a block, as a backward meets them: what it was handed, and what it made of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// For the block's output, as it was handed in.
    Output {
        /// The row of the packed hidden states.
        token: usize,
    },
    /// For the block's input: what the block made of a finite one for its output.
    Input {
        /// The row of the packed hidden states.
        token: usize,
    },
    /// For an adapted linear of the block.
    Adapter(Site),
    /// For the block's prompts.
    Prompts,
}

impl fmt::Display for Gradient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gradient::Output { token } => write!(f, "handed in for the output (token {token})"),
            Gradient::Input { token } => write!(f, "for the input (token {token})"),
            Gradient::Adapter(site) => write!(f, "for the adapter at {site}"),
            Gradient::Prompts => write!(f, "for the prompts"),
        }
    }
}

impl SpanError {
    /// A gradient for the output of `block` that was handed in with a row that is not finite.
    pub fn gradient_of_output(block: usize, token: usize) -> Self {
        SpanError::GradientNotFinite { block, gradient: Gradient::Output { token } }
    }

    /// A gradient for the input of `block` that it made with a row that is not finite.
    pub fn gradient_of_input(block: usize, token: usize) -> Self {
        SpanError::GradientNotFinite { block, gradient: Gradient::Input { token } }
    }
}

/// A number of things as errors say it: `1 token`, `2 tokens`.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as errors say them, in MiB or GiB.
pub fn human_bytes(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    match bytes {
        GIB.. => format!("{:.2} GiB", bytes as f64 / GIB as f64),
        _ => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_with_their_things() {
        assert_eq!([0, 1, 2].map(|number| counted(number, "token")), ["0 tokens", "1 token", "2 tokens"]);
        assert_eq!([1 << 19, 3 << 29].map(human_bytes), ["0.5 MiB", "1.50 GiB"]);
    }
}
