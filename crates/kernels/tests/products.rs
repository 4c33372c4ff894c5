//! Products against plain double precision, and the promise that no batch, thread or instruction set changes a bit.

mod common;

use bouquet_kernels::product::{add_product, product, product_backward, weight_gradient};
use bouquet_kernels::{Cpu, FloatEncoding, Matrix, MatrixView, Weight};
use bytes::Bytes;
use common::*;
use half::{bf16, f16};
use proptest::prelude::*;

const ENCODINGS: [FloatEncoding; 3] = [FloatEncoding::F32, FloatEncoding::F16, FloatEncoding::Bf16];

/// Rounding of a sum of up to a few hundred terms of size 1, in f32.
const TOLERANCE: f64 = 2e-6;

/// A weight and the numbers that it stores. Its bytes begin at an odd address.
fn stored(encoding: FloatEncoding, numbers: &Matrix) -> (Weight, Matrix) {
    let mut bytes = vec![0];
    let mut exact = Vec::new();
    for &x in numbers.data() {
        match encoding {
            FloatEncoding::F32 => {
                bytes.extend(x.to_le_bytes());
                exact.push(x);
            }
            FloatEncoding::F16 => {
                bytes.extend(f16::from_f32(x).to_le_bytes());
                exact.push(f16::from_f32(x).to_f32());
            }
            FloatEncoding::Bf16 => {
                bytes.extend(bf16::from_f32(x).to_le_bytes());
                exact.push(bf16::from_f32(x).to_f32());
            }
        }
    }
    let (rows, cols) = (numbers.rows(), numbers.cols());
    let weight = Weight::from_bytes(encoding, rows, cols, Bytes::from(bytes).slice(1..));
    (weight, Matrix::from_vec(rows, cols, exact))
}

/// Rules 1 and 3, as slowly as they are written.
mod rules {
    use super::*;

    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for (k, (a, b)) in a.iter().zip(b).enumerate() {
            lanes[k % 16] = a.mul_add(*b, lanes[k % 16]);
        }
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
        }
        lanes[0]
    }

    pub(crate) fn product(x: &Matrix, w: &Matrix) -> Matrix {
        let y = (0..x.rows()).flat_map(|t| (0..w.rows()).map(move |o| dot(x.row(t), w.row(o)))).collect();
        Matrix::from_vec(x.rows(), w.rows(), y)
    }

    /// `y += Σ a(t, j) w[j]`.
    pub(crate) fn chains(rows: usize, len: usize, a: impl Fn(usize, usize) -> f32, w: &Matrix, y: &mut Matrix) {
        for t in 0..rows {
            for j in 0..len {
                for c in 0..w.cols() {
                    y.row_mut(t)[c] = a(t, j).mul_add(w.row(j)[c], y.row(t)[c]);
                }
            }
        }
    }
}

/// Checks all products of one shape on every cpu against the rules.
fn check(tokens: usize, outputs: usize, inner: usize, magnitude: f32, seed: u64) {
    let mut numbers = Numbers(seed);
    let scaled = |mut matrix: Matrix| {
        matrix.data_mut().iter_mut().for_each(|x| *x *= magnitude);
        matrix
    };
    let x = numbers.matrix(tokens, inner);
    let dy = numbers.matrix(tokens, outputs);
    let w = scaled(numbers.matrix(outputs, inner));
    let cpus = cpus();
    for encoding in ENCODINGS {
        let (weight, exact) = stored(encoding, &w);
        let expected = rules::product(&x, &exact);
        let mut expected_dx = Matrix::zeros(tokens, inner);
        rules::chains(tokens, outputs, |t, j| dy.row(t)[j], &exact, &mut expected_dx);
        for cpu in &cpus {
            // What was there before must not matter.
            let mut y = Matrix::from_vec(tokens, outputs, vec![f32::NAN; tokens * outputs]);
            weight.product(cpu, x.view(), None, y.view_mut());
            assert_same_bits(y.data(), expected.data(), &format!("x Wᵀ, {encoding:?}, {cpu:?}"));
            let mut dx = Matrix::from_vec(tokens, inner, vec![f32::NAN; tokens * inner]);
            weight.product_backward(cpu, dy.view(), dx.view_mut());
            assert_same_bits(dx.data(), expected_dx.data(), &format!("dy W, {encoding:?}, {cpu:?}"));
            if encoding == FloatEncoding::F32 {
                product(cpu, x.view(), w.view(), y.view_mut());
                assert_same_bits(y.data(), expected.data(), &format!("x wᵀ, {cpu:?}"));
                product_backward(cpu, dy.view(), w.view(), dx.view_mut());
                assert_same_bits(dx.data(), expected_dx.data(), &format!("dy w, {cpu:?}"));
            }
        }
    }
    let before = numbers.matrix(outputs, inner);
    let mut expected = before.clone();
    rules::chains(outputs, tokens, |o, t| dy.row(t)[o], &x, &mut expected);
    for cpu in &cpus {
        let mut dw = before.clone();
        weight_gradient(cpu, dy.view(), x.view(), dw.view_mut());
        assert_same_bits(dw.data(), expected.data(), &format!("dyᵀ x, {cpu:?}"));
    }
    let before = numbers.matrix(tokens, outputs);
    let mut expected = before.clone();
    let transposed = (0..inner).flat_map(|i| (0..outputs).map(move |o| (i, o))).map(|(i, o)| w.row(o)[i]).collect();
    let transposed = Matrix::from_vec(inner, outputs, transposed);
    rules::chains(tokens, inner, |t, i| x.row(t)[i], &transposed, &mut expected);
    for cpu in &cpus {
        let mut y = before.clone();
        add_product(cpu, x.view(), w.view(), y.view_mut());
        assert_same_bits(y.data(), expected.data(), &format!("y + x wᵀ, {cpu:?}"));
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn odd_shapes_obey_the_rules(tokens in 0usize..12, outputs in 0usize..40, inner in 0usize..80, seed: u64) {
        check(tokens, outputs, inner, 1.0, seed);
    }

    #[test]
    fn denormals_obey_the_rules(tokens in 1usize..6, outputs in 1usize..20, inner in 1usize..40, seed: u64) {
        // 1e-6 is denormal in f16, 1e-39 in f32 and bf16; signs of zero appear as well.
        check(tokens, outputs, inner, 1e-6, seed);
        check(tokens, outputs, inner, 1e-39, seed);
    }
}

#[test]
fn every_tail_obeys_the_rules() {
    for inner in 1..=40 {
        check(5, 7, inner, 1.0, inner as u64);
    }
}

#[test]
fn large_shapes_obey_the_rules() {
    check(1, 700, 1030, 1.0, 1);
    check(3, 130, 2070, 1.0, 2);
    check(67, 131, 1100, 1.0, 3);
    check(300, 70, 150, 1.0, 4);
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    let mut numbers = Numbers(5);
    let (x, dy, w) = (numbers.matrix(70, 90), numbers.matrix(70, 50), numbers.matrix(50, 90));
    let cpu = Cpu::new(2);
    let (weight, _) = stored(FloatEncoding::Bf16, &w);
    let (mut y, mut dx) = (Matrix::zeros(70, 50), Matrix::zeros(70, 90));
    weight.product(&cpu, x.view(), None, y.view_mut());
    weight.product_backward(&cpu, dy.view(), dx.view_mut());
    for range in [0..1, 69..70, 3..5, 10..14, 20..41] {
        let (mut some_y, mut some_dx) = (Matrix::zeros(range.len(), 50), Matrix::zeros(range.len(), 90));
        weight.product(&cpu, x.slice(range.clone()), None, some_y.view_mut());
        weight.product_backward(&cpu, dy.slice(range.clone()), some_dx.view_mut());
        assert_same_bits(some_y.data(), y.slice(range.clone()).data(), "x Wᵀ of some");
        assert_same_bits(some_dx.data(), dx.slice(range.clone()).data(), "dy W of some");
    }
}

#[test]
fn a_gradient_may_be_accumulated_over_calls() {
    let mut numbers = Numbers(6);
    let (x, dy) = (numbers.matrix(37, 75), numbers.matrix(37, 20));
    let cpu = Cpu::new(2);
    let (mut whole, mut parts) = (Matrix::zeros(20, 75), Matrix::zeros(20, 75));
    weight_gradient(&cpu, dy.view(), x.view(), whole.view_mut());
    for range in [0..1, 1..8, 8..8, 8..30, 30..37] {
        weight_gradient(&cpu, dy.slice(range.clone()), x.slice(range), parts.view_mut());
    }
    assert_same_bits(parts.data(), whole.data(), "a gradient in parts");
}

/// `[a, b, c]` and `a · b + c` rounded once, as bits, where two roundings or a detour through f64 end elsewhere.
const FUSED: [[u32; 4]; 8] = [
    // (1 + 2⁻¹²)² − (1 + 2⁻¹¹) = 2⁻²⁴: the product alone rounds to what is taken away.
    [0x3f80_0800, 0x3f80_0800, 0xbf80_1000, 0x3380_0000],
    // 24929 · 673 = 2²⁴ + 1 lies half way between two numbers. 2⁻³⁰ more or less decides, and is lost in f64.
    [0x46c2_c200, 0x4428_4000, 0x3080_0000, 0x4b80_0001],
    [0x46c2_c200, 0x4428_4000, 0xb080_0000, 0x4b80_0000],
    // 1549 · 10831 = 2²⁴ + 3, where the even neighbour is the upper one.
    [0x44c1_a000, 0x4629_3c00, 0x3080_0000, 0x4b80_0002],
    [0x44c1_a000, 0x4629_3c00, 0xb080_0000, 0x4b80_0001],
    // 2⁻¹⁵⁰ + 2⁻¹⁴⁹ is a tie among denormals, though the product alone is 0.
    [0x1a00_0000, 0x1a00_0000, 0x0000_0001, 0x0000_0002],
    // 2⁻¹²⁶ taken from a little more leaves a denormal.
    [0x2000_0001, 0x2000_0001, 0x8080_0000, 0x0000_0002],
    // Twice the largest number, less the largest: the product alone is infinite.
    [0x7f7f_ffff, 0x4000_0000, 0xff7f_ffff, 0x7f7f_ffff],
];

/// Scalar code leans on `f32::mul_add`, which without an instruction for it is the platform's `fmaf`.
#[test]
fn a_fused_multiply_add_rounds_once() {
    for bits in FUSED {
        let [a, b, c, expected] = std::hint::black_box(bits).map(f32::from_bits);
        let what = format!("{a:e} · {b:e} + {c:e}");
        assert_same_bits(&[a.mul_add(b, c)], &[expected], &what);
        for cpu in cpus() {
            // One lane of rule 1: c · 1 first, and 16 terms later a · b.
            let (mut x, mut w) = (Matrix::zeros(1, 17), Matrix::zeros(1, 17));
            (x.data_mut()[0], w.data_mut()[0]) = (c, 1.0);
            (x.data_mut()[16], w.data_mut()[16]) = (a, b);
            let mut y = Matrix::zeros(1, 1);
            product(&cpu, x.view(), w.view(), y.view_mut());
            assert_same_bits(y.data(), &[expected], &format!("{what} in a lane, {cpu:?}"));
            // A chain of rule 3, in whole vectors and in a tail.
            let w: Vec<f32> = [c; 20].into_iter().chain([b; 20]).collect();
            let mut dx = Matrix::zeros(1, 20);
            product_backward(&cpu, MatrixView::new(1, 2, &[1.0, a]), MatrixView::new(2, 20, &w), dx.view_mut());
            assert_same_bits(dx.data(), &[expected; 20], &format!("{what} in a chain, {cpu:?}"));
        }
    }
    // A product that underflows keeps its sign: −2⁻²⁹⁸ + 0 is −0.
    let [a, b] = std::hint::black_box([0x8000_0001, 0x0000_0001]).map(f32::from_bits);
    assert_eq!(a.mul_add(b, 0.0).to_bits(), 0x8000_0000);
}

#[test]
fn a_product_is_a_product() {
    let mut numbers = Numbers(7);
    let (x, w) = (numbers.matrix(9, 333), numbers.matrix(21, 333));
    let mut y = Matrix::zeros(9, 21);
    Weight::from_f32(21, 333, w.data()).product(&Cpu::new(1), x.view(), None, y.view_mut());
    let dot = |t: usize, o: usize| wide(x.row(t)).iter().zip(wide(w.row(o))).map(|(a, b)| a * b).sum::<f64>();
    let reference: Vec<f64> = (0..9).flat_map(|t| (0..21).map(move |o| dot(t, o))).collect();
    assert_close(y.data(), &reference, TOLERANCE, "a product");
}

#[test]
fn gathered_rows_are_decoded() {
    let w = Numbers(8).matrix(9, 37);
    for encoding in ENCODINGS {
        let (weight, exact) = stored(encoding, &w);
        for cpu in cpus() {
            let ids = [8, 0, 3, 3];
            let mut out = Matrix::zeros(ids.len(), 37);
            weight.gather(&cpu, &ids, out.view_mut());
            for (row, id) in ids.into_iter().enumerate() {
                assert_same_bits(&out.data()[row * 37..][..37], exact.row(id as usize), "a gathered row");
            }
            weight.gather(&cpu, &[], Matrix::zeros(0, 37).view_mut());
        }
    }
}

#[test]
fn every_half_is_widened_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for cpu in cpus() {
        for encoding in [FloatEncoding::F16, FloatEncoding::Bf16] {
            let weight = Weight::from_bytes(encoding, 1, 1 << 16, Bytes::from(bytes.clone()));
            let mut out = Matrix::zeros(1, 1 << 16);
            weight.gather(&cpu, &[0], out.view_mut());
            for half in 0..=u16::MAX {
                let exact = match encoding {
                    FloatEncoding::F16 => f16::from_bits(half).to_f32(),
                    _ => bf16::from_bits(half).to_f32(),
                };
                let value = out.row(0)[usize::from(half)];
                assert!(value.to_bits() == exact.to_bits() || value.is_nan() && exact.is_nan(), "{half:#x}: {value}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "row 9 of a [9, 37] weight")]
fn an_id_outside_is_refused() {
    let weight = Weight::from_f32(9, 37, &[0.0; 9 * 37]);
    weight.gather(&Cpu::new(1), &[9], Matrix::zeros(1, 37).view_mut());
}
