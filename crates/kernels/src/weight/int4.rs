//! 4 bits for CPUs: groups of 64 columns, each with a small integer scale, and an f32 for the row, such that every weight
//! is a whole number of int8 times the scale of its row:
//!
//! ```text
//! W[o, k] = TABLES[group_scale[o, k / 64]][code[o, k]] * row_scale[o]
//! ```
//!
//! A table has the 16 int8 numbers that the codes of such a group mean: 16 fixed levels times the scale, rounded. So
//! prompts (rows expanded to int8) and decoding (expanded on the way) give the same integers, with one table lookup per
//! code. Memory: 4 bits a weight, 8 a group, 32 a row: 4.16 bits at 1024 columns.

use std::sync::Arc;

use bytes::Bytes;

use super::codes::{CodeRows, Int4Rows};
use super::{FloatWeight, NotFinite};
use crate::Cpu;
use crate::matrix::numbers;
use crate::simd::ints::PADDING;
use crate::simd::per_isa;

/// Columns of a group.
pub const GROUP: usize = 64;

/// Largest scale of a group.
const LARGEST: i32 = 127;

/// The levels of the codes in units of 1/2⁻¹⁶ of the largest; code 7 is 0.
const LEVELS: [i32; 16] =
    [-65536, -56174, -46811, -37449, -28087, -18725, -9362, 0, 9362, 18725, 28087, 37449, 46811, 56174, 65536, 65536];

/// What code `c` means in a group of scale `s`: `TABLES[s][c]`, as the bytes of an i8.
pub(super) static TABLES: [[u8; 16]; 256] = tables(0);

/// The same plus 128.
pub(super) static BIASED_TABLES: [[u8; 16]; 256] = tables(128);

const fn tables(bias: i32) -> [[u8; 16]; 256] {
    let mut tables = [[0; 16]; 256];
    let mut scale = 0;
    while scale < 256 {
        let mut code = 0;
        while code < 16 {
            tables[scale][code] = (meaning(scale as i32, code) + bias) as u8;
            code += 1;
        }
        scale += 1;
    }
    tables
}

/// `round(level * scale)`, half away from zero; scales beyond the largest, which are never written, count as that.
const fn meaning(scale: i32, code: usize) -> i32 {
    let scale = if scale > LARGEST { LARGEST } else { scale };
    let product = LEVELS[code] * scale;
    (product.abs() + 32768) / 65536 * product.signum()
}

/// Codes, two to a byte, and scales.
#[derive(Clone, Debug)]
pub struct Int4Weight {
    rows: usize,
    cols: usize,
    groups: usize,
    codes: Bytes,
    group_scales: Bytes,
    row_scales: Arc<[f32]>,
}

/// Groups of a row, an even number.
pub fn groups(cols: usize) -> usize {
    cols.div_ceil(PADDING) * 2
}

impl Int4Weight {
    /// Wraps stored codes, `[rows, groups * 32]`; scales of groups, `[rows, groups]`; and of rows. Panics on other sizes.
    pub fn new(rows: usize, cols: usize, codes: Bytes, group_scales: Bytes, row_scales: Vec<f32>) -> Self {
        let groups = groups(cols);
        assert_eq!(codes.len(), numbers(rows, groups * GROUP / 2), "codes of a [{rows}, {cols}] int4 weight");
        assert_eq!(group_scales.len(), numbers(rows, groups), "scales of the groups of a [{rows}, {cols}] int4 weight");
        assert_eq!(row_scales.len(), rows, "scales of the rows of a [{rows}, {cols}] int4 weight");
        Int4Weight { rows, cols, groups, codes, group_scales, row_scales: row_scales.into() }
    }

    /// Encodes a weight by rounding to the nearest level, with the scale of each group that makes the least squared error.
    /// Writes codes (`rows * groups * 32`) followed by scales of groups (`rows * groups`), row by row, and returns the
    /// scales of rows.
    ///
    /// # Errors
    /// [`NotFinite`] for a number that is not finite.
    pub fn encode(cpu: &Cpu, weight: &FloatWeight, codes: &mut [u8], scales: &mut [u8]) -> Result<Vec<f32>, NotFinite> {
        let (rows, groups) = (weight.rows(), groups(weight.cols()));
        assert_eq!(codes.len(), numbers(rows, groups * GROUP / 2), "room for codes");
        assert_eq!(scales.len(), numbers(rows, groups), "room for scales");
        let mut both = vec![0; numbers(rows, groups * (GROUP / 2 + 1))];
        let width = groups * (GROUP / 2 + 1);
        let row_scales = super::encode_rows(cpu, weight, &mut both, width, |row, out| {
            let (codes, scales) = out.split_at_mut(groups * GROUP / 2);
            encode_row(cpu, row, codes, scales)
        })?;
        for (row, both) in both.chunks_exact(width.max(1)).enumerate() {
            let (from_codes, from_scales) = both.split_at(groups * GROUP / 2);
            codes[row * from_codes.len()..][..from_codes.len()].copy_from_slice(from_codes);
            scales[row * groups..][..groups].copy_from_slice(from_scales);
        }
        Ok(row_scales)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that codes and scales occupy.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.group_scales.len() + 4 * self.rows
    }

    /// `[rows, groups * 32]`: for each pair of groups 64 bytes, the first group in their low halves.
    pub fn codes(&self) -> &Bytes {
        &self.codes
    }

    /// `[rows, groups]`.
    pub fn group_scales(&self) -> &Bytes {
        &self.group_scales
    }

    /// `[rows]`.
    pub fn row_scales(&self) -> &[f32] {
        &self.row_scales
    }

    pub(super) fn view(&self) -> (CodeRows<'_>, &[f32]) {
        let rows = Int4Rows {
            data: &self.codes,
            scales: &self.group_scales,
            rows: self.rows,
            cols: self.cols,
            groups: self.groups,
        };
        (CodeRows::Int4(rows), &self.row_scales)
    }
}

per_isa! {
    fn encode_row(row: &[f32], codes: &mut [u8], scales: &mut [u8]) -> f32 {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        if !largest.is_finite() || row.iter().any(|x| x.is_nan()) {
            return f32::INFINITY;
        }
        codes.fill(0x77);
        scales.fill(0);
        if largest < 1e-35 {
            return 0.0;
        }
        let unit = largest / LARGEST as f32;
        for (group, x) in row.chunks(GROUP).enumerate() {
            let (scale, chosen) = encode_group(x, unit);
            scales[group] = scale;
            for (i, &code) in chosen[..x.len()].iter().enumerate() {
                let byte = &mut codes[group / 2 * GROUP + i];
                *byte = if group % 2 == 0 { *byte & 0xf0 | code } else { *byte & 0x0f | code << 4 };
            }
        }
        unit
    }
}

/// The scale and the codes of a group that are closest to `x / unit`.
#[inline(always)]
fn encode_group(x: &[f32], unit: f32) -> (u8, [u8; GROUP]) {
    let mut numbers = [0.0f32; GROUP];
    for (number, x) in numbers.iter_mut().zip(x) {
        *number = x / unit;
    }
    let largest = numbers.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let (mut best, mut least) = ((0u8, [7u8; GROUP]), f32::INFINITY);
    let mut before = -1;
    for part in 0..12 {
        let scale = (largest * (0.72 + 0.03 * part as f32)).round().clamp(1.0, LARGEST as f32) as i32;
        if scale == before {
            continue;
        }
        before = scale;
        let table = &TABLES[scale as usize];
        let mut codes = [0u8; GROUP];
        let mut error = 0.0f32;
        for (code, &x) in codes.iter_mut().zip(&numbers) {
            let mut nearest = (f32::INFINITY, 0u8);
            for (candidate, &level) in table.iter().enumerate() {
                let distance = (x - f32::from(level as i8)).abs();
                if distance < nearest.0 {
                    nearest = (distance, candidate as u8);
                }
            }
            *code = nearest.1;
            error += nearest.0 * nearest.0;
        }
        if error < least {
            (best, least) = ((scale as u8, codes), error);
        }
    }
    best
}
