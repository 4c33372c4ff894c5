//! Products with weights of integers: each instruction set against scalar, and scalar against the formula.

mod common;

use bouquet_kernels::weight::{FloatWeight, Int4Weight, Int8Weight, int4};
use bouquet_kernels::{Arithmetic, Cpu, FloatEncoding, Isa, Matrix, Weight};
use bytes::Bytes;
use common::{Numbers, assert_same_bits, cases, cpus};
use proptest::prelude::*;

fn float_weight(weight: &Matrix) -> FloatWeight {
    let bytes = Bytes::from(bytemuck::cast_slice::<f32, u8>(weight.data()).to_vec());
    FloatWeight::new(FloatEncoding::F32, weight.rows(), weight.cols(), bytes)
}

fn int8(weight: &Matrix, arithmetic: Arithmetic) -> Weight {
    let mut codes = vec![0; weight.data().len()];
    let absmax = Int8Weight::encode(&Cpu::new(2), &float_weight(weight), &mut codes).unwrap();
    Weight::Int8(Int8Weight::new(weight.rows(), weight.cols(), codes.into(), absmax).into(), arithmetic)
}

fn int4(weight: &Matrix, arithmetic: Arithmetic) -> Weight {
    let (rows, cols, groups) = (weight.rows(), weight.cols(), int4::groups(weight.cols()));
    let (mut codes, mut scales) = (vec![0; rows * groups * 32], vec![0; rows * groups]);
    let row_scales = Int4Weight::encode(&Cpu::new(2), &float_weight(weight), &mut codes, &mut scales).unwrap();
    Weight::Int4(Int4Weight::new(rows, cols, codes.into(), scales.into(), row_scales).into(), arithmetic)
}

/// Activations of which about one in 40 is an outlier.
fn activations(numbers: &mut Numbers, rows: usize, cols: usize) -> Matrix {
    let mut x = numbers.matrix(rows, cols);
    for value in x.data_mut() {
        *value *= 3.0;
        if numbers.bits().is_multiple_of(40) {
            *value *= 20.0;
        }
    }
    x
}

fn product(weight: &Weight, cpu: &Cpu, x: &Matrix, bias: Option<&[f32]>) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), weight.rows());
    weight.product(cpu, x.view(), bias, y.view_mut());
    y
}

/// All rows, as floats.
fn decoded(weight: &Weight) -> Matrix {
    let ids: Vec<u32> = (0..weight.rows() as u32).collect();
    let mut rows = Matrix::zeros(weight.rows(), weight.cols());
    weight.gather(&Cpu::new(1), &ids, rows.view_mut());
    rows
}

/// The formula at the top of `weight/codes.rs`, of int8, number by number.
fn by_the_formula(weight: &Int8Weight, x: &[f32], bias: &[f32]) -> Vec<f32> {
    let inliers = x.iter().filter(|x| x.abs() < 6.0);
    let largest = inliers.fold(0.0f32, |largest, x| largest.max(x.abs()));
    let codes: Vec<i64> = x
        .iter()
        .map(|x| if x.abs() < 6.0 && largest > 0.0 { (x * (127.0 / largest)).round_ties_even() as i64 } else { 0 })
        .collect();
    (0..weight.rows())
        .map(|row| {
            let row_codes = &weight.codes()[row * x.len()..][..x.len()];
            let sum: i64 = codes.iter().zip(row_codes).map(|(a, b)| a * i64::from(*b as i8)).sum();
            let mut outliers = 0.0f32;
            for (x, code) in x.iter().zip(row_codes) {
                if x.abs() >= 6.0 {
                    outliers = x.mul_add(f32::from(*code as i8), outliers);
                }
            }
            (sum as f32 * (largest / 127.0) + outliers) * (weight.absmax()[row] / 127.0) + bias[row]
        })
        .collect()
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize, u64)> {
    let tokens = prop_oneof![1..8usize, 15..27usize, Just(70usize)];
    let rows = prop_oneof![1..20usize, 60..70usize, Just(131usize)];
    let cols = prop_oneof![1..20usize, 60..70usize, 120..135usize, Just(384usize), Just(2050usize), Just(4224usize)];
    (tokens, rows, cols, any::<u64>())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_instruction_set_is_scalar((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x, bias) = (numbers.matrix(rows, cols), activations(&mut numbers, tokens, cols), numbers.vec(rows));
        for weight in [int8(&w, Arithmetic::Integer), int4(&w, Arithmetic::Integer)] {
            let scalar = product(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &x, Some(&bias));
            for cpu in cpus() {
                let y = product(&weight, &cpu, &x, Some(&bias));
                assert_same_bits(scalar.data(), y.data(), &format!("{cpu:?} [{tokens}, {cols}] x [{rows}, {cols}]"));
            }
        }
    }

    #[test]
    fn scalar_is_the_formula((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x, bias) = (numbers.matrix(rows, cols), activations(&mut numbers, tokens, cols), numbers.vec(rows));
        let weight = int8(&w, Arithmetic::Integer);
        let y = product(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &x, Some(&bias));
        let Weight::Int8(codes, _) = &weight else { unreachable!() };
        for token in 0..tokens {
            assert_same_bits(&by_the_formula(codes, x.row(token), &bias), y.row(token), "a token");
        }
    }

    #[test]
    fn a_token_alone_is_the_token_in_a_batch((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x) = (numbers.matrix(rows, cols), activations(&mut numbers, tokens, cols));
        let cpu = Cpu::new(2);
        for weight in [int8(&w, Arithmetic::Integer), int4(&w, Arithmetic::Integer)] {
            let together = product(&weight, &cpu, &x, None);
            for token in 0..tokens {
                let alone = product(&weight, &cpu, &x.slice(token..token + 1).to_matrix(), None);
                assert_same_bits(alone.data(), together.row(token), "alone and together");
            }
        }
    }

    #[test]
    fn float_arithmetic_is_that_of_the_decoded_weight((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x, dy) = (numbers.matrix(rows, cols), numbers.matrix(tokens, cols), numbers.matrix(tokens, rows));
        for weight in [int8(&w, Arithmetic::Float), int4(&w, Arithmetic::Float)] {
            let float = Weight::from_f32(rows, cols, decoded(&weight).data());
            for cpu in cpus() {
                let (a, b) = (product(&weight, &cpu, &x, None), product(&float, &cpu, &x, None));
                assert_same_bits(a.data(), b.data(), "forward");
                let (mut a, mut b) = (Matrix::zeros(tokens, cols), Matrix::zeros(tokens, cols));
                weight.product_backward(&cpu, dy.view(), a.view_mut());
                float.product_backward(&cpu, dy.view(), b.view_mut());
                assert_same_bits(a.data(), b.data(), "backward");
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_named_by_its_row_and_reaches_the_output() {
    let mut numbers = Numbers(3);
    let mut w = numbers.matrix(50, 70);
    let weight = int8(&w, Arithmetic::Integer);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = numbers.matrix(30, 70);
        x.row_mut(7)[69] = bad;
        for cpu in cpus() {
            let y = product(&weight, &cpu, &x, None);
            assert!(y.row(7).iter().all(|y| !y.is_finite()), "{cpu:?}");
            assert!(y.row(6).iter().chain(y.row(8)).all(|y| y.is_finite()), "{cpu:?}");
        }
    }
    for bad in [f32::NAN, f32::NEG_INFINITY, 1e6] {
        w.row_mut(33)[5] = bad;
        let mut codes = vec![0; 50 * 70];
        assert_eq!(Int8Weight::encode(&Cpu::new(2), &float_weight(&w), &mut codes).unwrap_err().row, 33, "{bad}");
    }
    w.row_mut(33)[5] = f32::NAN;
    let (mut codes, mut scales) = (vec![0; 50 * 64], vec![0; 50 * 2]);
    assert_eq!(Int4Weight::encode(&Cpu::new(2), &float_weight(&w), &mut codes, &mut scales).unwrap_err().row, 33);
}

#[test]
fn rows_of_zeros_are_zeros() {
    let mut w = Numbers(5).matrix(40, 130);
    w.row_mut(11).fill(0.0);
    let x = Numbers(6).matrix(25, 130);
    for weight in [int8(&w, Arithmetic::Integer), int4(&w, Arithmetic::Integer)] {
        for cpu in cpus() {
            let y = product(&weight, &cpu, &x, None);
            assert!((0..25).all(|token| y.row(token)[11] == 0.0 && y.row(token)[12] != 0.0));
            let zeros = product(&weight, &cpu, &Matrix::zeros(3, 130), None);
            assert!(zeros.data().iter().all(|y| *y == 0.0));
        }
    }
}

#[test]
fn four_bits_are_close() {
    let normal = |w: &Matrix| {
        // The mean of 12 numbers that are evenly spread is nearly normal.
        Matrix::from_vec(64, 512, w.data().chunks_exact(12).map(|x| x.iter().sum()).collect())
    };
    let mut w = normal(&Numbers(8).matrix(64, 512 * 12));
    (0..64).for_each(|row| w.row_mut(row).iter_mut().step_by(7).for_each(|pruned| *pruned = 0.0));
    let decoded = decoded(&int4(&w, Arithmetic::Float));
    let zeros = w.data().iter().zip(decoded.data()).filter(|(before, _)| **before == 0.0);
    assert!(zeros.clone().count() > 4000 && zeros.clone().all(|(_, after)| *after == 0.0));
    let error: f64 = w.data().iter().zip(decoded.data()).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = w.data().iter().map(|a| f64::from(*a).powi(2)).sum();
    assert!(error / all < 0.0068, "{}", error / all);
}
