//! Buffers that a thread keeps between kernels: a task of some microseconds has no time for the allocator to give its
//! pages back and take them again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::lanes::LANES;

/// A cache line of numbers.
type Line = [f32; LANES];

/// A line, aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned(Line);

const _: () = assert!(size_of::<Aligned>() == 64);

// SAFETY: floats and nothing else; no padding, since its size is its alignment.
unsafe impl bytemuck::Zeroable for Aligned {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Aligned {}

thread_local! {
    static KEPT: RefCell<Vec<Vec<Aligned>>> = const { RefCell::new(Vec::new()) };
}

/// Most buffers that a thread keeps.
const MOST_BUFFERS: usize = 8;

/// Most lines that it keeps, all buffers together: 4 MiB. What does not fit goes back at once.
const MOST_LINES: usize = (4 << 20) / size_of::<Aligned>();

/// Numbers for a while, at the start of a cache line.
pub(crate) struct Scratch {
    lines: Vec<Aligned>,
    len: usize,
}

impl Scratch {
    /// `len` numbers, whatever they are.
    pub(crate) fn new(len: usize) -> Self {
        let needed = len.div_ceil(LANES);
        let mut lines = KEPT.with_borrow_mut(|kept| {
            // The shortest that is long enough, so that the long ones are there for who needs them.
            let long_enough = (0..kept.len()).filter(|&index| kept[index].len() >= needed);
            match long_enough.min_by_key(|&index| kept[index].len()) {
                Some(index) => kept.swap_remove(index),
                None => kept.pop().unwrap_or_default(),
            }
        });
        if lines.len() < needed {
            lines = vec![Aligned([0.0; LANES]); needed];
        }
        Scratch { lines, len }
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut scratch = Scratch::new(len);
        scratch.fill(0.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends has nothing to keep them in any more.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let others: usize = kept.iter().map(Vec::len).sum();
            if kept.len() < MOST_BUFFERS && others + lines.len() <= MOST_LINES {
                kept.push(lines);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let first = Scratch::zeros(100);
        let address = first.as_ptr();
        assert_eq!((first.len(), address as usize % 64), (100, 0));
        let second = Scratch::new(3);
        assert_ne!(second.as_ptr(), address);
        drop(first);
        assert_eq!(Scratch::new(97).as_ptr(), address);
        assert!(Scratch::new(0).is_empty());
        assert_eq!(Scratch::zeros(5000).iter().sum::<f32>(), 0.0);
    }

    #[test]
    fn a_thread_keeps_only_so_much() {
        let kept = || KEPT.with_borrow(|kept| (kept.len(), kept.iter().map(Vec::len).sum::<usize>()));
        drop(Scratch::new(MOST_LINES * LANES + 1));
        assert_eq!(kept(), (0, 0), "too long for itself");
        let quarter = MOST_LINES / 4 * LANES;
        drop([quarter, quarter, 10, quarter, quarter, 20].map(Scratch::new));
        assert_eq!(kept(), (5, 3 * MOST_LINES / 4 + 1 + 2), "the last quarter does not fit, the short ones do");
        drop([1; 20].map(Scratch::new));
        assert_eq!(kept().0, MOST_BUFFERS);
    }
}
