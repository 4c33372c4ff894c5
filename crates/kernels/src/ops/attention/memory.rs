//! The memory of a piece: what a cache of keys and values is made of.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Numbers, Piece};
use crate::cpu::SharedSlice;
use crate::matrix::{Matrix, numbers};
use crate::scratch::Scratch;
use crate::{Cpu, MatrixView};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheEncoding {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to half precision, half the memory; magnitudes beyond its largest become that.
    F16,
}

/// Keys and values of up to `capacity` positions, laid out as [`Piece`] tells.
#[derive(Clone, Debug)]
pub struct PieceMemory {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    keys: Stored,
    values: Stored,
}

#[derive(Clone, Debug)]
enum Stored {
    F32(Matrix),
    F16(Vec<f16>),
}

impl CacheEncoding {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            CacheEncoding::F32 => 4,
            CacheEncoding::F16 => 2,
        }
    }
}

impl PieceMemory {
    /// Room for `capacity` positions, of which none is filled.
    pub fn new(encoding: CacheEncoding, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let channels = numbers(kv_heads, head_dim);
        let room = || match encoding {
            CacheEncoding::F32 => Stored::F32(Matrix::unset(capacity, channels)),
            CacheEncoding::F16 => Stored::F16(vec![f16::ZERO; numbers(capacity, channels)]),
        };
        PieceMemory { kv_heads, head_dim, capacity, keys: room(), values: room() }
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Fills positions from `start` on: `keys` and `values` are `[positions, kv_heads * head_dim]`. Panics on other widths,
    /// and where there is no room.
    pub fn fill(&mut self, cpu: &Cpu, start: usize, keys: MatrixView<'_>, values: MatrixView<'_>) {
        let (head_dim, capacity, count) = (self.head_dim, self.capacity, keys.rows());
        assert_eq!((values.rows(), values.cols()), (count, keys.cols()), "the shape of values");
        assert_eq!(keys.cols(), self.kv_heads * head_dim, "columns of keys");
        assert!(start <= capacity && count <= capacity - start, "{count} positions from {start} on of {capacity}");
        let layout = Layout { kv_heads: self.kv_heads, head_dim, capacity, start };
        match (&mut self.keys, &mut self.values) {
            (Stored::F32(stored_keys), Stored::F32(stored_values)) => {
                let stored = [stored_keys.data_mut(), stored_values.data_mut()];
                layout.fill(cpu, keys, values, stored, |numbers, stored| stored.copy_from_slice(numbers));
            }
            (Stored::F16(stored_keys), Stored::F16(stored_values)) => {
                layout.fill(cpu, keys, values, [stored_keys, stored_values], round);
            }
            _ => unreachable!("keys and values are stored alike"),
        }
    }

    /// As attention reads it.
    pub fn piece(&self) -> Piece<'_> {
        Piece { keys: self.keys.view(), values: self.values.view(), capacity: self.capacity }
    }
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Stored::F32(numbers) => 4 * numbers.data().len(),
            Stored::F16(numbers) => 2 * numbers.len(),
        }
    }

    fn view(&self) -> Numbers<'_> {
        match self {
            Stored::F32(numbers) => Numbers::F32(numbers.data()),
            Stored::F16(numbers) => Numbers::F16(numbers),
        }
    }
}

/// Where a call of [`PieceMemory::fill`] writes.
struct Layout {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    start: usize,
}

impl Layout {
    fn fill<T: Send>(
        &self,
        cpu: &Cpu,
        keys: MatrixView<'_>,
        values: MatrixView<'_>,
        [stored_keys, stored_values]: [&mut [T]; 2],
        store: impl Fn(&[f32], &mut [T]) + Sync,
    ) {
        /// Numbers below which a second thread is not worth waking.
        const SMALL: usize = 512;
        let Layout { kv_heads, head_dim, capacity, start } = *self;
        let count = keys.rows();
        let room = [SharedSlice::new(stored_keys), SharedSlice::new(stored_values)];
        let fill_head = |head: usize| {
            let part = head * capacity * head_dim..(head + 1) * capacity * head_dim;
            // SAFETY: each task has its own head.
            let [stored_keys, stored_values] = room.each_ref().map(|room| unsafe { room.part(part.clone()) });
            let turned = turn(keys, head * head_dim..(head + 1) * head_dim);
            for (channel, turned) in turned.chunks_exact(count.max(1)).enumerate() {
                store(turned, &mut stored_keys[channel * capacity + start..][..count]);
            }
            for row in 0..count {
                let value = &values.row(row)[head * head_dim..][..head_dim];
                store(value, &mut stored_values[(start + row) * head_dim..][..head_dim]);
            }
        };
        if count * kv_heads * head_dim < SMALL {
            (0..kv_heads).for_each(fill_head);
        } else {
            cpu.run(kv_heads, fill_head);
        }
    }
}

/// Some columns of rows, `[columns, rows]`. A few at a time: more streams of writes than a cache has ways would push each
/// other out.
fn turn(x: MatrixView<'_>, cols: Range<usize>) -> Scratch {
    const AT_ONCE: usize = 8;
    let count = x.rows();
    let mut turned = Scratch::new(cols.len() * count);
    for (block, turned) in turned.chunks_mut(AT_ONCE * count.max(1)).enumerate() {
        let first = cols.start + block * AT_ONCE;
        for row in 0..count {
            for (number, turned) in x.row(row)[first..].iter().zip(turned.chunks_exact_mut(count)) {
                turned[row] = *number;
            }
        }
    }
    turned
}

/// To half precision.
fn round(numbers: &[f32], rounded: &mut [f16]) {
    const AT_ONCE: usize = 64;
    let largest = f32::from(f16::MAX);
    let mut bounded = [0.0; AT_ONCE];
    for (numbers, rounded) in numbers.chunks(AT_ONCE).zip(rounded.chunks_mut(AT_ONCE)) {
        let bounded = &mut bounded[..numbers.len()];
        bounded.iter_mut().zip(numbers).for_each(|(bounded, number)| *bounded = number.clamp(-largest, largest));
        rounded.convert_from_f32_slice(bounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_rounded_and_bounded() {
        let row = Matrix::from_vec(1, 4, vec![1.0 / 3.0, -1e9, f32::NAN, 2.0]);
        let mut memory = PieceMemory::new(CacheEncoding::F16, 2, 2, 3);
        memory.fill(&Cpu::new(1), 1, row.view(), row.view());
        assert_eq!(memory.bytes(), 2 * 2 * 12);
        let (Numbers::F16(keys), Numbers::F16(values)) = (memory.piece().keys, memory.piece().values) else {
            panic!("stored in half precision");
        };
        // Channel by channel, and position by position.
        assert_eq!([keys[1], keys[4], keys[10]].map(f32::from), [0.333_251_95, -65504.0, 2.0]);
        assert_eq!([values[2], values[3], values[9]].map(f32::from), [0.333_251_95, -65504.0, 2.0]);
        assert!(keys[7].is_nan() && values[8].is_nan());
    }
}
