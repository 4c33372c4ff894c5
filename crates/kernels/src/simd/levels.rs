//! Codes of 4 bits that stand for 16 levels, times the scale of their block of [`BLOCK`] numbers: NF4, as floats.
//!
//! The levels of a block are scaled first; a code is then a lookup among 16 lanes. Blocks know nothing of rows.

use super::{Lanes, in_isa};
use crate::Cpu;
use crate::lanes::LANES;

/// Numbers of a block.
pub(crate) const BLOCK: usize = 64;

/// Codes, two to a byte, the first in the high half; and the scale of each block.
#[derive(Clone, Copy)]
pub(crate) struct Levels<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [f32],
    /// What the codes mean in a block of scale 1.
    pub(crate) levels: &'a [f32; LANES],
}

/// The numbers from `first` on, as many as there is room for. Panics when there are fewer.
pub(crate) fn decode_levels(cpu: &Cpu, from: Levels<'_>, first: usize, to: &mut [f32]) {
    let end = first.checked_add(to.len()).expect("an end");
    assert!(end.div_ceil(2) <= from.codes.len() && end.div_ceil(BLOCK) <= from.scales.len(), "{end} numbers");
    in_isa!(cpu, decode_levels(from, first, to));
}

/// [`decode_levels`] over the lanes of one instruction set.
///
/// # Safety
/// As for [`Lanes`]; lengths are checked.
#[inline(always)]
pub(super) unsafe fn decode_levels_with<L: Lanes>(from: Levels<'_>, first: usize, to: &mut [f32]) {
    const { assert!(BLOCK.is_multiple_of(LANES)) };
    let mut done = 0;
    // SAFETY: the codes, scales and room for all numbers are there.
    unsafe {
        let levels = L::load(from.levels.as_ptr());
        while done < to.len() {
            let at = first + done;
            let end = to.len().min(done + BLOCK - at % BLOCK);
            let table = L::zero().add_product(levels, L::splat(*from.scales.get_unchecked(at / BLOCK)));
            while done < end {
                // A byte begins at an even number: the first lane may be one that is not wanted.
                let (byte, skip) = ((first + done) / 2, (first + done) % 2);
                let count = (LANES - skip).min(end - done);
                let (codes, out) = (from.codes.as_ptr().add(byte), to.as_mut_ptr().add(done));
                if count == LANES {
                    L::lookup(table, codes).store(out);
                } else {
                    let mut padded = [0u8; LANES / 2];
                    std::ptr::copy_nonoverlapping(codes, padded.as_mut_ptr(), (skip + count).div_ceil(2));
                    let mut numbers = [0.0; LANES];
                    L::lookup(table, padded.as_ptr()).store(numbers.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(numbers.as_ptr().add(skip), out, count);
                }
                done += count;
            }
        }
    }
}
