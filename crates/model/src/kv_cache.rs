//! The keys and values of one sequence in one block, in pages of [`KEY_PIECE`] positions: the pieces that attention
//! walks. Pages are allocated as the sequence grows, shared between beams until one writes, and dropped once a sliding
//! window has passed them for good.

use std::sync::Arc;

use bouquet_kernels::MatrixView;
use bouquet_kernels::ops::attention::{KEY_PIECE, Piece};

/// Keys and values of one sequence, as far as it has come.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    max_tokens: usize,
    tokens: usize,
    pages: Vec<Arc<Page>>,
}

/// `[kv_heads, capacity, head_dim]` each; empty once forgotten.
#[derive(Clone, Debug, Default)]
struct Page {
    capacity: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache for up to `max_tokens` positions. Allocates nothing yet.
    pub(crate) fn new(kv_heads: usize, head_dim: usize, max_tokens: usize) -> Self {
        KvCache { kv_heads, head_dim, max_tokens, tokens: 0, pages: Vec::new() }
    }

    /// Bytes that a position takes, keys and values.
    pub(crate) fn bytes_per_token(kv_heads: usize, head_dim: usize) -> u64 {
        2 * 4 * (kv_heads * head_dim) as u64
    }

    /// Bytes of the pages that are there.
    pub(crate) fn bytes(&self) -> u64 {
        let channels = |page: &Arc<Page>| (page.keys.len() + page.values.len()) as u64;
        4 * self.pages.iter().map(channels).sum::<u64>()
    }

    /// Positions filled.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Appends positions: `keys` and `values` are `[tokens, kv_heads * head_dim]`. Panics beyond `max_tokens`.
    pub(crate) fn append(&mut self, keys: MatrixView<'_>, values: MatrixView<'_>) {
        assert!(self.tokens + keys.rows() <= self.max_tokens, "the cache was reserved for {} tokens", self.max_tokens);
        for row in 0..keys.rows() {
            let (page, offset) = (self.tokens / KEY_PIECE, self.tokens % KEY_PIECE);
            if page == self.pages.len() {
                let capacity = KEY_PIECE.min(self.max_tokens - page * KEY_PIECE);
                self.pages.push(Arc::new(Page::new(self.kv_heads * self.head_dim, capacity)));
            }
            let page = Arc::make_mut(&mut self.pages[page]);
            let (key, value) = (keys.row(row).chunks(self.head_dim), values.row(row).chunks(self.head_dim));
            for (head, (key, value)) in key.zip(value).enumerate() {
                let place = (head * page.capacity + offset) * self.head_dim;
                page.keys[place..place + self.head_dim].copy_from_slice(key);
                page.values[place..place + self.head_dim].copy_from_slice(value);
            }
            self.tokens += 1;
        }
    }

    /// Forgets all positions from `position` on.
    pub(crate) fn truncate(&mut self, position: usize) {
        self.tokens = self.tokens.min(position);
        self.pages.truncate(self.tokens.div_ceil(KEY_PIECE));
    }

    /// Drops pages that lie wholly before `position`.
    pub(crate) fn forget_before(&mut self, position: usize) {
        for page in &mut self.pages[..(position / KEY_PIECE).min(self.tokens / KEY_PIECE)] {
            if page.capacity > 0 {
                *page = Arc::default();
            }
        }
    }

    /// The pages as attention reads them.
    pub(crate) fn pieces<'a>(&'a self) -> Vec<Piece<'a>> {
        let piece = |page: &'a Arc<Page>| Piece { keys: &page.keys, values: &page.values, capacity: page.capacity };
        self.pages.iter().map(piece).collect()
    }
}

impl Page {
    fn new(channels: usize, capacity: usize) -> Self {
        Page { capacity, keys: vec![0.0; channels * capacity], values: vec![0.0; channels * capacity] }
    }
}

#[cfg(test)]
mod tests {
    use bouquet_kernels::Matrix;

    use super::*;

    fn rows(from: usize, count: usize) -> Matrix {
        Matrix::from_vec(count, 4, (from * 4..(from + count) * 4).map(|value| value as f32).collect())
    }

    #[test]
    fn appended_in_pieces_or_at_once_is_the_same() {
        let (all, mut once, mut cut) = (rows(0, 600), KvCache::new(2, 2, 600), KvCache::new(2, 2, 600));
        once.append(all.view(), all.view());
        for (from, count) in [(0, 1), (1, 300), (301, 299)] {
            cut.append(rows(from, count).view(), rows(from, count).view());
        }
        assert_eq!(once.pieces().len(), 3);
        for (a, b) in once.pieces().iter().zip(cut.pieces()) {
            assert_eq!((a.keys, a.values, a.capacity), (b.keys, b.values, b.capacity));
        }
        // Head 1 of position 257: the second page, after the first head's 256 positions.
        assert_eq!(once.pieces()[1].keys[(256 + 1) * 2..][..2], [257.0 * 4.0 + 2.0, 257.0 * 4.0 + 3.0]);
        assert_eq!(once.pieces()[2].capacity, 600 - 512);
    }

    #[test]
    fn beams_share_pages_until_one_writes() {
        let mut first = KvCache::new(2, 2, 10);
        first.append(rows(0, 3).view(), rows(0, 3).view());
        let mut second = first.clone();
        second.truncate(2);
        second.append(rows(9, 1).view(), rows(9, 1).view());
        assert_eq!(first.pieces()[0].keys[4..6], [8.0, 9.0]);
        assert_eq!(second.pieces()[0].keys[4..6], [36.0, 37.0]);
    }

    #[test]
    fn forgotten_pages_keep_their_place() {
        let mut cache = KvCache::new(2, 2, 600);
        cache.append(rows(0, 600).view(), rows(0, 600).view());
        cache.forget_before(511);
        assert_eq!(cache.pieces().iter().map(|piece| piece.keys.is_empty()).collect::<Vec<_>>(), [true, false, false]);
    }
}
