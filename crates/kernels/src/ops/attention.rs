//! Causal attention over packed sequences: `softmax(q kᵀ · scale + bias) v`, with grouped keys, ALiBi and a sliding
//! window, forward and backward. Probabilities are never stored; the backward makes them again.
//!
//! Keys and values are read from pieces of [`KEY_PIECE`] positions (rule 7), which is how a cache holds them; one pass
//! over a whole prompt fills the same pieces first and then reads them, so stepping and one pass are one code path.

use std::ops::Range;

use crate::{Cpu, MatrixView, MatrixViewMut};

/// Positions in a piece of keys. Piece `p` covers the absolute positions `p * KEY_PIECE ..` and no others.
pub const KEY_PIECE: usize = 256;

/// What all sequences of a call have in common.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head `h` reads key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Factor of `q · k`.
    pub scale: f32,
    /// ALiBi slope of each query head.
    pub alibi: Option<Vec<f32>>,
    /// A query at position `p` sees keys `p − window + 1 ..= p`; all up to `p` without a window.
    pub window: Option<usize>,
}

/// One piece: keys and values of up to [`KEY_PIECE`] positions, each `[kv_heads, capacity, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Keys, already rotated where the model rotates them.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Positions that the piece has room for.
    pub capacity: usize,
}

/// One sequence of a call.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    /// Its rows in the packed queries.
    pub rows: Range<usize>,
    /// The absolute position of its first query.
    pub start: usize,
    /// Piece `p` of its keys; those of positions `0 .. start + rows.len()` are filled. A piece that no query of this
    /// call can see (window) may be empty.
    pub pieces: Vec<Piece<'a>>,
}

/// `out[t] = Σ softmax(q[t] · k) v` per head: `queries` and `out` are `[tokens, heads * head_dim]`.
pub fn attention(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequences: &[Sequence<'_>],
    out: MatrixViewMut<'_>,
) {
    let _ = (cpu, shape, queries, sequences, out);
    todo!()
}

/// The gradients of [`attention`] for whole sequences (`start` = 0): `d_queries` is `[tokens, heads * head_dim]`,
/// `d_keys` and `d_values` are `[tokens, kv_heads * head_dim]`, all overwritten. `out` is the forward's result.
/// Sums over queries run in ascending (position, query head).
pub fn attention_backward(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequences: &[Sequence<'_>],
    out: MatrixView<'_>,
    d_out: MatrixView<'_>,
    d_queries: MatrixViewMut<'_>,
    d_keys: MatrixViewMut<'_>,
    d_values: MatrixViewMut<'_>,
) {
    let _ = (cpu, shape, queries, sequences, out, d_out, d_queries, d_keys, d_values);
    todo!()
}
