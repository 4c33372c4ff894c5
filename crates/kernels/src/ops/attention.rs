//! Causal attention over packed sequences: `softmax(q kᵀ · scale + bias) v`, with grouped keys, ALiBi and a sliding
//! window, forward and backward. Probabilities are never stored; the backward makes them again.
//!
//! Keys and values are read from pieces of [`KEY_PIECE`] positions (rule 7), which is how a cache holds them; one pass
//! over a whole prompt fills the same pieces first and then reads them, so stepping and one pass are one code path.
//!
//! A *row* here is one query head of one token; the rows of the query heads that share a key head are worked on
//! together, ordered by (token, head), so that each key is read once for all of them.

mod backward;
mod forward;
mod memory;

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::alibi::{Alibi, HeadBias};
use crate::math::exp_of_moderate;
use crate::matrix::numbers;
use crate::scratch::Scratch;
use crate::simd::{Factors, Out, Rows, chains, decode, per_isa};
use crate::{Cpu, FloatEncoding, MatrixView, lanes};

pub use backward::attention_backward;
pub use forward::attention;
pub use memory::{CacheEncoding, PieceMemory};

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
    /// Linear biases, where heads have them.
    pub alibi: Option<Alibi>,
    /// A query at position `p` sees keys `p − window + 1 ..= p`; all up to `p` without a window.
    pub window: Option<usize>,
}

/// One piece: keys and values of up to [`KEY_PIECE`] positions.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Keys, already rotated where the model rotates them, `[kv_heads, head_dim, capacity]`: neighbouring positions lie
    /// side by side, so that the scores of many keys grow together, channel by channel.
    pub keys: Numbers<'a>,
    /// Values, `[kv_heads, capacity, head_dim]`.
    pub values: Numbers<'a>,
    /// Positions that the piece has room for.
    pub capacity: usize,
}

/// Numbers of a piece.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
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

impl AttentionShape {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The keys that a query at `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }

    /// The pieces that queries at `positions` see between them.
    fn pieces(&self, positions: &Range<usize>) -> Range<usize> {
        self.visible(positions.start).start / KEY_PIECE..positions.end.div_ceil(KEY_PIECE)
    }

    /// The bias of a head, if heads have biases.
    fn bias(&self, head: usize) -> Option<HeadBias> {
        self.alibi.as_ref().map(|alibi| alibi.of_head(head))
    }

    /// Panics when a call's shapes do not fit together.
    fn check(&self, queries: MatrixView<'_>, sequences: &[Sequence<'_>]) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *self;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads over {kv_heads} key heads");
        assert_eq!(queries.cols(), numbers(heads, head_dim), "columns of the queries");
        assert!(self.alibi.as_ref().is_none_or(|alibi| alibi.slopes.len() == heads), "one slope per head");
        assert!(self.window != Some(0), "a window of no keys");
        let mut end = 0;
        for sequence in sequences {
            assert!(end <= sequence.rows.start && sequence.rows.start <= sequence.rows.end, "sequences in order");
            end = sequence.rows.end;
            if sequence.rows.is_empty() {
                continue;
            }
            assert!(sequence.start.checked_add(sequence.rows.len()).is_some(), "positions from {} on", sequence.start);
            let positions = sequence.positions();
            for index in self.pieces(&positions) {
                assert!(index < sequence.pieces.len(), "piece {index} of {}", sequence.pieces.len());
                let piece = &sequence.pieces[index];
                let filled = (positions.end - index * KEY_PIECE).min(KEY_PIECE);
                assert!(filled <= piece.capacity, "{filled} keys in a piece for {}", piece.capacity);
                let size = numbers(numbers(kv_heads, piece.capacity), head_dim);
                assert!(piece.keys.len() >= size && piece.values.len() >= size, "numbers in piece {index}");
            }
        }
        assert!(end <= queries.rows(), "{end} rows of queries, {} given", queries.rows());
    }
}

impl Piece<'_> {
    /// Keys `[head_dim, filled]` and values `[filled, head_dim]` of one key head.
    fn head(&self, cpu: &Cpu, kv_head: usize, head_dim: usize, filled: usize) -> (HeadRows<'_>, HeadRows<'_>) {
        let numbers = self.capacity * head_dim;
        let part = kv_head * numbers..(kv_head + 1) * numbers;
        (
            HeadRows::new(cpu, self.keys.part(part.clone()), self.capacity, head_dim, filled),
            HeadRows::new(cpu, self.values.part(part), head_dim, filled, head_dim),
        )
    }
}

impl<'a> Numbers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::F16(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a number lies; an address to nowhere unless it exists.
    fn address(&self, number: usize) -> *const u8 {
        match self {
            Numbers::F32(numbers) => numbers.as_ptr().wrapping_add(number).cast(),
            Numbers::F16(numbers) => numbers.as_ptr().wrapping_add(number).cast(),
        }
    }

    fn part(self, range: Range<usize>) -> Self {
        match self {
            Numbers::F32(numbers) => Numbers::F32(&numbers[range]),
            Numbers::F16(numbers) => Numbers::F16(&numbers[range]),
        }
    }
}

/// Rows of a key head in single precision: where they are stored, or widened.
struct HeadRows<'a> {
    numbers: HeadNumbers<'a>,
    stride: usize,
    count: usize,
    cols: usize,
}

enum HeadNumbers<'a> {
    Stored(&'a [f32]),
    Widened(Scratch),
}

impl<'a> HeadRows<'a> {
    fn new(cpu: &Cpu, numbers: Numbers<'a>, stride: usize, count: usize, cols: usize) -> Self {
        match numbers {
            Numbers::F32(numbers) => HeadRows { numbers: HeadNumbers::Stored(numbers), stride, count, cols },
            Numbers::F16(numbers) => {
                let bytes = bytemuck::cast_slice(numbers.reinterpret_cast());
                let mut widened = Scratch::new(count * cols);
                let stored = Rows::new(bytes, FloatEncoding::F16, stride, count, cols);
                decode(cpu, stored, Out::new(&mut widened, cols, count, cols));
                HeadRows { numbers: HeadNumbers::Widened(widened), stride: cols, count, cols }
            }
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows::new(bytemuck::cast_slice(self.data()), FloatEncoding::F32, self.stride, self.count, self.cols)
    }

    /// The same, where `next` is read next, unless what is stored was widened already.
    fn rows_before(&self, next: Option<*const u8>) -> Rows<'_> {
        match (next, &self.numbers) {
            (Some(next), HeadNumbers::Stored(_)) => self.rows().before(next),
            _ => self.rows(),
        }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.stride..][..self.cols]
    }

    fn data(&self) -> &[f32] {
        match &self.numbers {
            HeadNumbers::Stored(numbers) => numbers,
            HeadNumbers::Widened(numbers) => numbers,
        }
    }
}

impl Sequence<'_> {
    /// The absolute positions of its queries.
    fn positions(&self) -> Range<usize> {
        self.start..self.start + self.rows.len()
    }
}

/// `range` of absolute positions as seen from the first position of a piece; empty when it lies outside.
fn within_piece(range: Range<usize>, piece: usize) -> Range<usize> {
    let within = |position: usize| position.saturating_sub(piece * KEY_PIECE).min(KEY_PIECE);
    within(range.start)..within(range.end)
}

/// `key − query` for a key that the query sees. One further away than an i32 can tell stands as far as it can.
fn distance(key: usize, query: usize) -> i32 {
    -i32::try_from(query - key).unwrap_or(i32::MAX)
}

/// The query heads of `group` from `head` on, of some tokens: rows `[tokens · group, head_dim]`, one after the other.
fn pack(x: MatrixView<'_>, tokens: Range<usize>, head: usize, group: usize, head_dim: usize) -> Scratch {
    let width = group * head_dim;
    let mut packed = Scratch::new(tokens.len() * width);
    for (row, token) in tokens.enumerate() {
        packed[row * width..][..width].copy_from_slice(&x.row(token)[head * head_dim..][..width]);
    }
    packed
}

/// The dot products of rows of queries with some of the keys of a piece, in the same columns of rows of `scores`.
fn dot_products(cpu: &Cpu, queries: &[f32], keys: Rows<'_>, columns: Range<usize>, width: usize, scores: &mut [f32]) {
    let head_dim = keys.count();
    let rows = queries.len() / head_dim.max(1);
    for scores in scores.chunks_mut(width).take(rows) {
        scores[columns.clone()].fill(0.0);
    }
    let mut scores = Out::new(scores, width, rows, columns.end);
    let queries = Factors::new(queries, rows, head_dim, head_dim, 1);
    chains(cpu, queries, keys.part(0..head_dim, columns.clone()), scores.part(0..rows, columns));
}

/// Scores this far below the largest have no weight: e⁻⁶⁴ is a 10²⁰th of what rounding loses. Without a floor, ALiBi
/// makes weights that are denormal, and those cost hundreds of cycles each.
const FLOOR: f32 = -64.0;

/// `eˣ` for the distance `x` of a score from the largest; 0 below [`FLOOR`].
#[inline(always)]
fn weight(x: f32) -> f32 {
    let e = exp_of_moderate(if x < FLOOR { FLOOR } else { x });
    if x < FLOOR { 0.0 } else { e }
}

/// The largest score of a row so far, and the sum of `e^(score − max)`.
#[derive(Clone, Copy, Debug)]
struct Softmax {
    max: f32,
    sum: f32,
}

impl Softmax {
    /// Before the first piece.
    const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Merges the next piece; returns the factors of what was gathered before and of what the piece brings. The first
    /// piece is taken as it is.
    #[inline(always)]
    fn merge(&mut self, piece: Softmax) -> (f32, f32) {
        if self.sum == 0.0 {
            *self = piece;
            return (0.0, 1.0);
        }
        let max = if piece.max > self.max { piece.max } else { self.max };
        let (before, now) = (weight(self.max - max), weight(piece.max - max));
        *self = Softmax { max, sum: self.sum * before + piece.sum * now };
        (before, now)
    }
}

per_isa! {
    /// Turns the dot products of a row with the keys of a piece into their weights `e^(score − max)`, where
    /// `score = dot · scale`, with the bias of its head, and sums them by rule 2. The slice starts at a multiple of 16 within
    /// the piece; its first `masked` entries are not seen and become 0. `key` is the position of the first entry, `distance`
    /// what it lies behind the query: key − query.
    fn exponentials(
        scores: &mut [f32], masked: usize, scale: f32, bias: Option<HeadBias>, key: usize, distance: i32,
    ) -> Softmax {
        match bias {
            None => scores.iter_mut().for_each(|score| *score *= scale),
            Some(bias) => bias.add(scores, scale, key, distance),
        }
        let max = lanes::max(&scores[masked..]);
        for score in scores.iter_mut() {
            *score = weight(*score - max);
        }
        // The sum starts from +0 and has no term below it, so adding +0 leaves a lane as it is.
        scores[..masked].fill(0.0);
        Softmax { max, sum: lanes::sum(scores.len(), |i| scores[i]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_far_keys() {
        assert_eq!(distance(7, 7), 0);
        assert_eq!(distance(3_000_000_000, 3_000_000_300), -300);
        assert_eq!(distance(0, 1 << 40), -i32::MAX);
    }
}
