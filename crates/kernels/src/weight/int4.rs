//! 4 bits for CPUs: groups of 64 columns, each with a small integer scale, and an f32 for the row, such that every weight
//! is a whole number of int8 times the scale of its row:
//!
//! ```text
//! W[o, k] = round(LEVELS[code[o, k]] * group_scale[o, k / 64] / 127) * row_scale[o]
//! ```
//!
//! So prompts (rows expanded to int8) and decoding (expanded on the way) give the same integers, with one table lookup
//! per code. Memory: 4 bits a weight, 8 a group, 32 a row: 4.16 bits at 1024 columns.
//!
//! Levels lie closer where numbers of a normal distribution do, as those of NF4 (QLoRA, arXiv 2305.14314) and IQ4_NL
//! (llama.cpp). They are those with the least squared error for groups of 64 numbers, two thirds of the groups normal, one
//! third of Student's t distribution with 6 degrees of freedom, given that 0 is among them (pruned weights stay pruned)
//! and that a scale may be negative, which is why they need not be symmetric. That error is 0.68 % of the square of the
//! numbers, where 15 even levels have 1.03 %.

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

/// Largest scale of a group, and largest number of int8.
const LARGEST: i32 = 127;

/// What the codes mean, in units of 1/127 of the scale of the group.
const LEVELS: [i32; 16] = [-127, -98, -78, -61, -46, -33, -22, -11, 0, 11, 23, 35, 49, 65, 84, 111];

/// The code of 0.
const ZERO: u8 = 8;

/// What code `c` means in a group of scale `s`: `TABLES[s as u8][c]`, as the bytes of an i8.
pub(super) static TABLES: [[u8; 16]; 256] = tables(0);

/// The same plus 128.
pub(super) static BIASED_TABLES: [[u8; 16]; 256] = tables(128);

const fn tables(bias: i32) -> [[u8; 16]; 256] {
    let mut tables = [[0; 16]; 256];
    let mut scale = 0;
    while scale < 256 {
        let mut code = 0;
        while code < 16 {
            tables[scale][code] = (meaning(scale as u8 as i8, code) + bias) as u8;
            code += 1;
        }
        scale += 1;
    }
    tables
}

/// `round(level * scale / 127)`, half away from zero; -128, which is never written, counts as -127.
const fn meaning(scale: i8, code: usize) -> i32 {
    let scale = if scale == i8::MIN { -LARGEST } else { scale as i32 };
    let product = LEVELS[code] * scale;
    (2 * product.abs() + LARGEST) / (2 * LARGEST) * product.signum()
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

    /// `[rows, groups]`, signed.
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
        codes.fill(ZERO | ZERO << 4);
        scales.fill(0);
        if largest < 1e-35 {
            return 0.0;
        }
        let unit = largest / LARGEST as f32;
        for (group, x) in row.chunks(GROUP).enumerate() {
            let (scale, chosen) = encode_group(x, unit);
            scales[group] = scale as u8;
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
fn encode_group(x: &[f32], unit: f32) -> (i8, [u8; GROUP]) {
    let mut numbers = [0.0f32; GROUP];
    for (number, x) in numbers.iter_mut().zip(x) {
        *number = x / unit;
    }
    let largest = numbers.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let (mut best, mut least) = (0, f32::INFINITY);
    for sign in [1.0, -1.0] {
        for part in 0..8 {
            let scale = sign * (largest * (0.8 + 0.04 * part as f32)).round().clamp(1.0, LARGEST as f32);
            let error = nearest(&numbers, scale as i8, &mut [0; GROUP]);
            if error < least {
                (best, least) = (scale as i8, error);
            }
        }
    }
    let mut codes = [ZERO; GROUP];
    nearest(&numbers, best, &mut codes);
    (best, codes)
}

/// The codes that are nearest to numbers where the scale of the group is given, and the squared error. Branches and
/// lookups would keep this from running in lanes.
#[inline(always)]
fn nearest(numbers: &[f32; GROUP], scale: i8, codes: &mut [u8; GROUP]) -> f32 {
    const LANES: usize = 16;
    let sign = if scale < 0 { -1.0 } else { 1.0 };
    let levels: [f32; 16] = std::array::from_fn(|code| meaning(scale, code) as f32 * sign);
    let mut errors = [0.0f32; LANES];
    for (numbers, codes) in numbers.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES)) {
        let (mut places, mut nearest) = ([0u32; LANES], [levels[0]; LANES]);
        for pair in levels.windows(2) {
            let border = (pair[0] + pair[1]) * 0.5;
            for lane in 0..LANES {
                let above = numbers[lane] * sign > border;
                places[lane] += u32::from(above);
                nearest[lane] = if above { pair[1] } else { nearest[lane] };
            }
        }
        for lane in 0..LANES {
            let error = numbers[lane] * sign - nearest[lane];
            errors[lane] += error * error;
            codes[lane] = places[lane] as u8;
        }
    }
    errors.iter().sum()
}
