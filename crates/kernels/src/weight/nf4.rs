//! NF4, 16 quantiles of the normal distribution times the largest magnitude of each block of 64 numbers, as bitsandbytes
//! stores it (QLoRA, arXiv 2305.14314). Blocks run over the ends of rows:
//!
//! ```text
//! W[o, k] = LEVELS[code[i]] * absmax[i / 64],  i = o * cols + k,  code[i] = i even: byte[i / 2] >> 4, odd: & 15
//! ```
//!
//! With double quantization the magnitudes are themselves stored in 8 bits, in blocks of 256 around their mean.
//!
//! Activations stay as they are: numbers are decoded where they are used, and summed by rules 1 and 3.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::{FloatWeight, NotFinite, dynamic};
use crate::cpu::{SharedOut, SharedSlice};
use crate::lanes::LANES;
use crate::matrix::numbers;
use crate::product::{chains_with_on_threads, dots_with_on_threads};
use crate::scratch::Scratch;
use crate::simd::{self, Factors, Levels, decode_levels, dots_of_levels, per_isa};
use crate::{Cpu, Isa, MatrixView, MatrixViewMut};

/// Numbers of a block.
pub const BLOCK: usize = simd::BLOCK;

/// Magnitudes of a block of double quantization.
pub const NESTED_BLOCK: usize = 256;

/// What the 16 codes mean, as a part of the largest magnitude.
pub const LEVELS: [f32; LANES] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Tokens from which on rows are decoded before they are multiplied: sooner where a lookup takes many instructions.
fn many(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => 64,
        Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 8,
    }
}

/// Codes in a task of fewer tokens.
const TASK_CODES: usize = 96 * 1024;

/// Codes, two to a byte, and the largest magnitude of each block.
#[derive(Clone, Debug)]
pub struct Nf4Weight {
    rows: usize,
    cols: usize,
    codes: Bytes,
    absmax: Arc<[f32]>,
}

/// Magnitudes in 8 bits: `map[code] * absmax[block] + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// A code for each block of 64 numbers.
    pub codes: Vec<u8>,
    /// The largest of each 256 magnitudes, after the offset is taken off.
    pub absmax: Vec<f32>,
    /// What the codes mean, ascending: [`dynamic::signed_map`], unless a file says otherwise.
    pub map: Box<[f32; dynamic::LEVELS]>,
    /// The mean of all magnitudes.
    pub offset: f32,
}

/// Bytes of the codes of a weight.
pub fn code_bytes(rows: usize, cols: usize) -> usize {
    numbers(rows, cols).div_ceil(2)
}

/// Blocks of a weight; the last may be shorter.
pub fn blocks(rows: usize, cols: usize) -> usize {
    numbers(rows, cols).div_ceil(BLOCK)
}

impl Nf4Weight {
    /// Wraps stored codes and the largest magnitude of each block. Panics unless there are [`code_bytes`] and [`blocks`]
    /// of them.
    pub fn new(rows: usize, cols: usize, codes: Bytes, absmax: Vec<f32>) -> Self {
        assert_eq!(codes.len(), code_bytes(rows, cols), "bytes of codes of a [{rows}, {cols}] NF4 weight");
        assert_eq!(absmax.len(), blocks(rows, cols), "blocks of a [{rows}, {cols}] NF4 weight");
        Nf4Weight { rows, cols, codes, absmax: absmax.into() }
    }

    /// The same with magnitudes in 8 bits, which are decoded here: a sixteenth of the memory of the codes.
    pub fn nested(rows: usize, cols: usize, codes: Bytes, nested: &Nested) -> Self {
        Nf4Weight::new(rows, cols, codes, nested.decode())
    }

    /// Encodes a weight as bitsandbytes does: each number, divided by the largest magnitude of its block, to the nearest
    /// level. Writes the [`code_bytes`] and returns the magnitudes, one for each of the [`blocks`].
    ///
    /// # Errors
    /// [`NotFinite`] for a number that is not finite.
    pub fn encode(cpu: &Cpu, weight: &FloatWeight, codes: &mut [u8]) -> Result<Vec<f32>, NotFinite> {
        /// An even number of blocks, whatever rows they are of.
        const TASK: usize = 512 * BLOCK;
        let (rows, cols) = (weight.rows(), weight.cols());
        assert_eq!(codes.len(), code_bytes(rows, cols), "room for codes");
        let count = numbers(rows, cols);
        let mut absmax = vec![0.0; blocks(rows, cols)];
        let bad = AtomicUsize::new(usize::MAX);
        let (codes, shared) = (SharedSlice::new(codes), SharedSlice::new(&mut absmax));
        cpu.run(count.div_ceil(TASK), |task| {
            let range = task * TASK..count.min((task + 1) * TASK);
            let mut numbers = Scratch::new(range.len());
            weight.decode_flat(cpu, range.clone(), &mut numbers);
            // SAFETY: each task has its own blocks, which are whole bytes but for the last of all.
            let (codes, absmax) = unsafe {
                let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
                (codes.part(range.start / 2..range.end.div_ceil(2)), shared.part(blocks))
            };
            if let Some(place) = encode_blocks(cpu, &numbers, codes, absmax) {
                bad.fetch_min((range.start + place) / cols, Ordering::Relaxed);
            }
        });
        match bad.into_inner() {
            usize::MAX => Ok(absmax),
            row => Err(NotFinite { row }),
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that codes and magnitudes occupy.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.absmax.len()
    }

    /// Two to a byte, the first in the high half.
    pub fn codes(&self) -> &Bytes {
        &self.codes
    }

    /// The largest magnitude of each block.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// See [`Weight::product`](super::Weight::product), which has checked the shapes.
    pub(super) fn product(&self, cpu: &Cpu, x: MatrixView<'_>, mut y: MatrixViewMut<'_>) {
        if (1..many(cpu.isa())).contains(&x.rows()) && self.cols > 0 && self.cols.is_multiple_of(BLOCK) {
            let per_task = (TASK_CODES / self.cols).next_multiple_of(8).max(8);
            let out = SharedOut::new(&mut y);
            cpu.run(self.rows.div_ceil(per_task), |task| {
                let rows = task * per_task..self.rows.min((task + 1) * per_task);
                // SAFETY: each task has its own rows of the weight.
                let y = unsafe { out.block(0..x.rows(), rows.clone()) };
                dots_of_levels(cpu, x.into(), self.levels(), rows.start, y);
            });
            return;
        }
        dots_with_on_threads(cpu, x, self.rows, y, |rows, out| self.decode(cpu, rows, 0..self.cols, out));
    }

    /// See [`Weight::product_backward`](super::Weight::product_backward), which has checked the shapes.
    pub(super) fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
        dx.data_mut().fill(0.0);
        let factors = Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1);
        chains_with_on_threads(cpu, factors, self.rows, dx, |rows, cols, out| self.decode(cpu, rows, cols, out));
    }

    /// See [`Weight::gather`](super::Weight::gather), which has checked the shapes and ids.
    pub(super) fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        cpu.for_each_row(out, |index, out| {
            let id = ids[index] as usize;
            self.decode(cpu, id..id + 1, 0..self.cols, out);
        });
    }

    fn levels(&self) -> Levels<'_> {
        Levels { codes: &self.codes, scales: &self.absmax, levels: &LEVELS }
    }

    /// A part of the columns of some rows, as floats.
    fn decode(&self, cpu: &Cpu, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * cols.len(), "numbers decoded");
        let levels = self.levels();
        if cols.len() == self.cols {
            return decode_levels(cpu, levels, rows.start * self.cols, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            decode_levels(cpu, levels, row * self.cols + cols.start, out);
        }
    }
}

impl Nested {
    /// Encodes magnitudes as bitsandbytes does on a CPU: less their mean and divided by the largest of their block, they
    /// are rounded to one of 65536 places between −1 and 1, and that to the nearest level. (Its mean is a sum in f32,
    /// whose order depends on the machine; here it is exact, which now and then moves one in 100 000 codes.)
    pub fn encode(absmax: &[f32]) -> Self {
        let map = Box::new(dynamic::signed_map());
        let sum: f64 = absmax.iter().map(|&x| f64::from(x)).sum();
        let offset = if absmax.is_empty() { 0.0 } else { (sum / absmax.len() as f64) as f32 };
        let mut nested = Nested { codes: Vec::with_capacity(absmax.len()), absmax: Vec::new(), map, offset };
        for block in absmax.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0f32, |largest, x| largest.max((x - offset).abs()));
            nested.absmax.push(largest);
            // What has no magnitude has code 0, whatever that means times 0.
            let code =
                |x: &f32| if largest == 0.0 { 0 } else { nested_code(&nested.map, (x - offset) * (1.0 / largest)) };
            nested.codes.extend(block.iter().map(code));
        }
        nested
    }

    /// The magnitudes. Panics when there is not one `absmax` for each 256 of them.
    pub fn decode(&self) -> Vec<f32> {
        assert_eq!(self.absmax.len(), self.codes.len().div_ceil(NESTED_BLOCK), "blocks of magnitudes");
        let levels = self.codes.iter().map(|&code| self.map[usize::from(code)]);
        levels.enumerate().map(|(i, level)| level * self.absmax[i / NESTED_BLOCK] + self.offset).collect()
    }
}

/// The level nearest to the place, of 65536, that is nearest to `x`.
fn nested_code(map: &[f32; dynamic::LEVELS], x: f32) -> u8 {
    const LAST: f32 = 65535.0;
    let place = ((x.clamp(-1.0, 1.0) + 1.0) * 0.5).mul_add(LAST, 0.5).floor();
    dynamic::nearest(map, -1.0 + 2.0 * place / LAST)
}

/// What lies half way between the levels.
const BORDERS: [f32; 15] = {
    let mut borders = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        borders[i] = (LEVELS[i] + LEVELS[i + 1]) / 2.0;
        i += 1;
    }
    borders
};

per_isa! {
    /// Encodes blocks, the last of which may be shorter; returns the place of a number that is not finite, if there is one.
    fn encode_blocks(numbers: &[f32], codes: &mut [u8], absmax: &mut [f32]) -> Option<usize> {
        /// The least magnitude that is divided by.
        const LEAST: f32 = 1e-38;
        for (index, block) in numbers.chunks(BLOCK).enumerate() {
            let mut largest = 0.0f32;
            let mut finite = true;
            for x in block {
                let magnitude = x.abs();
                finite &= magnitude < f32::INFINITY;
                largest = if magnitude > largest { magnitude } else { largest };
            }
            if !finite {
                let place = block.iter().position(|x| !x.is_finite());
                return place.map(|place| index * BLOCK + place);
            }
            // A short block is divided, and remembers the least; a whole one is multiplied.
            let divisor = largest.max(LEAST);
            let whole = block.len() == BLOCK;
            absmax[index] = if whole { largest } else { divisor };
            let factor = 1.0 / divisor;
            // Behind the last number stands 0.
            let mut parts = [0.0f32; BLOCK];
            for (part, x) in parts.iter_mut().zip(block) {
                *part = if whole { x * factor } else { x / divisor };
            }
            let mut chosen = [0u32; BLOCK];
            for (code, part) in chosen.iter_mut().zip(&parts) {
                for border in &BORDERS {
                    *code += u32::from(border < part);
                }
            }
            for (byte, pair) in codes[index * BLOCK / 2..].iter_mut().zip(chosen.chunks_exact(2)).take(block.len().div_ceil(2)) {
                *byte = (pair[0] << 4 | pair[1]) as u8;
            }
        }
        None
    }
}
