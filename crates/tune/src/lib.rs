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
//! | [`examples`] | what batches are made of |
//! | [`objective`] | losses of embeddings and of texts, with their gradients |
//! | [`gradient`] | the gradient of a batch, within a memory budget |
//! | [`parameters`] | what is learned, as a list of tensors |
//! | [`optimizer`] | AdamW, with its state in f32 or in 8 bits |
//! | [`schedule`] | the learning rate of a step |
//! | [`rates`] | learning rates by group |
//! | [`config`] | the settings of a run |
//! | [`plan`] | what a run will take, in bytes |
//! | [`trainer`] | the loop |
//! | [`checkpoint`] | the state of a run, in a file |
//! | [`folder`] | the folder of a run |
//! | [`metrics`] | `metrics.jsonl`: what a run measures, a line each |
//! | [`report`] | pages and pictures of it |

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod examples;
pub mod folder;
pub mod gradient;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod parameters;
pub mod plan;
pub mod rates;
pub mod report;
pub mod schedule;
pub mod trainer;

pub use config::Config;
pub use error::{Result, TuneError};
pub use trainer::Trainer;
