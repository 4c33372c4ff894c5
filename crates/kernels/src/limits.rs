//! What this machine could do at best: arithmetic in registers and reading from memory, measured. Speeds are told as a
//! share of these, measured in the same run, since other programs and heat move them.

use std::time::Instant;

use crate::simd::{ints, spin_floats};
use crate::{Cpu, Isa};

/// Operations per second of int8 products, a multiply-add counted as two, on all threads: the best of `runs` short ones.
pub fn int8_ops_per_sec(cpu: &Cpu, runs: usize) -> f64 {
    best(cpu, runs, |isa| ints::spin_products(isa, 20_000))
}

/// The same for f32.
pub fn f32_ops_per_sec(cpu: &Cpu, runs: usize) -> f64 {
    best(cpu, runs, |isa| spin_floats(isa, 20_000))
}

fn best(cpu: &Cpu, runs: usize, spin: impl Fn(Isa) -> u64 + Sync) -> f64 {
    let run = |_| {
        let start = Instant::now();
        let operations = std::sync::atomic::AtomicU64::new(0);
        cpu.run(cpu.threads(), |_| {
            operations.fetch_add(spin(cpu.isa()), std::sync::atomic::Ordering::Relaxed);
        });
        operations.into_inner() as f64 / start.elapsed().as_secs_f64()
    };
    (0..runs).map(run).fold(0.0, f64::max)
}

/// Bytes per second read from `memory`, which should be much larger than all caches in all, on all threads: the best of
/// `runs`. Pieces of less than 64 KiB, which would measure the start of a read, are left out.
pub fn read_bytes_per_sec(cpu: &Cpu, memory: &[&[u8]], runs: usize) -> f64 {
    // Small enough to be shared evenly, large enough that streams run in.
    const PART: usize = 4 << 20;
    let parts = memory.iter().flat_map(|piece| piece.chunks(PART));
    let parts: Vec<&[u8]> = parts.filter(|part| part.len() >= 64 << 10).collect();
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let run = |_| {
        let start = Instant::now();
        cpu.run(parts.len(), |part| {
            ints::spin_reads(cpu.isa(), parts[part]);
        });
        bytes as f64 / start.elapsed().as_secs_f64()
    };
    (0..runs).map(run).fold(0.0, f64::max)
}
