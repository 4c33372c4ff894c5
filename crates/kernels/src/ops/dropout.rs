//! Counter-based dropout (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): whether a channel of a
//! token is kept is a hash of where it stands, so that any machine, in any batch and any order, draws the same.

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

/// In place, `x = x / (1 − rate)` where kept and 0 where dropped; each channel is dropped with probability `rate`
/// (0 ≤ rate < 1). It is its own backward: apply it to the gradient with the same coordinates.
pub fn dropout(row: DropoutRow, rate: f32, x: &mut [f32]) {
    let _ = (row, rate, x);
    todo!()
}
