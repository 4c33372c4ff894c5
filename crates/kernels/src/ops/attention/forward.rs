//! The forward of attention, one task per (sequence, block of queries, key head).

use std::ops::Range;

use super::{AttentionShape, KEY_PIECE, Sequence, Softmax, distance, dot_products, exponentials, pack, within_piece};
use crate::cpu::SharedOut;
use crate::lanes::LANES;
use crate::scratch::Scratch;
use crate::simd::{Factors, Out, chains, per_isa};
use crate::{Cpu, MatrixView, MatrixViewMut};

/// Rows that a task aims for.
const TASK_ROWS: usize = 64;

/// `out[t] = Σ softmax(q[t] · k) v` per head: `queries` and `out` are `[tokens, heads * head_dim]`. Sequences lie in
/// ascending order in the rows; rows of no sequence are left alone. Panics when shapes do not fit together.
pub fn attention(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequences: &[Sequence<'_>],
    mut out: MatrixViewMut<'_>,
) {
    shape.check(queries, sequences);
    assert_eq!((out.rows(), out.cols()), (queries.rows(), queries.cols()), "the shape of out");
    let per_task = TASK_ROWS.div_ceil(shape.group());
    let mut tasks = Vec::new();
    for sequence in sequences {
        for start in (0..sequence.rows.len()).step_by(per_task) {
            let block = start..sequence.rows.len().min(start + per_task);
            tasks.extend((0..shape.kv_heads).map(|kv_head| (sequence, block.clone(), kv_head)));
        }
    }
    let out = SharedOut::new(&mut out);
    cpu.run(tasks.len(), |task| {
        // Late blocks see the most keys: they go first.
        let (sequence, block, kv_head) = &tasks[tasks.len() - 1 - task];
        attend(cpu, shape, queries, sequence, block.clone(), *kv_head, out);
    });
}

/// One task, for the queries of a block (`block` counts tokens of the sequence) that share a key head. This is where
/// attention is computed. A row walks the pieces of its keys with three things in hand, the softmax of what it has
/// seen so far (Milakov & Gimelshein 2018, arXiv 1805.02867):
///
/// ```text
/// max, sum, values = −∞, 0, 0
/// for each piece of keys k and values v:
///     s      = q kᵀ · scale + bias                  scores of the keys that the row sees
///     p      = e^(s − max(s))                       their weights
///     now    = e^(max(s) − new max)                 new max = max(max, max(s))
///     before = e^(max − new max)                    rescales what was gathered under the old maximum
///     sum    = sum · before + Σ p · now
///     values = values · before + p v · now
///     max    = new max
/// out = values / sum
/// ```
fn attend(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequence: &Sequence<'_>,
    block: Range<usize>,
    kv_head: usize,
    out: SharedOut<'_>,
) {
    let (group, head_dim) = (shape.group(), shape.head_dim);
    let positions = sequence.start + block.start..sequence.start + block.end;
    let tokens = sequence.rows.start + block.start..sequence.rows.start + block.end;
    let rows = tokens.len() * group;
    let queries = pack(queries, tokens.clone(), kv_head * group, group, head_dim);
    let mut state = vec![Softmax::EMPTY; rows];
    let mut values = Scratch::zeros(rows * head_dim);
    let mut of_piece = Scratch::new(rows * head_dim);
    let mut scores = Scratch::new(rows * KEY_PIECE);
    let pieces = shape.pieces(&positions);
    for index in pieces.clone() {
        let seen = |row: usize| within_piece(shape.visible(positions.start + row / group), index);
        // q kᵀ with all keys that any row sees; each row then takes its own.
        let union = seen(0).start / LANES * LANES..seen(rows - 1).end;
        let (keys, piece_values) = sequence.pieces[index].head(cpu, kv_head, head_dim, union.end);
        let next = sequence.pieces.get(index + 1).filter(|_| index + 1 < pieces.end);
        let next = next.map(|next| (next, kv_head * next.capacity * head_dim));
        let (next_keys, next_values) =
            (next.map(|(next, first)| next.keys.address(first)), next.map(|(next, first)| next.values.address(first)));
        dot_products(cpu, &queries, keys.rows_before(next_keys), union.clone(), KEY_PIECE, &mut scores);

        let mut factors = Vec::with_capacity(rows);
        for row in 0..rows {
            let (seen, position) = (seen(row), positions.start + row / group);
            if seen.is_empty() {
                factors.push((1.0, 0.0));
                continue;
            }
            let first = seen.start / LANES * LANES;
            let scores = &mut scores[row * KEY_PIECE..][first..seen.end];
            let bias = shape.bias(kv_head * group + row % group);
            let key = index * KEY_PIECE + first;
            // s = q kᵀ · scale + bias, and p = e^(s − max(s)) in its place.
            let piece = exponentials(cpu, scores, seen.start - first, shape.scale, bias, key, distance(key, position));
            // max and sum; (before, now).
            factors.push(state[row].merge(piece));
        }
        // p v.
        of_piece.fill(0.0);
        let ranges: Vec<_> = (0..rows).map(seen).collect();
        let weights = Factors::new(&scores, rows, KEY_PIECE, union.end, 1).with_ranges(&ranges);
        chains(cpu, weights, piece_values.rows_before(next_values), Out::new(&mut of_piece, head_dim, rows, head_dim));
        // values = values · before + p v · now.
        for (row, (before, now)) in factors.into_iter().enumerate() {
            let part = row * head_dim..(row + 1) * head_dim;
            merge_values(cpu, before, now, &of_piece[part.clone()], &mut values[part]);
        }
    }
    // out = values / sum.
    for row in 0..rows {
        let head = kv_head * group + row % group;
        // SAFETY: each task has its own tokens and heads.
        let out = unsafe { out.part(tokens.start + row / group, head * head_dim, head_dim) };
        divide(cpu, &values[row * head_dim..][..head_dim], state[row].sum, out);
    }
}

per_isa! {
    /// `values · before + piece · now`; the first piece is taken as it is, and one without weight (or not seen, which
    /// `attend` writes the same way) brings nothing.
    fn merge_values(before: f32, now: f32, piece: &[f32], values: &mut [f32]) {
        if before == 0.0 && now == 1.0 {
            values.copy_from_slice(piece);
        } else if now != 0.0 || before != 1.0 {
            for (value, piece) in values.iter_mut().zip(piece) {
                *value = *value * before + *piece * now;
            }
        }
    }
}

per_isa! {
    fn divide(values: &[f32], sum: f32, out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = value / sum;
        }
    }
}
