//! What the tests share: numbers, comparisons, finite differences.
#![allow(dead_code)]

use bouquet_kernels::{Cpu, Isa, Matrix};
use proptest::test_runner::Config;

/// A small generator (SplitMix64); tests name their seeds.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Evenly from −1 to 1.
    pub(crate) fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    pub(crate) fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        Matrix::from_vec(rows, cols, self.vec(rows * cols))
    }
}

/// Every way this machine can compute: each instruction set it has, on 1, 2 and 3 threads. The first is the truth.
pub(crate) fn cpus() -> Vec<Cpu> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    available.flat_map(|isa| (1..=3).map(move |threads| Cpu::with_isa(isa, threads).unwrap())).collect()
}

/// How often a property is tried: `cases` times, or fewer if `PROPTEST_CASES` says so, for machines that are slow.
pub(crate) fn cases(cases: u32) -> Config {
    let most = std::env::var("PROPTEST_CASES").ok().and_then(|most| most.parse().ok());
    Config::with_cases(most.map_or(cases, |most: u32| most.min(cases)))
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Panics unless both hold the same bits.
#[track_caller]
pub(crate) fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert_eq!(x.to_bits(), y.to_bits(), "{what}: {x:e} and {y:e} at {i} of {}", a.len());
    }
}

/// Panics unless each number is within `tolerance` of the reference, relative to the largest of it (or 1).
#[track_caller]
pub(crate) fn assert_close(value: &[f32], reference: &[f64], tolerance: f64, what: &str) {
    assert_eq!(value.len(), reference.len(), "{what}");
    let largest = reference.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (x, y)) in value.iter().zip(reference).enumerate() {
        assert!((f64::from(*x) - y).abs() <= tolerance * largest, "{what}: {x:e} is not {y:e} at {i}");
    }
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// The gradient of `Σ f(x) · dy` at `x` by central differences in double precision.
pub(crate) fn finite_differences(x: &[f32], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    let along = |x: &[f64]| f(x).iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>();
    (0..x.len())
        .map(|i| {
            let here = x[i];
            x[i] = here + STEP;
            let above = along(&x);
            x[i] = here - STEP;
            let below = along(&x);
            x[i] = here;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}
