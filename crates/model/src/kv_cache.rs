//! The keys and values of one sequence in one block, in the pieces of [`KEY_PIECE`] positions that attention
//! walks. Pieces are allocated as the sequence grows, shared between beams until one writes, and dropped once a sliding
//! window has passed them for good.

use std::sync::Arc;

use bouquet_kernels::ops::attention::{CacheEncoding, KEY_PIECE, Piece, PieceMemory};
use bouquet_kernels::{Cpu, MatrixView};

use crate::spec::{AttentionSpec, BlockSpec};

/// What the caches of a model have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) encoding: CacheEncoding,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Keys and values of one sequence, as far as it has come.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: CacheShape,
    max_tokens: usize,
    tokens: usize,
    pieces: Vec<Arc<PieceMemory>>,
}

impl CacheShape {
    /// For blocks of this kind.
    pub(crate) fn new(spec: &BlockSpec, encoding: CacheEncoding) -> Self {
        let AttentionSpec { kv_heads, head_dim, .. } = spec.attention;
        CacheShape { encoding, kv_heads, head_dim }
    }

    /// Bytes that a position takes, keys and values.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        (2 * self.encoding.bytes() * self.kv_heads * self.head_dim) as u64
    }

    fn piece(&self, capacity: usize) -> Arc<PieceMemory> {
        Arc::new(PieceMemory::new(self.encoding, self.kv_heads, self.head_dim, capacity))
    }
}

impl KvCache {
    /// An empty cache for up to `max_tokens` positions. Allocates nothing yet.
    pub(crate) fn new(shape: CacheShape, max_tokens: usize) -> Self {
        KvCache { shape, max_tokens, tokens: 0, pieces: Vec::new() }
    }

    /// Bytes of the pieces that are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes() as u64).sum()
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
                self.pieces.push(self.shape.piece(KEY_PIECE.min(self.max_tokens - piece * KEY_PIECE)));
            }
            let piece = Arc::make_mut(&mut self.pieces[piece]);
            let rows = row..keys.rows().min(row + piece.capacity() - offset);
            piece.fill(cpu, offset, keys.slice(rows.clone()), values.slice(rows.clone()));
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
            if piece.capacity() > 0 {
                *piece = self.shape.piece(0);
            }
        }
    }

    /// The pieces as attention reads them.
    pub(crate) fn pieces(&self) -> Vec<Piece<'_>> {
        self.pieces.iter().map(|piece| piece.piece()).collect()
    }
}

#[cfg(test)]
mod tests {
    use bouquet_kernels::Matrix;
    use bouquet_kernels::ops::attention::Numbers;

    use super::*;

    const SHAPE: CacheShape = CacheShape { encoding: CacheEncoding::F32, kv_heads: 2, head_dim: 2 };

    /// Single precision numbers of a piece.
    fn numbers(numbers: Numbers<'_>) -> &[f32] {
        let Numbers::F32(numbers) = numbers else { panic!("stored in single precision") };
        numbers
    }

    fn rows(from: usize, count: usize) -> Matrix {
        Matrix::from_vec(count, 4, (from * 4..(from + count) * 4).map(|value| value as f32).collect())
    }

    #[test]
    fn appended_in_pieces_or_at_once_is_the_same() {
        let (all, mut once, mut cut) = (rows(0, 600), KvCache::new(SHAPE, 600), KvCache::new(SHAPE, 600));
        once.append(&Cpu::new(1), all.view(), all.view());
        for (from, count) in [(0, 1), (1, 300), (301, 299)] {
            cut.append(&Cpu::new(1), rows(from, count).view(), rows(from, count).view());
        }
        assert_eq!(once.pieces().len(), 3);
        for (a, b) in once.pieces().iter().zip(cut.pieces()) {
            assert_eq!(a.capacity, b.capacity);
            // What is filled: the keys of channel 0, and the values of head 0.
            let filled = a.capacity.min(600);
            assert_eq!(numbers(a.keys)[..filled], numbers(b.keys)[..filled]);
            assert_eq!(numbers(a.values)[..filled * 2], numbers(b.values)[..filled * 2]);
        }
        // Head 1 of position 257: the second piece, after the first head's 256 positions.
        let piece = once.pieces()[1];
        assert_eq!(numbers(piece.values)[(256 + 1) * 2..][..2], [257.0 * 4.0 + 2.0, 257.0 * 4.0 + 3.0]);
        assert_eq!(
            [2 * 256 + 1, 3 * 256 + 1].map(|place| numbers(piece.keys)[place]),
            [257.0 * 4.0 + 2.0, 257.0 * 4.0 + 3.0]
        );
        assert_eq!(once.pieces()[2].capacity, 600 - 512);
    }

    #[test]
    fn beams_share_pieces_until_one_writes() {
        let mut first = KvCache::new(SHAPE, 10);
        first.append(&Cpu::new(1), rows(0, 3).view(), rows(0, 3).view());
        let mut second = first.clone();
        second.truncate(2);
        second.append(&Cpu::new(1), rows(9, 1).view(), rows(9, 1).view());
        assert_eq!(numbers(first.pieces()[0].values)[4..6], [8.0, 9.0]);
        assert_eq!(numbers(second.pieces()[0].values)[4..6], [36.0, 37.0]);
        assert_eq!([&first, &second].map(|cache| numbers(cache.pieces()[0].keys)[2]), [8.0, 36.0]);
    }

    #[test]
    fn forgotten_pieces_keep_their_place() {
        let mut cache = KvCache::new(SHAPE, 600);
        cache.append(&Cpu::new(1), rows(0, 600).view(), rows(0, 600).view());
        cache.forget_before(511);
        assert_eq!(cache.pieces().iter().map(|piece| piece.keys.is_empty()).collect::<Vec<_>>(), [true, false, false]);
    }
}
