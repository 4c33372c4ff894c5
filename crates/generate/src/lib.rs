//! From a prompt to a text, and from a text to its perplexity: the sampler, stop rules, the generation loop, text in
//! whole characters. Last on the data path:
//!
//! ```text
//! text -> token_ids -> hidden states -> Span -> hidden states -> logits -> Sampler -> token -> Detokenizer -> text
//! ```
//!
//! Nothing here knows of terminals or files, or where blocks run.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`adapted`] | a model with what has been learned on top |
//! | [`generation`] | the loop: prompt in, tokens out, with a session that is kept |
//! | [`chat`] | conversations: from turns to the token ids of a prompt |
//! | [`sampler`] | the line that picks a token |
//! | [`stop`] | when a text ends |
//! | [`detokenizer`] | token ids to whole characters, as they come |
//! | [`perplexity`](mod@perplexity) | how well a model predicts a text |
//!
//! ```
//! use bouquet_generate::{Sampler, SamplingOptions};
//! let options = SamplingOptions { temperature: 0.7, top_p: 0.9, seed: 1, ..SamplingOptions::default() };
//! let mut sampler = Sampler::open(options)?;
//! let token_id = sampler.sample(&[0.0, 9.0, 1.0], &[])?;
//! assert_eq!(token_id, 1);
//! # Ok::<(), bouquet_generate::GenerateError>(())
//! ```

#![forbid(unsafe_code)]

pub mod adapted;
pub mod chat;
pub mod detokenizer;
pub mod error;
pub mod generation;
pub mod perplexity;
pub mod sampler;
pub mod stop;

pub use adapted::Adapted;
pub use chat::{ChatPrompt, chat_prompt, end_of_turn};
pub use detokenizer::Detokenizer;
pub use error::{GenerateError, Result};
pub use generation::{GenerateOptions, Generation, Generator, Timings, generate};
pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
pub use sampler::{Sampler, SamplingOptions};
pub use stop::{FinishReason, StopRules};
