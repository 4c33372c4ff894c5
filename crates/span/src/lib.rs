//! The waist of Bouquet: what passes between the ends of a model and its blocks, and the trait behind which blocks
//! run: in this process, paged from disk, on a GPU or on somebody's machine.
//!
//! ```text
//! token_ids -> Embedding -> HiddenStates -> Span -> HiddenStates -> LmHead -> logits
//! ```
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`hidden_states`] | packed activations: `[tokens, hidden_size]` and the length of each sequence |
//! | [`linear_id`] | the name of one weight matrix: block and site |
//! | [`adapter`] | what is learned on top: low-rank matrices and deep prompts, with their gradients |
//! | [`pass`] | all that a request carries besides hidden states |
//! | [`span`](mod@span) | the trait [`Span`], and what a forward keeps for its backward |
//! | [`session`] | a handle on cached keys and values: position, rewind, reorder |
//! | [`chain`] | spans end to end are a span |
//! | [`rounded`] | a span as a narrow wire would have it |
//! | [`speed`] | how fast a span is, measured |
//! | [`fake`] | a span without weights, for tests of whatever stands on this trait |
//! | [`contract`] | the suite that every implementation passes |
//!
//! Calls block. Async begins and ends elsewhere. Nothing here knows a model or a network.
//!
//! ```
//! use std::sync::Arc;
//! use bouquet_kernels::Matrix;
//! use bouquet_span::fake::FakeSpan;
//! use bouquet_span::{Chain, HiddenStates, Limits, Pass, Returned, SessionShape, Span, Step};
//! let chain = Chain::new(vec![Arc::new(FakeSpan::new(0..2, 4)), Arc::new(FakeSpan::new(2..3, 4))])?;
//! // One sequence of 3 tokens in one pass ...
//! let hidden = HiddenStates::single(Matrix::from_vec(3, 4, (0..12).map(|value| value as f32 / 8.0).collect()));
//! let (whole, _) = chain.forward(hidden.clone(), &Pass::default())?;
//! // ... and in a session: the same bits.
//! let mut session = chain.open(SessionShape { sequences: 1, max_tokens: 3, max_rewind: 0 }, &Pass::default())?;
//! let step = Step { session: &mut session, hidden, returned: Returned::Last, limits: Limits::default() };
//! let stepped = chain.step(&mut [step]).remove(0)?;
//! assert_eq!(stepped, whole.last_positions());
//! # Ok::<(), bouquet_span::SpanError>(())
//! ```

#![forbid(unsafe_code)]

pub mod adapter;
pub mod chain;
pub mod contract;
pub mod error;
pub mod fake;
pub mod hidden_states;
pub mod linear_id;
pub mod pass;
pub mod rounded;
pub mod session;
pub mod span;
pub mod speed;

pub use adapter::{Adapter, LeafGrad, LowRank, LowRankGrad, PassGrad, Prompts};
pub use chain::Chain;
pub use error::{Gradient, Result, SpanError, counted, human_bytes};
pub use hidden_states::HiddenStates;
pub use linear_id::{LinearId, Site};
pub use pass::{CancelToken, Dropout, Keep, Limits, Pass, Rounding};
pub use rounded::Rounded;
pub use session::{Returned, Session, SessionShape, SessionState, SpanKey, Step};
pub use span::{Saved, Span};
pub use speed::Speed;
