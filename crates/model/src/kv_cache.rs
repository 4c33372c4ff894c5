//! The keys and values of one sequence in one block, in the pieces of [`KEY_PIECE`] positions that attention
//! walks. Pieces are allocated as the sequence grows, shared between beams until one writes, and dropped once a sliding
//! window has passed them for good.

use std::sync::Arc;

use bouquet_kernels::ops::attention::{KEY_PIECE, Piece};
use bouquet_kernels::{Cpu, Matrix, MatrixView};

/// Keys and values of one sequence, as far as it has come.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    max_tokens: usize,
    tokens: usize,
    pieces: Vec<Arc<StoredPiece>>,
}

/// Empty once forgotten.
#[derive(Clone, Debug, Default)]
struct StoredPiece {
    capacity: usize,
    /// `[kv_heads * head_dim, capacity]`.
    keys: Matrix,
    /// `[kv_heads * capacity, head_dim]`.
    values: Matrix,
}

impl KvCache {
    /// An empty cache for up to `max_tokens` positions. Allocates nothing yet.
    pub(crate) fn new(kv_heads: usize, head_dim: usize, max_tokens: usize) -> Self {
        KvCache { kv_heads, head_dim, max_tokens, tokens: 0, pieces: Vec::new() }
    }

    /// Bytes that a position takes, keys and values.
    pub(crate) fn bytes_per_token(kv_heads: usize, head_dim: usize) -> u64 {
        2 * 4 * (kv_heads * head_dim) as u64
    }

    /// Bytes of the pieces that are there.
    pub(crate) fn bytes(&self) -> u64 {
        let channels = |piece: &Arc<StoredPiece>| (piece.keys.data().len() + piece.values.data().len()) as u64;
        4 * self.pieces.iter().map(channels).sum::<u64>()
    }

    /// Positions filled.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Appends positions: `keys` and `values` are `[tokens, kv_heads * head_dim]`. Panics beyond `max_tokens`.
    pub(crate) fn append(&mut self, cpu: &Cpu, keys: MatrixView<'_>, values: MatrixView<'_>) {
        assert!(self.tokens + keys.rows() <= self.max_tokens, "the cache was reserved for {} tokens", self.max_tokens);
        let mut row = 0;
        while row < keys.rows() {
            let (piece, offset) = (self.tokens / KEY_PIECE, self.tokens % KEY_PIECE);
            if piece == self.pieces.len() {
                let capacity = KEY_PIECE.min(self.max_tokens - piece * KEY_PIECE);
                self.pieces.push(Arc::new(StoredPiece::new(self.kv_heads, self.head_dim, capacity)));
            }
            let piece = Arc::make_mut(&mut self.pieces[piece]);
            let rows = row..keys.rows().min(row + piece.capacity - offset);
            let (keys, values) = (keys.slice(rows.clone()), values.slice(rows.clone()));
            cpu.for_each_row(piece.keys.view_mut(), |channel, of_channel| {
                for (row, number) in of_channel[offset..][..rows.len()].iter_mut().enumerate() {
                    *number = keys.row(row)[channel];
                }
            });
            for row in 0..rows.len() {
                for (head, value) in values.row(row).chunks(self.head_dim).enumerate() {
                    piece.values.row_mut(head * piece.capacity + offset + row).copy_from_slice(value);
                }
            }
            self.tokens += rows.len();
            row = rows.end;
        }
    }

    /// Forgets all positions from `position` on.
    pub(crate) fn truncate(&mut self, position: usize) {
        self.tokens = self.tokens.min(position);
        self.pieces.truncate(self.tokens.div_ceil(KEY_PIECE));
    }

    /// Drops pieces that lie wholly before `position`.
    pub(crate) fn forget_before(&mut self, position: usize) {
        for piece in &mut self.pieces[..(position / KEY_PIECE).min(self.tokens / KEY_PIECE)] {
            if piece.capacity > 0 {
                *piece = Arc::default();
            }
        }
    }

    /// The pieces as attention reads them.
    pub(crate) fn pieces<'a>(&'a self) -> Vec<Piece<'a>> {
        let view = |piece: &'a Arc<StoredPiece>| Piece {
            keys: piece.keys.data(),
            values: piece.values.data(),
            capacity: piece.capacity,
        };
        self.pieces.iter().map(view).collect()
    }
}

impl StoredPiece {
    fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let (keys, values) =
            (Matrix::zeros(kv_heads * head_dim, capacity), Matrix::zeros(kv_heads * capacity, head_dim));
        StoredPiece { capacity, keys, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(from: usize, count: usize) -> Matrix {
        Matrix::from_vec(count, 4, (from * 4..(from + count) * 4).map(|value| value as f32).collect())
    }

    #[test]
    fn appended_in_pieces_or_at_once_is_the_same() {
        let (all, mut once, mut cut) = (rows(0, 600), KvCache::new(2, 2, 600), KvCache::new(2, 2, 600));
        once.append(&Cpu::new(1), all.view(), all.view());
        for (from, count) in [(0, 1), (1, 300), (301, 299)] {
            cut.append(&Cpu::new(1), rows(from, count).view(), rows(from, count).view());
        }
        assert_eq!(once.pieces().len(), 3);
        for (a, b) in once.pieces().iter().zip(cut.pieces()) {
            assert_eq!((a.keys, a.values, a.capacity), (b.keys, b.values, b.capacity));
        }
        // Head 1 of position 257: the second piece, after the first head's 256 positions.
        let piece = once.pieces()[1];
        assert_eq!(piece.values[(256 + 1) * 2..][..2], [257.0 * 4.0 + 2.0, 257.0 * 4.0 + 3.0]);
        assert_eq!([piece.keys[2 * 256 + 1], piece.keys[3 * 256 + 1]], [257.0 * 4.0 + 2.0, 257.0 * 4.0 + 3.0]);
        assert_eq!(once.pieces()[2].capacity, 600 - 512);
    }

    #[test]
    fn beams_share_pieces_until_one_writes() {
        let mut first = KvCache::new(2, 2, 10);
        first.append(&Cpu::new(1), rows(0, 3).view(), rows(0, 3).view());
        let mut second = first.clone();
        second.truncate(2);
        second.append(&Cpu::new(1), rows(9, 1).view(), rows(9, 1).view());
        assert_eq!(first.pieces()[0].values[4..6], [8.0, 9.0]);
        assert_eq!(second.pieces()[0].values[4..6], [36.0, 37.0]);
        assert_eq!([first.pieces()[0].keys[2], second.pieces()[0].keys[2]], [8.0, 36.0]);
    }

    #[test]
    fn forgotten_pieces_keep_their_place() {
        let mut cache = KvCache::new(2, 2, 600);
        cache.append(&Cpu::new(1), rows(0, 600).view(), rows(0, 600).view());
        cache.forget_before(511);
        assert_eq!(cache.pieces().iter().map(|piece| piece.keys.is_empty()).collect::<Vec<_>>(), [true, false, false]);
    }
}
