//! Rows of codes as registers read them.

use super::{Ints, PADDING};
use crate::weight::codes::{Int4Rows, Int8Rows};

/// Rows of codes as registers read them.
pub(super) trait Source: Copy {
    /// Where a row is.
    type Row: Copy;
    /// Cache lines of [`PADDING`] codes.
    const LINES: usize;

    /// A row, which must exist.
    fn row(self, row: usize) -> Self::Row;

    /// `WIDTH` codes of a row from column `k`, a multiple of `WIDTH`, on. Those behind the last column are 0.
    ///
    /// # Safety
    /// As for [`Ints`]; `k` is below the number of columns.
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I;

    /// Where the codes of a row from column `k` on are, roughly.
    fn address(row: Self::Row, k: usize) -> *const u8;
}

impl Source for Int8Rows<'_> {
    type Row = *const u8;
    const LINES: usize = 2;

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        self.data[row * self.cols..][..self.cols].as_ptr()
    }

    #[inline(always)]
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I {
        let from = Self::address(row, k);
        let left = self.cols - k;
        // SAFETY: the caller's; what lies behind the row is not read.
        unsafe {
            if left >= I::WIDTH {
                return I::codes(from);
            }
            let mut padded = [0u8; 64];
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), left);
            I::codes(padded.as_ptr())
        }
    }

    #[inline(always)]
    fn address(row: Self::Row, k: usize) -> *const u8 {
        row.wrapping_add(k)
    }
}

impl Source for Int4Rows<'_> {
    /// Codes and scales.
    type Row = (*const u8, *const u8);
    const LINES: usize = 1;

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        let codes = &self.data[row * self.groups * 32..][..self.groups * 32];
        (codes.as_ptr(), self.scales[row * self.groups..][..self.groups].as_ptr())
    }

    #[inline(always)]
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I {
        // SAFETY: the caller's; rows are stored padded, and each group has a scale.
        unsafe {
            let table = Int4Rows::table(*row.1.add(k / 64), I::BIASED);
            I::lookup(Self::address(row, k), table, k % PADDING >= 64)
        }
    }

    #[inline(always)]
    fn address(row: Self::Row, k: usize) -> *const u8 {
        row.0.wrapping_add(k / PADDING * 64 + k % 64)
    }
}
