//! The errors of a span, as they are sent: a remote span refuses in the words of a local one.

use bouquet_span::{Gradient, LinearId, Site, SpanError};
use serde::{Deserialize, Serialize};

/// A [`SpanError`] that can travel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// [`SpanError::Shape`].
    Shape(String, u64, u64),
    /// [`SpanError::TooManyTokens`].
    TooManyTokens(u64, u64),
    /// [`SpanError::CacheFull`].
    CacheFull(u64, u64),
    /// [`SpanError::PassTooLarge`].
    PassTooLarge(u64, u64, u64),
    /// [`SpanError::SequenceNumbers`].
    SequenceNumbers(u64, u64),
    /// [`SpanError::Adapter`], with [`LinearId::counter`].
    Adapter(u64, String),
    /// [`SpanError::InputNotFinite`].
    InputNotFinite(u64, u64),
    /// [`SpanError::NotFinite`].
    NotFinite(u64, u64),
    /// [`SpanError::GradientNotFinite`]: the block, and which gradient.
    GradientNotFinite(u64, FaultyGradient),
    /// [`SpanError::DeadlinePassed`].
    DeadlinePassed,
    /// [`SpanError::Cancelled`].
    Cancelled,
    /// Another one, in words.
    Other(String),
}

/// A [`Gradient`] that can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultyGradient {
    /// [`Gradient::Output`].
    Output(u64),
    /// [`Gradient::Input`].
    Input(u64),
    /// [`Gradient::Adapter`], with a [`LinearId::counter`].
    Adapter(u64),
    /// [`Gradient::Prompts`].
    Prompts,
}

/// The names of what [`SpanError::Shape`] speaks of.
const SHAPES: [&str; 5] = [
    "hidden_size",
    "the number of sequences",
    "the length of a sequence",
    "the width of the prompts",
    "the sum of the lengths",
];

impl Fault {
    /// Whether another server of the same blocks would say the same.
    pub fn is_everywhere(&self) -> bool {
        !matches!(
            self,
            Fault::CacheFull(..) | Fault::PassTooLarge(..) | Fault::DeadlinePassed | Fault::Cancelled | Fault::Other(_)
        )
    }
}

impl From<SpanError> for Fault {
    fn from(error: SpanError) -> Fault {
        match error {
            SpanError::Shape { what, expected, found } => Fault::Shape(what.to_owned(), expected as u64, found as u64),
            SpanError::TooManyTokens { needed, limit } => Fault::TooManyTokens(needed as u64, limit as u64),
            SpanError::CacheFull { needed, available } => Fault::CacheFull(needed, available),
            SpanError::PassTooLarge { tokens, needed, available } => {
                Fault::PassTooLarge(tokens as u64, needed, available)
            }
            SpanError::SequenceNumbers { first, sequences } => Fault::SequenceNumbers(first, sequences as u64),
            SpanError::Adapter { linear, problem } => Fault::Adapter(linear.counter(), problem),
            SpanError::InputNotFinite { block, token } => Fault::InputNotFinite(block as u64, token as u64),
            SpanError::NotFinite { block, token } => Fault::NotFinite(block as u64, token as u64),
            SpanError::GradientNotFinite { block, gradient } => {
                let gradient = match gradient {
                    Gradient::Output { token } => FaultyGradient::Output(token as u64),
                    Gradient::Input { token } => FaultyGradient::Input(token as u64),
                    Gradient::Adapter(site) => FaultyGradient::Adapter(LinearId::new(block, site).counter()),
                    Gradient::Prompts => FaultyGradient::Prompts,
                };
                Fault::GradientNotFinite(block as u64, gradient)
            }
            SpanError::DeadlinePassed => Fault::DeadlinePassed,
            SpanError::Cancelled => Fault::Cancelled,
            other => Fault::Other(other.to_string()),
        }
    }
}

impl From<Fault> for SpanError {
    fn from(fault: Fault) -> SpanError {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match fault {
            Fault::Shape(what, expected, found) => {
                let what = SHAPES.into_iter().find(|known| **known == *what).unwrap_or("a shape");
                SpanError::Shape { what, expected: number(expected), found: number(found) }
            }
            Fault::TooManyTokens(needed, limit) => {
                SpanError::TooManyTokens { needed: number(needed), limit: number(limit) }
            }
            Fault::CacheFull(needed, available) => SpanError::CacheFull { needed, available },
            Fault::PassTooLarge(tokens, needed, available) => {
                SpanError::PassTooLarge { tokens: number(tokens), needed, available }
            }
            Fault::SequenceNumbers(first, sequences) => {
                SpanError::SequenceNumbers { first, sequences: number(sequences) }
            }
            Fault::Adapter(linear, problem) => match linear_of(linear) {
                Some(linear) => SpanError::Adapter { linear, problem },
                None => SpanError::Failed(problem),
            },
            Fault::InputNotFinite(block, token) => {
                SpanError::InputNotFinite { block: number(block), token: number(token) }
            }
            Fault::NotFinite(block, token) => SpanError::NotFinite { block: number(block), token: number(token) },
            Fault::GradientNotFinite(block, gradient) => {
                let gradient = match gradient {
                    FaultyGradient::Output(token) => Gradient::Output { token: number(token) },
                    FaultyGradient::Input(token) => Gradient::Input { token: number(token) },
                    FaultyGradient::Adapter(linear) => match linear_of(linear) {
                        Some(linear) => Gradient::Adapter(linear.site),
                        None => Gradient::Prompts,
                    },
                    FaultyGradient::Prompts => Gradient::Prompts,
                };
                SpanError::GradientNotFinite { block: number(block), gradient }
            }
            Fault::DeadlinePassed => SpanError::DeadlinePassed,
            Fault::Cancelled => SpanError::Cancelled,
            Fault::Other(problem) => SpanError::Failed(problem),
        }
    }
}

/// The linear that a [`LinearId::counter`] is of.
pub fn linear_of(counter: u64) -> Option<LinearId> {
    let expert = u16::try_from(counter >> 8 & 0xff_ffff).ok()?;
    let site = match counter & 0xff {
        0 => Site::Qkv,
        1 => Site::Q,
        2 => Site::K,
        3 => Site::V,
        4 => Site::O,
        5 => Site::Gate,
        6 => Site::Up,
        7 => Site::Down,
        8 => Site::Router,
        9 => Site::ExpertGate(expert),
        10 => Site::ExpertUp(expert),
        11 => Site::ExpertDown(expert),
        _ => return None,
    };
    Some(LinearId::new(usize::try_from(counter >> 32).ok()?, site))
}
