//! A command a file.

pub(crate) mod bench;
mod chat;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod finetune;
pub(crate) mod forward;
mod generation_flags;
pub(crate) mod inspect;
mod interactive;
pub(crate) mod join;
pub(crate) mod merge;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod quantize;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod swarm;
mod writing;
