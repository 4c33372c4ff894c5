//! What this machine could do at best, measured here and now: speeds are told as shares of it.

use bouquet_kernels::{Cpu, Weight, limits};
use bouquet_model::Encoding;

/// Reads that are measured: more would take long.
const MOST_BYTES: usize = 2 << 30;

/// Memory that certainly does not stay in the caches, for models that would.
const LEAST_BYTES: usize = 256 << 20;

/// What to read when bandwidth is measured: the weights themselves, so that measuring takes no memory; something else
/// where they are few.
pub(crate) enum Memory {
    Weights,
    Own(Vec<u8>),
}

/// Limits of reads and of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MachineLimits {
    pub(crate) read_bytes_per_sec: f64,
    /// In int8, or in f32 where an encoding is computed in that; a multiply-add counts as two.
    pub(crate) ops_per_sec: f64,
}

impl Memory {
    /// What to read beside these weights.
    pub(crate) fn of(weights: &[Weight]) -> Memory {
        let bytes: usize = weights.iter().map(|weight| weight.data().len()).sum();
        // Zeros would all be one page of the system.
        if bytes < LEAST_BYTES { Memory::Own(vec![1; LEAST_BYTES]) } else { Memory::Weights }
    }

    /// The pieces to read.
    pub(crate) fn pieces<'a>(&'a self, weights: &'a [Weight]) -> Vec<&'a [u8]> {
        let Memory::Weights = self else {
            let Memory::Own(own) = self else { unreachable!("there are two kinds") };
            return vec![own];
        };
        let mut bytes = 0;
        let more = |piece: &&[u8]| {
            let before = bytes;
            bytes += piece.len();
            before < MOST_BYTES
        };
        weights.iter().map(Weight::data).take_while(more).collect()
    }
}

impl MachineLimits {
    /// Measures both; takes some hundredths of a second.
    pub(crate) fn measure(cpu: &Cpu, encoding: Encoding, memory: Vec<&[u8]>) -> Self {
        MachineLimits {
            read_bytes_per_sec: limits::read_bytes_per_sec(cpu, &memory, 2),
            ops_per_sec: match encoding {
                Encoding::F32 => limits::f32_ops_per_sec(cpu, 5),
                Encoding::Int8 | Encoding::Int4 => limits::int8_ops_per_sec(cpu, 5),
            },
        }
    }

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        MachineLimits {
            read_bytes_per_sec: self.read_bytes_per_sec.max(other.read_bytes_per_sec),
            ops_per_sec: self.ops_per_sec.max(other.ops_per_sec),
        }
    }
}
