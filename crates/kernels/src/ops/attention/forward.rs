//! The forward of attention, one task per (sequence, block of queries, key head).

use std::ops::Range;

use super::{AttentionShape, KEY_PIECE, Sequence, Softmax, exponentials, within_piece};
use crate::cpu::SharedOut;
use crate::lanes::LANES;
use crate::simd::{Chain, chains, dots, per_isa};
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

/// One task: `block` counts tokens of the sequence.
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
    let rows = block.len() * group;
    let mut state = vec![Softmax::EMPTY; rows];
    let mut values = vec![0.0; rows * head_dim];
    let mut of_piece = vec![0.0; head_dim];
    let mut scores = vec![0.0; KEY_PIECE];
    for index in shape.pieces(&positions) {
        let (keys, piece_values) = sequence.pieces[index].head(kv_head, head_dim);
        for row in 0..rows {
            let position = positions.start + row / group;
            let head = kv_head * group + row % group;
            let seen = within_piece(shape.visible(position), index);
            if seen.is_empty() {
                continue;
            }
            let query = &queries.row(sequence.rows.start + block.start + row / group)[head * head_dim..][..head_dim];
            let first = seen.start - seen.start % LANES;
            let scores = &mut scores[first..seen.end];
            dots(cpu, query, &keys[first * head_dim..], scores);
            let distance = (index * KEY_PIECE + first) as i32 - position as i32;
            let piece = exponentials(cpu, scores, seen.start - first, shape.scale, shape.slope(head), distance);
            of_piece.fill(0.0);
            let seen_scores = &scores[seen.start - first..];
            let chain = Chain { data: seen_scores, step: 1, len: seen_scores.len() };
            chains(cpu, chain, &piece_values[seen.start * head_dim..], &mut of_piece);
            let (before, now) = state[row].merge(piece);
            merge_values(cpu, before, now, &of_piece, &mut values[row * head_dim..][..head_dim]);
        }
    }
    for row in 0..rows {
        let token = sequence.rows.start + block.start + row / group;
        let head = kv_head * group + row % group;
        // SAFETY: each task has its own tokens and heads.
        let out = unsafe { out.part(token, head * head_dim, head_dim) };
        divide(cpu, &values[row * head_dim..][..head_dim], state[row].sum, out);
    }
}

per_isa! {
    fn merge_values(before: f32, now: f32, piece: &[f32], values: &mut [f32]) {
        if before == 0.0 && now == 1.0 {
            values.copy_from_slice(piece);
        } else {
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
