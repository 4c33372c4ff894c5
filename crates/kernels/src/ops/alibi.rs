//! Attention with linear biases (Press et al. 2021, arXiv 2108.12409): a head adds `slope · (key − query)` to each
//! score. (Implementations that add `slope · key` differ by a constant per query, which softmax removes.)

/// The slope of each head. With `p` the largest power of two up to `heads`: head `h < p` has `2^(−8(h+1)/p)`; the
/// others take, in order, every second slope of the row for `2p` heads, starting with its first.
pub fn slopes(heads: usize) -> Vec<f32> {
    let _ = heads;
    todo!()
}
