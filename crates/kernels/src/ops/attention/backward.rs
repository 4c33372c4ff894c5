//! The backward of attention, one task per (sequence, key head).
//!
//! With `p` the probabilities of a row, `D = out · d_out` and `dp = d_out · v`: `ds = p (dp − D) · scale`, and then
//! `d_q = Σ ds k`, `d_k = Σ ds q`, `d_v = Σ p d_out` (Dao et al. 2022, arXiv 2205.14135, section B.4).

use std::ops::Range;

use super::{
    AttentionShape, KEY_PIECE, Sequence, Softmax, distance, dot_products, exponentials, pack, weight, within_piece,
};
use crate::cpu::SharedOut;
use crate::lanes::LANES;
use crate::scratch::Scratch;
use crate::simd::{Factors, Out, Rows, chains, dots, per_isa};
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
    let d_queries = SharedOut::new(&mut d_queries);
    let d_keys = SharedOut::new(&mut d_keys);
    let d_values = SharedOut::new(&mut d_values);
    let per_block = BLOCK_ROWS.div_ceil(shape.group());
    cpu.run(sequences.len() * shape.kv_heads, |task| {
        let (sequence, kv_head) = (&sequences[task / shape.kv_heads], task % shape.kv_heads);
        if sequence.rows.is_empty() {
            return;
        }
        let columns = |heads: Range<usize>| heads.start * shape.head_dim..heads.end * shape.head_dim;
        let heads = kv_head * shape.group()..(kv_head + 1) * shape.group();
        // SAFETY: each task has its own tokens and heads.
        let mut gradients = unsafe {
            Gradients {
                queries: d_queries.block(sequence.rows.clone(), columns(heads)),
                keys: d_keys.block(sequence.rows.clone(), columns(kv_head..kv_head + 1)),
                values: d_values.block(sequence.rows.clone(), columns(kv_head..kv_head + 1)),
            }
        };
        let keys = keys_by_position(cpu, sequence, kv_head, shape.head_dim);
        for start in (0..sequence.rows.len()).step_by(per_block) {
            let block = start..sequence.rows.len().min(start + per_block);
            add_block(cpu, shape, queries, sequence, &keys, out, d_out, kv_head, block, &mut gradients);
        }
    });
}

/// The keys of one key head, `[positions, head_dim]`: the gradients of queries are sums of these. Pieces that nobody sees
/// are left as they are.
fn keys_by_position(cpu: &Cpu, sequence: &Sequence<'_>, kv_head: usize, head_dim: usize) -> Scratch {
    let tokens = sequence.rows.len();
    let mut rows = Scratch::new(tokens * head_dim);
    for (piece, rows) in sequence.pieces.iter().zip(rows.chunks_mut(KEY_PIECE * head_dim)) {
        if piece.keys.is_empty() {
            continue;
        }
        let (keys, _) = piece.head(cpu, kv_head, head_dim, rows.len() / head_dim);
        for channel in 0..head_dim {
            for (row, key) in rows.chunks_exact_mut(head_dim).zip(keys.row(channel)) {
                row[channel] = *key;
            }
        }
    }
    rows
}

/// Rows whose scores are held at once.
const BLOCK_ROWS: usize = 32;

/// Those of one sequence and one key head.
struct Gradients<'a> {
    queries: Out<'a>,
    keys: Out<'a>,
    values: Out<'a>,
}

/// What the queries at `positions` add to the gradients.
fn add_block(
    cpu: &Cpu,
    shape: &AttentionShape,
    queries: MatrixView<'_>,
    sequence: &Sequence<'_>,
    keys: &[f32],
    out: MatrixView<'_>,
    d_out: MatrixView<'_>,
    kv_head: usize,
    positions: Range<usize>,
    gradients: &mut Gradients<'_>,
) {
    let (group, head_dim) = (shape.group(), shape.head_dim);
    let tokens = sequence.rows.start + positions.start..sequence.rows.start + positions.end;
    let rows = tokens.len() * group;
    let [queries, out, d_out] =
        [queries, out, d_out].map(|matrix| pack(matrix, tokens.clone(), kv_head * group, group, head_dim));
    let (q_rows, d_out_rows) = (Rows::of(&queries, rows, head_dim), Rows::of(&d_out, rows, head_dim));

    // All probabilities of the block, and then the gradients of its dot products; column 0 is the first key of the
    // first piece.
    let pieces = shape.pieces(&positions);
    let base = pieces.start * KEY_PIECE;
    let width = positions.end - base;
    let mut probabilities = Scratch::new(rows * width);
    let mut d_dots = Scratch::new(rows * width);
    let mut total = vec![Softmax::EMPTY; rows];
    let mut maxima = vec![f32::NEG_INFINITY; rows * pieces.len()];
    let seen = |row: usize, index: usize| within_piece(shape.visible(positions.start + row / group), index);
    // The keys of a piece that any row sees.
    let union = |index: usize| seen(0, index).start / LANES * LANES..seen(rows - 1, index).end;
    for index in pieces.clone() {
        let (union, shift) = (union(index), index * KEY_PIECE - base);
        let (keys, values) = sequence.pieces[index].head(cpu, kv_head, head_dim, union.end);
        let columns = shift + union.start..shift + union.end;
        dot_products(cpu, &queries, keys.rows(), union.clone(), width, &mut probabilities[shift..]);
        let mut to = Out::new(&mut d_dots, width, rows, width);
        dots(cpu, d_out_rows, values.rows().part(union, 0..head_dim), to.part(0..rows, columns));
        for row in 0..rows {
            let (seen, position) = (seen(row, index), positions.start + row / group);
            if seen.is_empty() {
                continue;
            }
            let first = seen.start / LANES * LANES;
            let scores = &mut probabilities[row * width + shift..][first..seen.end];
            let bias = shape.bias(kv_head * group + row % group);
            let key = index * KEY_PIECE + first;
            let piece = exponentials(cpu, scores, seen.start - first, shape.scale, bias, key, distance(key, position));
            total[row].merge(piece);
            maxima[row * pieces.len() + index - pieces.start] = piece.max;
        }
    }
    for row in 0..rows {
        let part = row * head_dim..(row + 1) * head_dim;
        let delta = delta(cpu, &out[part.clone()], &d_out[part]);
        for index in pieces.clone() {
            let (seen, shift) = (seen(row, index), row * width + index * KEY_PIECE - base);
            let factor = weight(maxima[row * pieces.len() + index - pieces.start] - total[row].max) / total[row].sum;
            let columns = shift + seen.start..shift + seen.end;
            let (probabilities, d_dots) = (&mut probabilities[columns.clone()], &mut d_dots[columns]);
            score_gradients(cpu, factor, delta, shape.scale, probabilities, d_dots);
        }
    }

    let mut d_queries = Scratch::zeros(rows * head_dim);
    for index in pieces {
        let (union, shift) = (union(index), index * KEY_PIECE - base);
        let keys = Rows::of(&keys[index * KEY_PIECE * head_dim..], union.end, head_dim);
        let ranges: Vec<_> = (0..rows).map(|row| seen(row, index)).collect();
        let factors = Factors::new(&d_dots[shift..], rows, width, union.end, 1).with_ranges(&ranges);
        let to = Out::new(&mut d_queries, head_dim, rows, head_dim);
        chains(cpu, factors, keys, to);

        // Seen from the keys: which rows see the key.
        let first = index * KEY_PIECE + union.start;
        let rows_of = |key: usize| {
            let start = positions.start.max(first + key);
            let last = shape.window.map_or(usize::MAX, |window| (first + key).saturating_add(window));
            let end = positions.end.min(last).max(start);
            (start - positions.start) * group..(end - positions.start) * group
        };
        let tokens = first..index * KEY_PIECE + union.end;
        let ranges: Vec<_> = (0..tokens.len()).map(rows_of).collect();
        for (numbers, w, gradient) in
            [(&d_dots, q_rows, &mut gradients.keys), (&probabilities, d_out_rows, &mut gradients.values)]
        {
            let factors =
                Factors::new(&numbers[shift + union.start..], tokens.len(), 1, rows, width).with_ranges(&ranges);
            chains(cpu, factors, w, gradient.part(tokens.clone(), 0..head_dim));
        }
    }
    for (row, d_query) in d_queries.chunks_exact(head_dim.max(1)).enumerate() {
        let head = row % group;
        let mut to = gradients.queries.part(
            positions.start + row / group..positions.start + row / group + 1,
            head * head_dim..(head + 1) * head_dim,
        );
        to.copy_from(d_query);
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
