//! Opening a model for a command: the folder, the threads, and the memory that its sessions may take.

use std::path::{Component, Path};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_kernels::{Cpu, Isa};
use bouquet_model::{Encoding, Model, Network, OpenOptions};
use clap::ValueEnum;

use crate::errors::{asked_wrongly, wrong};
use crate::system;

/// How to compute: flags of every command that does. No result depends on them.
#[derive(clap::Args)]
pub(crate) struct ComputeArgs {
    /// Threads; the result does not depend on it [default: all there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// The best instruction set up to this one; the result does not depend on it [default: the best of this machine]
    #[arg(long, value_enum, value_name = "SET")]
    isa: Option<IsaName>,
}

/// What an instruction set is called on the command line; each has its variants, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IsaName {
    Scalar,
    Avx2,
    Avxvnni,
    Avx512,
    Amx,
    Neon,
}

/// A model, and how long it took to open.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

impl ComputeArgs {
    /// How many threads were asked for.
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(system::threads, usize::from)
    }

    /// Instruction set and threads.
    ///
    /// # Errors
    /// An instruction set that this machine does not have.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let Some(name) = self.isa else { return Ok(Cpu::new(self.threads())) };
        let cpu = name.variants().iter().find_map(|&isa| Cpu::with_isa(isa, self.threads()));
        cpu.ok_or_else(|| {
            let here: Vec<_> = IsaName::available().map(IsaName::flag).collect();
            asked_wrongly(format!("this machine does not have {}", name.flag()), format!("it has {}", here.join(", ")))
        })
    }
}

impl IsaName {
    /// Those that this machine has.
    pub(crate) fn available() -> impl Iterator<Item = IsaName> {
        IsaName::value_variants().iter().copied().filter(|name| name.variants().iter().any(|isa| isa.is_available()))
    }

    /// As it is typed.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            IsaName::Scalar => "scalar",
            IsaName::Avx2 => "avx2",
            IsaName::Avxvnni => "avxvnni",
            IsaName::Avx512 => "avx512",
            IsaName::Amx => "amx",
            IsaName::Neon => "neon",
        }
    }

    fn variants(self) -> &'static [Isa] {
        match self {
            IsaName::Scalar => &[Isa::Scalar],
            IsaName::Avx2 => &[Isa::Avx2],
            IsaName::Avxvnni => &[Isa::AvxVnni],
            IsaName::Avx512 => &[Isa::Avx512Vnni, Isa::Avx512],
            // No kernels of its own yet.
            IsaName::Amx => &[],
            IsaName::Neon => &[Isa::Neon],
        }
    }
}

/// Memory that caches and passes may take where nobody can say how much there is: what a machine of 8 GiB can spare.
const MEMORY_BYTES_IF_UNKNOWN: u64 = 4 << 30;

/// Opens what of a folder's model needs no tokenizer.
pub(crate) fn open_network(folder: &Path, cpu: Cpu, encoding: Encoding) -> Result<Network> {
    check_folder(folder)?;
    Ok(Network::open(folder, &options(cpu, encoding))?)
}

/// How models are opened here: what they compute with may take the memory that is there.
pub(crate) fn options(cpu: Cpu, encoding: Encoding) -> OpenOptions {
    let memory_bytes = system::available_memory_bytes().unwrap_or(MEMORY_BYTES_IF_UNKNOWN);
    OpenOptions::new(cpu, memory_bytes, encoding)
}

/// Opens the model of a folder.
pub(crate) fn open(folder: &Path, cpu: Cpu, encoding: Encoding) -> Result<Opened> {
    check_folder(folder)?;
    let start = Instant::now();
    let model = Model::open(folder, &options(cpu, encoding))?;
    Ok(Opened { model, time: start.elapsed() })
}

/// Refuses a name of the hub, which is no folder, in words that help.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    if folder.exists() || !is_hub_name(folder) {
        return Ok(());
    }
    let name = folder.display();
    Err(wrong(
        format!("{name} is not a folder here, and models are opened from a local folder"),
        format!("fetch it first, with `hf download {name} --local-dir DIR` say, and give that folder"),
    ))
}

/// `org/name`, without a dot or a slash in front.
fn is_hub_name(path: &Path) -> bool {
    let normal = path.components().filter(|component| matches!(component, Component::Normal(_))).count();
    normal == 2 && path.components().count() == 2 && !path.to_string_lossy().ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (path, expected) in [
            ("bigscience/bloom-560m", true),
            ("./bigscience/bloom", false),
            ("/models/bloom", false),
            ("../bloom", false),
            ("bloom", false),
            ("a/b/c", false),
            ("models/bloom/", false),
        ] {
            assert_eq!(is_hub_name(Path::new(path)), expected, "{path}");
        }
    }
}
