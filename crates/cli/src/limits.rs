//! What this machine could do at best, measured here and now: speeds are told as shares of it.

use bouquet_kernels::{Cpu, Weight, limits};
use bouquet_model::{Encoding, Network};
use bouquet_span::Site;

use crate::system;

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

/// What a token takes.
pub(crate) struct TokenCost {
    /// Bytes of the weights that one token passes, blocks and head.
    pub(crate) weight_bytes: f64,
    /// Operations in the blocks.
    pub(crate) block_ops: f64,
    /// Operations in the head.
    pub(crate) head_ops: f64,
}

impl Memory {
    /// Something else than weights; less of it where memory is short, which may then seem faster than it is.
    pub(crate) fn own() -> Memory {
        let available = system::available_memory_bytes().map_or(LEAST_BYTES, |bytes| bytes as usize);
        // Zeros would all be one page of the system.
        Memory::Own(vec![1; LEAST_BYTES.min(available / 2).max(1 << 20)])
    }

    /// What to read beside weights of so many bytes.
    pub(crate) fn of(weight_bytes: u64) -> Memory {
        if Self::bytes_of(weight_bytes) > 0 { Memory::own() } else { Memory::Weights }
    }

    /// Bytes that it takes besides the weights.
    pub(crate) fn bytes_of(weight_bytes: u64) -> u64 {
        if weight_bytes < LEAST_BYTES as u64 { LEAST_BYTES as u64 } else { 0 }
    }

    /// The pieces to read.
    pub(crate) fn pieces<'a>(&'a self, weights: impl Iterator<Item = &'a Weight>) -> Vec<&'a [u8]> {
        if let Memory::Own(own) = self {
            return vec![own];
        }
        let mut bytes = 0;
        let more = |piece: &&[u8]| {
            let before = bytes;
            bytes += piece.len();
            before < MOST_BYTES
        };
        weights.map(Weight::data).take_while(more).collect()
    }
}

impl MachineLimits {
    /// Measures both; takes some hundredths of a second.
    pub(crate) fn measure(cpu: &Cpu, encoding: Encoding, memory: Vec<&[u8]>) -> Self {
        MachineLimits {
            read_bytes_per_sec: limits::read_bytes_per_sec(cpu, &memory, 2),
            ops_per_sec: match arithmetic(encoding) {
                "f32" => limits::f32_ops_per_sec(cpu, 5),
                _ => limits::int8_ops_per_sec(cpu, 5),
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

    /// Half way between the two, for what ran between them.
    pub(crate) fn mean(self, other: Self) -> Self {
        MachineLimits {
            read_bytes_per_sec: (self.read_bytes_per_sec + other.read_bytes_per_sec) / 2.0,
            ops_per_sec: (self.ops_per_sec + other.ops_per_sec) / 2.0,
        }
    }
}

impl TokenCost {
    /// Of one token of a model. Where a token passes some of the experts, their share of all is counted.
    pub(crate) fn of(network: &Network) -> Self {
        let spec = &network.spec.block;
        let share = |site| match (site, spec.feed_forward.experts) {
            (Site::ExpertGate(_) | Site::ExpertUp(_) | Site::ExpertDown(_), Some(experts)) => {
                experts.per_token as f64 / experts.count as f64
            }
            _ => 1.0,
        };
        let (linears, head) = (spec.linears(), &network.head.weight);
        let mut cost = TokenCost {
            weight_bytes: head.bytes() as f64,
            block_ops: 0.0,
            head_ops: 2.0 * (head.rows() * head.cols()) as f64,
        };
        let blocks = linears.iter().cycle().take(linears.len() * network.spec.num_blocks);
        for (linear, weight) in blocks.zip(&network.linears) {
            cost.weight_bytes += share(linear.site) * weight.bytes() as f64;
            cost.block_ops += share(linear.site) * 2.0 * (weight.rows() * weight.cols()) as f64;
        }
        cost
    }
}

/// The arithmetic whose limit counts for an encoding.
pub(crate) fn arithmetic(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F32 | Encoding::Nf4 => "f32",
        Encoding::Stored | Encoding::Int8 | Encoding::Int4 => "int8",
    }
}
