//! Attention with linear biases (Press et al. 2021, arXiv 2108.12409): a head adds `slope · (key − query)` to each
//! score. (Implementations that add `slope · key` differ by a constant per query, which softmax removes.)

use crate::math::pow;

/// The slope of each head. With `p` the largest power of two up to `heads`: head `h < p` has `2^(−8(h+1)/p)`; the
/// others take, in order, every second slope of the row for `2p` heads, starting with its first. Rounded where
/// transformers rounds them to f32: first `2^(−8/p)`, then its power. A distance multiplies what they are off, so a
/// better rounding would be further from the model that was trained.
pub fn slopes(heads: usize) -> Vec<f32> {
    if heads == 0 {
        return Vec::new();
    }
    let power = 1 << heads.ilog2();
    let slope = |head: usize, heads: usize| {
        let base = pow(2.0, -8.0 / heads as f64) as f32;
        pow(f64::from(base), (head + 1) as f64) as f32
    };
    let first = (0..power).map(|head| slope(head, power));
    let others = (0..heads - power).map(|head| slope(2 * head, 2 * power));
    first.chain(others).collect()
}
