//! Counter-based dropout (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): whether a channel of a
//! token is kept is a hash of where it stands, so that any machine, in any batch and any order, draws the same.

use crate::Cpu;
use crate::simd::per_isa;

/// Where a row of activations stands. Two rows with the same coordinates are dropped alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutRow {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Which of several passes over the same text (SimCSE draws two).
    pub view: u32,
    /// Index of the sequence in the logical batch.
    pub sequence: u64,
    /// Position of the token in its sequence.
    pub position: u64,
    /// Which linear.
    pub linear: u64,
}

/// One row in place, `x = x / (1 − rate)` where kept and 0 where dropped; each channel is dropped with probability `rate`
/// (0 ≤ rate < 1, else it panics). It is its own backward: apply it to the gradient with the same coordinates.
pub fn dropout(cpu: &Cpu, row: DropoutRow, rate: f32, x: &mut [f32]) {
    assert!((0.0..1.0).contains(&rate), "a dropout rate of {rate}");
    let threshold = (f64::from(rate) * 4_294_967_296.0) as u32;
    let kept = 1.0 - rate;
    let key = row.key();
    drop_channels(cpu, key as u32, (key >> 32) as u32, threshold, kept, x);
}

per_isa! {
    fn drop_channels(low: u32, high: u32, threshold: u32, kept: f32, x: &mut [f32]) {
        for (channel, x) in x.iter_mut().enumerate() {
            let draw = mix32(mix32((channel as u32).wrapping_add(low)) ^ high);
            *x = if draw < threshold { 0.0 } else { *x / kept };
        }
    }
}

impl DropoutRow {
    /// A hash of all coordinates.
    fn key(&self) -> u64 {
        [self.seed, self.step, u64::from(self.view), self.sequence, self.position, self.linear]
            .into_iter()
            .fold(0, |key, coordinate| mix64(key ^ coordinate).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }
}

/// A bijection in which each bit of the input flips each of the output with even odds: the finalizer of MurmurHash3.
#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

/// The same for 64 bits: the output function of SplitMix64 (Steele et al. 2014).
fn mix64(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
