//! Fine-tuning: a frozen model, a little that is learned on top, an objective, and a loop that can be stopped at any
//! moment and goes on to the same bits.
//!
//! ```text
//! files -> records -> batches -> token_ids -> forward -> loss -> backward -> gradients -> optimizer -> adapter
//! ```
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`data`] | rows of files as records, and which of them make a batch |
//! | [`objective`] | losses of embeddings and of texts, with their gradients |
//! | [`gradient`] | the gradient of a batch, within a memory budget |
//! | [`parameters`] | what is learned, as a list of tensors |
//! | [`optimizer`] | AdamW, with its state in f32 or in 8 bits |
//! | [`schedule`] | the learning rate of a step |

#![forbid(unsafe_code)]

pub mod data;
pub mod gradient;
pub mod objective;
pub mod optimizer;
pub mod parameters;
pub mod schedule;
