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
//! | [`data`] | rows of files as records, records as token ids, and which of them make a batch |
//! | [`optimizer`] | AdamW, with its state in f32 or in 8 bits |
//! | [`schedule`] | the learning rate of a step |

#![forbid(unsafe_code)]

pub mod data;
pub mod optimizer;
pub mod schedule;
