//! Integer products in plain Rust: the truth that the others are tested against.

use std::ops::Range;

use super::{BlockCodes, BlockRows, GROUP, GroupCodes, MOST_OUTPUTS, PANEL, Sums, TokenCodes};
use crate::weight::codes::CodeRows;

fn sum(w: CodeRows<'_>, row: usize, x: TokenCodes<'_>, token: usize) -> i32 {
    let codes: &[i8] = bytemuck::cast_slice(&x.data[token * x.stride..][..w.cols()]);
    codes.iter().enumerate().fold(0i32, |sum, (col, &code)| sum.wrapping_add(w.code(row, col) * i32::from(code)))
}

pub(super) fn few(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    let count = rows.len();
    for (index, row) in rows.enumerate() {
        for token in 0..x.count {
            sums[token * count + index] = sum(w, row, x, token);
        }
    }
}

pub(super) fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, mut done: impl FnMut(usize, &[Sums])) {
    for token in 0..x.count {
        let mut sums = [0; MOST_OUTPUTS];
        for (index, row) in rows.clone().enumerate() {
            sums[index] = sum(w, row, x, token);
        }
        done(token, &[sums]);
    }
}

pub(super) fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    for (token, dx) in dx.chunks_exact_mut(PANEL).enumerate() {
        let (codes, scales) = dy.tokens.data[token * dy.tokens.stride..].split_at(dy.scales);
        let codes: &[i8] = bytemuck::cast_slice(&codes[..w.rows()]);
        for (col, dx) in cols.clone().zip(dx) {
            for (group, codes) in codes.chunks(GROUP).enumerate() {
                let products = codes.iter().enumerate();
                let sum: i32 = products.map(|(i, &code)| w.code(group * GROUP + i, col) * i32::from(code)).sum();
                let scale = bytemuck::pod_read_unaligned(&scales[8 * group..][..4]);
                *dx = (sum as f32).mul_add(scale, *dx);
            }
        }
    }
}

pub(super) fn blocks(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    let (rows, cols) = (w.codes.rows, w.codes.cols);
    for (token, y) in y.chunks_exact_mut(MOST_OUTPUTS).enumerate() {
        let codes: &[i8] = bytemuck::cast_slice(&x.tokens.data[token * x.tokens.stride..][first..first + cols]);
        for (group, codes) in codes.chunks_exact(x.group).enumerate() {
            let mut sums = [0; MOST_OUTPUTS];
            for (row, sum) in sums[..rows].iter_mut().enumerate() {
                let products = codes.iter().enumerate();
                *sum = products
                    .map(|(i, &code)| i32::from(w.codes.data[row * cols + group * x.group + i] as i8) * i32::from(code))
                    .sum();
            }
            w.add_group(group, &sums[..rows], x.terms(token, first / x.group + group), &mut y[..rows]);
        }
    }
}

pub(super) fn spin_products(steps: usize) -> u64 {
    let (a, b) = std::hint::black_box((3i32, 5i32));
    let mut sums = [0i32; 16];
    for _ in 0..steps {
        sums = std::hint::black_box(sums.map(|sum| sum.wrapping_add(a * b)));
    }
    std::hint::black_box(sums);
    32 * steps as u64
}
