//! Opening a model for a command: the folder, the threads, and the memory that its sessions may take.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_kernels::Cpu;
use bouquet_model::{Encoding, Model, Network, OpenOptions};

use crate::system;

/// Flags that every command that computes has.
#[derive(clap::Args)]
pub(crate) struct ThreadArgs {
    /// The result does not depend on it [default: all there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// A model, and how long it took to open.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

impl ThreadArgs {
    /// How many were asked for.
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(system::threads, usize::from)
    }
}

/// Memory that caches and passes may take where nobody can say how much there is: what a machine of 8 GiB can spare.
const MEMORY_BYTES_IF_UNKNOWN: u64 = 4 << 30;

/// Opens what of a folder's model needs no tokenizer.
pub(crate) fn open_network(folder: &Path, threads: usize) -> Result<Network> {
    let memory_bytes = system::available_memory_bytes().unwrap_or(MEMORY_BYTES_IF_UNKNOWN);
    Ok(Network::open(folder, &OpenOptions { cpu: Arc::new(Cpu::new(threads)), memory_bytes, encoding: Encoding::F32 })?)
}

/// Opens the model of a folder; what it computes with may take the memory that is there.
pub(crate) fn open(folder: &Path, threads: usize) -> Result<Opened> {
    let start = Instant::now();
    let memory_bytes = system::available_memory_bytes().unwrap_or(MEMORY_BYTES_IF_UNKNOWN);
    let model =
        Model::open(folder, &OpenOptions { cpu: Arc::new(Cpu::new(threads)), memory_bytes, encoding: Encoding::F32 })?;
    Ok(Opened { model, time: start.elapsed() })
}
