//! How to compute: on how many threads, with which instruction set. No result depends on either.

use anyhow::Result;
use bouquet_kernels::{Cpu, Isa};
use clap::ValueEnum;

use crate::errors::asked_wrongly;
use crate::system;

/// How to compute: flags of every command that does. No result depends on them.
#[derive(Clone, clap::Args)]
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
    pub(crate) fn flag(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }

    fn variants(self) -> &'static [Isa] {
        match self {
            IsaName::Scalar => &[Isa::Scalar],
            IsaName::Avx2 => &[Isa::Avx2],
            IsaName::Avxvnni => &[Isa::AvxVnni],
            IsaName::Avx512 => &[Isa::Avx512Vnni, Isa::Avx512],
            IsaName::Amx => &[Isa::Amx],
            IsaName::Neon => &[Isa::NeonI8mm, Isa::NeonDot, Isa::Neon],
        }
    }
}
