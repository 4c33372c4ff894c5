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

/// Gradients whose magnitudes differ as those of a token do: the cubes of numbers that are evenly spread, tiny for all.
fn gradients(numbers: &mut Numbers, rows: usize, cols: usize) -> Matrix {
    let mut dy = numbers.matrix(rows, cols);
    dy.data_mut().iter_mut().for_each(|value| *value *= *value * *value * 1e-4);
    dy
}

fn product_backward(weight: &Weight, cpu: &Cpu, dy: &Matrix) -> Matrix {
    let mut dx = Matrix::unset(dy.rows(), weight.cols());
    weight.product_backward(cpu, dy.view(), dx.view_mut());
    dx
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

/// The same backward.
fn backward_by_the_formula(weight: &Int8Weight, dy: &[f32]) -> Vec<f32> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut dx = vec![0.0f32; cols];
    for group in (0..rows).step_by(128) {
        let group = group..rows.min(group + 128);
        let scaled: Vec<f32> = group.clone().map(|row| dy[row] * (weight.absmax()[row] / 127.0)).collect();
        let largest = scaled.iter().fold(0.0f32, |largest, d| largest.max(d.abs()));
        let code = |d: &f32| if largest > 0.0 { (d * (127.0 / largest)).round_ties_even() as i64 } else { 0 };
        let codes: Vec<i64> = scaled.iter().map(code).collect();
        for (col, dx) in dx.iter_mut().enumerate() {
            let products =
                group.clone().zip(&codes).map(|(row, d)| d * i64::from(weight.codes()[row * cols + col] as i8));
            *dx = (largest / 127.0).mul_add(products.sum::<i64>() as f32, *dx);
        }
    }
    dx
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize, u64)> {
    let tokens = prop_oneof![1..8usize, 15..27usize, Just(70usize)];
    let rows = prop_oneof![1..20usize, 60..70usize, 125..132usize, Just(390usize)];
    let cols = prop_oneof![1..20usize, 60..70usize, 120..135usize, Just(384usize), Just(2050usize), Just(4224usize)];
    (tokens, rows, cols, any::<u64>())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_instruction_set_is_scalar((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x, bias) = (numbers.matrix(rows, cols), activations(&mut numbers, tokens, cols), numbers.vec(rows));
        let dy = gradients(&mut numbers, tokens, rows);
        for weight in [int8(&w, Arithmetic::Integer), int4(&w, Arithmetic::Integer)] {
            let scalar = product(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &x, Some(&bias));
            for cpu in cpus() {
                let y = product(&weight, &cpu, &x, Some(&bias));
                assert_same_bits(scalar.data(), y.data(), &format!("{cpu:?} [{tokens}, {cols}] x [{rows}, {cols}]"));
            }
            let scalar = product_backward(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &dy);
            for cpu in cpus() {
                let dx = product_backward(&weight, &cpu, &dy);
                assert_same_bits(scalar.data(), dx.data(), &format!("{cpu:?} [{tokens}, {rows}] · [{rows}, {cols}]"));
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
        let dy = gradients(&mut numbers, tokens, rows);
        let dx = product_backward(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &dy);
        for token in 0..tokens {
            assert_same_bits(&backward_by_the_formula(codes, dy.row(token)), dx.row(token), "a token's gradient");
        }
    }

    #[test]
    fn a_token_alone_is_the_token_in_a_batch((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x) = (numbers.matrix(rows, cols), activations(&mut numbers, tokens, cols));
        let dy = gradients(&mut numbers, tokens, rows);
        let cpu = Cpu::new(2);
        for weight in [int8(&w, Arithmetic::Integer), int4(&w, Arithmetic::Integer)] {
            let together = product(&weight, &cpu, &x, None);
            for token in 0..tokens {
                let alone = product(&weight, &cpu, &x.slice(token..token + 1).to_matrix(), None);
                assert_same_bits(alone.data(), together.row(token), "alone and together");
            }
            let together = product_backward(&weight, &cpu, &dy);
            for token in 0..tokens {
                let alone = product_backward(&weight, &cpu, &dy.slice(token..token + 1).to_matrix());
                assert_same_bits(alone.data(), together.row(token), "backward alone and together");
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
fn gradients_that_are_not_finite_reach_the_output() {
    let mut numbers = Numbers(4);
    let weight = int8(&numbers.matrix(300, 70), Arithmetic::Integer);
    for bad in [f32::NAN, f32::NEG_INFINITY, f32::MAX] {
        let mut dy = numbers.matrix(30, 300);
        dy.row_mut(7)[199] = bad;
        // A group that is too small for a scale is 0.
        dy.row_mut(8).fill(1e-36);
        for cpu in cpus() {
            let dx = product_backward(&weight, &cpu, &dy);
            assert_eq!(dx.row(7).iter().all(|dx| dx.is_finite()), bad == f32::MAX, "{cpu:?}");
            assert!(dx.row(8).iter().all(|dx| *dx == 0.0), "{cpu:?}");
            assert!(dx.row(6).iter().chain(dx.row(9)).all(|dx| dx.is_finite() && *dx != 0.0), "{cpu:?}");
        }
    }
}

/// Backward in integers against floats, relative to the norm of all gradients: near what rounding to 1/254 of the largest
/// of 128 numbers makes of normal ones (which is 0.8 %) and of Student's t with 3 degrees of freedom.
#[test]
fn gradients_in_integers_are_close() {
    let mut numbers = Numbers(9);
    let w = numbers.matrix(1024, 192);
    let normal = |numbers: &mut Numbers| numbers.vec(12).iter().sum::<f32>() / 2.0;
    let dy = |numbers: &mut Numbers, freedom: usize| {
        let mut draw = || {
            let squares = (0..freedom).map(|_| normal(numbers).powi(2)).sum::<f32>();
            normal(numbers) / if freedom == 0 { 1.0 } else { (squares / freedom as f32).sqrt() }
        };
        Matrix::from_vec(64, 1024, (0..64 * 1024).map(|_| draw()).collect())
    };
    for (freedom, bound) in [(0, 0.010), (5, 0.013), (3, 0.018)] {
        let dy = dy(&mut numbers, freedom);
        for [integer, float] in [
            [Arithmetic::Integer, Arithmetic::Float].map(|a| int8(&w, a)),
            [Arithmetic::Integer, Arithmetic::Float].map(|a| int4(&w, a)),
        ] {
            let [integer, float] = [integer, float].map(|weight| product_backward(&weight, &Cpu::new(2), &dy));
            let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let error = squares(&mut integer.data().iter().zip(float.data()).map(|(a, b)| a - b));
            let error = (error / squares(&mut float.data().iter().copied())).sqrt();
            assert!((0.5 * bound..bound).contains(&error), "{freedom}: {error}");
        }
    }
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
