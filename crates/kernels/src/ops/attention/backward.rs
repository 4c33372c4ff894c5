//! The backward of attention, one task per (sequence, key head).
//!
//! With `p` the probabilities of a row, `D = out · d_out` and `dp = d_out · v`: `ds = p (dp − D) · scale`, and then
//! `d_q = Σ ds k`, `d_k = Σ ds q`, `d_v = Σ p d_out` (Dao et al. 2022, arXiv 2205.14135, section B.4).

use std::ops::Range;

use super::{AttentionShape, KEY_PIECE, Sequence, Softmax, exponentials, within_piece};
use crate::cpu::SharedOut;
use crate::lanes::LANES;
use crate::math::exp;
use crate::simd::{Chain, chains, dots, per_isa};
use crate::{Cpu, MatrixView, MatrixViewMut, lanes};

/// The gradients of [`attention`](super::attention) for whole sequences (`start` = 0): `d_queries` is
/// `[tokens, heads * head_dim]`, `d_keys` and `d_values` are `[tokens, kv_heads * head_dim]`, all overwritten (rows of no
/// sequence with 0). `out` is the forward's result. Sums over queries run in ascending (position, query head). Panics
/// when shapes do not fit together.
pub fn attention_backward(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequences: &[Sequence<'_>],
    out: MatrixView<'_>,
    d_out: MatrixView<'_>,
    mut d_queries: MatrixViewMut<'_>,
    mut d_keys: MatrixViewMut<'_>,
    mut d_values: MatrixViewMut<'_>,
) {
    shape.check(queries, sequences);
    let wide = (queries.rows(), queries.cols());
    assert_eq!([(out.rows(), out.cols()), (d_out.rows(), d_out.cols())], [wide; 2], "the shapes of out and d_out");
    assert_eq!((d_queries.rows(), d_queries.cols()), wide, "the shape of d_queries");
    let narrow = (queries.rows(), shape.kv_heads * shape.head_dim);
    assert_eq!((d_keys.rows(), d_keys.cols()), narrow, "the shape of d_keys");
    assert_eq!((d_values.rows(), d_values.cols()), narrow, "the shape of d_values");
    assert!(sequences.iter().all(|sequence| sequence.start == 0), "the backward is one of whole sequences");
    for gradient in [d_queries.data_mut(), d_keys.data_mut(), d_values.data_mut()] {
        gradient.fill(0.0);
    }
    let gradients = Gradients {
        queries: SharedOut::new(&mut d_queries),
        keys: SharedOut::new(&mut d_keys),
        values: SharedOut::new(&mut d_values),
    };
    cpu.run(sequences.len() * shape.kv_heads, |task| {
        let (sequence, kv_head) = (&sequences[task / shape.kv_heads], task % shape.kv_heads);
        for position in 0..sequence.rows.len() {
            for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
                add_row(cpu, shape, queries, sequence, out, d_out, position, head, &gradients);
            }
        }
    });
}

struct Gradients<'a> {
    queries: SharedOut<'a>,
    keys: SharedOut<'a>,
    values: SharedOut<'a>,
}

/// What one row adds to the gradients.
fn add_row(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequence: &Sequence<'_>,
    out: MatrixView<'_>,
    d_out: MatrixView<'_>,
    position: usize,
    head: usize,
    gradients: &Gradients<'_>,
) {
    let head_dim = shape.head_dim;
    let kv_head = head / shape.group();
    let token = sequence.rows.start + position;
    let columns = head * head_dim..(head + 1) * head_dim;
    let query = &queries.row(token)[columns.clone()];
    let d_out = &d_out.row(token)[columns.clone()];
    let delta = delta(cpu, &out.row(token)[columns], d_out);

    let mut total = Softmax::EMPTY;
    let mut pieces: Vec<(usize, Range<usize>, f32, Vec<f32>)> = Vec::new();
    for index in shape.pieces(&(position..position + 1)) {
        let (keys, _) = sequence.pieces[index].head(kv_head, head_dim);
        let seen = within_piece(shape.visible(position), index);
        let first = seen.start - seen.start % LANES;
        let mut scores = vec![0.0; seen.end - first];
        dots(cpu, query, &keys[first * head_dim..], &mut scores);
        let distance = (index * KEY_PIECE + first) as i32 - position as i32;
        let piece = exponentials(cpu, &mut scores, seen.start - first, shape.scale, shape.slope(head), distance);
        total.merge(piece);
        scores.drain(..seen.start - first);
        pieces.push((index, seen, piece.max, scores));
    }
    // SAFETY: each task has its own tokens and heads.
    let d_query = unsafe { gradients.queries.part(token, head * head_dim, head_dim) };
    for (index, seen, max, mut probabilities) in pieces {
        let (keys, values) = sequence.pieces[index].head(kv_head, head_dim);
        let mut d_scores = vec![0.0; seen.len()];
        dots(cpu, d_out, &values[seen.start * head_dim..], &mut d_scores);
        let factor = exp(max - total.max) / total.sum;
        score_gradients(cpu, factor, delta, shape.scale, &mut probabilities, &mut d_scores);
        let chain = Chain { data: &d_scores, step: 1, len: seen.len() };
        chains(cpu, chain, &keys[seen.start * head_dim..], d_query);
        for (i, key) in seen.enumerate() {
            let key = sequence.rows.start + index * KEY_PIECE + key;
            // SAFETY: each task has its own tokens and key heads.
            let d_key = unsafe { gradients.keys.part(key, kv_head * head_dim, head_dim) };
            chains(cpu, Chain { data: &d_scores[i..], step: 1, len: 1 }, query, d_key);
            // SAFETY: as above.
            let d_value = unsafe { gradients.values.part(key, kv_head * head_dim, head_dim) };
            chains(cpu, Chain { data: &probabilities[i..], step: 1, len: 1 }, d_out, d_value);
        }
    }
}

per_isa! {
    fn delta(out: &[f32], d_out: &[f32]) -> f32 {
        lanes::dot(out, d_out)
    }
}

per_isa! {
    /// Turns exponentials into probabilities, and the gradients of probabilities into those of the dot products.
    fn score_gradients(factor: f32, delta: f32, scale: f32, probabilities: &mut [f32], d_scores: &mut [f32]) {
        for (p, d) in probabilities.iter_mut().zip(d_scores) {
            *p *= factor;
            *d = (*p * (*d - delta)) * scale;
        }
    }
}
