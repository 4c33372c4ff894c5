//! The program as people use it: the built binary on the models of this repository, what it prints, and with which code
//! it ends.

#![forbid(unsafe_code)]

mod adapter;
mod bad_files;
mod bad_gguf;
mod bad_requests;
mod bench;
mod chat;
mod compare;
mod convert;
mod doctor;
mod embed;
mod finetune;
mod finetune_memory;
#[cfg(unix)]
mod finetune_stopped;
mod forward;
mod harness;
mod hub;
#[cfg(unix)]
mod interrupt;
mod measure;
mod quantize;
mod run;
/// The hub of that crate's tests; not all that it can do is needed here.
#[allow(dead_code)]
#[path = "../../../hub/tests/hub/server.rs"]
mod server;
#[cfg(unix)]
mod terminal;
mod tiny_gguf;
mod together;
