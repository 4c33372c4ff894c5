//! Softmax of one row, for routers and samplers.

/// In place: `xᵢ = e^(xᵢ − max) / Σ`. A row of −∞ alone becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let _ = x;
    todo!()
}

/// `dx = p · (dp − Σ p dp)`, where `p` is the softmax; overwrites `dp` with `dx`.
pub fn softmax_backward(p: &[f32], dp: &mut [f32]) {
    let _ = (p, dp);
    todo!()
}
