//! The program as people use it: the built binary on the models of this repository, what it prints, and with which code
//! it ends.

#![forbid(unsafe_code)]

mod bad_files;
mod bad_requests;
mod forward;
mod harness;
#[cfg(unix)]
mod interrupt;
mod measure;
mod quantize;
mod run;
