//! NF4: the codes of bitsandbytes, and each instruction set against scalar.

mod common;

use bouquet_kernels::weight::nf4::{self, Nested};
use bouquet_kernels::weight::{FloatWeight, Nf4Weight, dynamic};
use bouquet_kernels::{Cpu, FloatEncoding, Isa, Matrix, Weight};
use bytes::Bytes;
use common::{Numbers, assert_same_bits, cases, cpus};
use proptest::prelude::*;

/// Made by bitsandbytes; its first lines say how.
const GOLDEN: &str = include_str!("goldens/nf4.txt");

fn float_weight(rows: usize, cols: usize, numbers: &[f32]) -> FloatWeight {
    let bytes = Bytes::from(bytemuck::cast_slice::<f32, u8>(numbers).to_vec());
    FloatWeight::new(FloatEncoding::F32, rows, cols, bytes)
}

/// Codes and magnitudes.
fn encode(cpu: &Cpu, weight: &FloatWeight) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; nf4::code_bytes(weight.rows(), weight.cols())];
    let absmax = Nf4Weight::encode(cpu, weight, &mut codes).unwrap();
    (codes, absmax)
}

fn nf4(weight: &Matrix) -> Weight {
    let (rows, cols) = (weight.rows(), weight.cols());
    let (codes, absmax) = encode(&Cpu::new(2), &float_weight(rows, cols, weight.data()));
    Weight::Nf4(Nf4Weight::new(rows, cols, codes.into(), absmax).into())
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn floats(hex: &str) -> Vec<f32> {
    bytes(hex).chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// All rows, as floats.
fn decoded(cpu: &Cpu, weight: &Weight) -> Matrix {
    let ids: Vec<u32> = (0..weight.rows() as u32).collect();
    let mut rows = Matrix::zeros(weight.rows(), weight.cols());
    weight.gather(cpu, &ids, rows.view_mut());
    rows
}

#[test]
fn maps_are_those_of_bitsandbytes() {
    for (name, map) in [("signed_map ", dynamic::signed_map()), ("unsigned_map ", dynamic::unsigned_map())] {
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_same_bits(&floats(line), &map, name);
    }
}

#[test]
fn codes_and_numbers_are_those_of_bitsandbytes() {
    let mut cases = 0;
    for case in GOLDEN.split("\ncase ").skip(1) {
        let (head, lines) = case.split_once('\n').unwrap();
        let line = |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        let [rows, cols, seed, zeros] = *head.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<usize>>()
        else {
            panic!("{head}")
        };
        let mut numbers = Numbers(seed as u64).vec(rows * cols);
        for (i, x) in numbers.iter_mut().enumerate() {
            *x *= if i / 64 < zeros { 0.0 } else { 0.5f32.powi((i / 64 % 5) as i32) };
        }
        for cpu in cpus() {
            let (codes, absmax) = encode(&cpu, &float_weight(rows, cols, &numbers));
            let expected = bytes(line("codes"));
            assert_eq!(codes[..expected.len()], expected, "{cpu:?} {head}");
            assert_same_bits(&absmax, &floats(line("absmax")), head);
            let theirs = Nested {
                codes: bytes(line("nested_codes")),
                absmax: floats(line("nested_absmax")),
                map: dynamic::signed_map().into(),
                offset: floats(line("offset"))[0],
            };
            let ours = Nested::encode(&absmax);
            assert_eq!(ours.codes, theirs.codes, "{head}");
            // Their mean is rounded at every step.
            for (a, b) in ours.absmax.iter().chain([&ours.offset]).zip(theirs.absmax.iter().chain([&theirs.offset])) {
                assert!((a - b).abs() <= 1e-7 * theirs.offset, "{a} {b}: {head}");
            }

            let compare = |weight: Nf4Weight, name: &str| {
                let (numbers, expected) = (decoded(&cpu, &Weight::Nf4(weight.into())), floats(line(name)));
                assert!(numbers.data().len() == expected.len() || expected.len() == 1000);
                // A level of 0 times a magnitude below it, which double quantization can make, is -0 there.
                assert_eq!(numbers.data()[..expected.len()], expected, "{cpu:?} {head}");
            };
            compare(Nf4Weight::new(rows, cols, codes.clone().into(), absmax), "decoded");
            compare(Nf4Weight::nested(rows, cols, codes.into(), &theirs), "nested_decoded");
        }
        cases += 1;
    }
    assert_eq!(cases, 5);
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize, u64)> {
    let tokens = prop_oneof![0..10usize, 15..27usize, 62..66usize];
    let rows = prop_oneof![1..20usize, 60..70usize, Just(401usize)];
    let cols = prop_oneof![1..20usize, 60..70usize, 120..135usize, Just(64usize), Just(384usize), Just(1061usize)];
    (tokens, rows, cols, any::<u64>())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_instruction_set_is_scalar((tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let (w, x, dy) = (numbers.matrix(rows, cols), numbers.matrix(tokens, cols), numbers.matrix(tokens, rows));
        let (weight, bias) = (nf4(&w), numbers.vec(rows));
        let float = decoded(&Cpu::with_isa(Isa::Scalar, 1).unwrap(), &weight);
        for (i, (a, b)) in float.data().iter().zip(w.data()).enumerate() {
            // Half the widest gap between levels, of a magnitude of at most 1.
            assert!((a - b).abs() < 0.153, "{a} for {b} at {i}");
        }
        let float = Weight::from_f32(rows, cols, float.data());
        for cpu in cpus() {
            assert_same_bits(decoded(&cpu, &weight).data(), decoded(&cpu, &float).data(), "decoded");
            let (mut a, mut b) = (Matrix::zeros(tokens, rows), Matrix::zeros(tokens, rows));
            weight.product(&cpu, x.view(), Some(&bias), a.view_mut());
            float.product(&cpu, x.view(), Some(&bias), b.view_mut());
            assert_same_bits(a.data(), b.data(), &format!("{cpu:?} [{tokens}, {cols}] x [{rows}, {cols}]"));
            let (mut a, mut b) = (Matrix::zeros(tokens, cols), Matrix::zeros(tokens, cols));
            weight.product_backward(&cpu, dy.view(), a.view_mut());
            float.product_backward(&cpu, dy.view(), b.view_mut());
            assert_same_bits(a.data(), b.data(), &format!("{cpu:?} [{tokens}, {rows}] x [{rows}, {cols}]"));
        }
    }
}

#[test]
fn what_is_not_finite_is_named_by_its_row() {
    let (rows, cols) = (600, 137);
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut w = Numbers(3).matrix(rows, cols);
        for row in [33, 34, 500] {
            w.row_mut(row)[135] = bad;
        }
        let mut codes = vec![0; nf4::code_bytes(rows, cols)];
        for cpu in cpus() {
            let weight = float_weight(rows, cols, w.data());
            assert_eq!(Nf4Weight::encode(&cpu, &weight, &mut codes).unwrap_err().row, 33, "{cpu:?}");
        }
    }
}

#[test]
fn halves_are_encoded_as_the_floats_that_they_are() {
    let halves: Vec<u8> =
        (0..35 * 77u32).map(|i| (0x3000 | (i * 2531) & 0x8fff) as u16).flat_map(u16::to_le_bytes).collect();
    let weight = FloatWeight::new(FloatEncoding::F16, 35, 77, halves.into());
    let float = decoded(&Cpu::new(1), &Weight::Float(weight.clone()));
    assert_eq!(encode(&Cpu::new(2), &weight), encode(&Cpu::new(1), &float_weight(35, 77, float.data())));
}

#[test]
fn nested_magnitudes_are_close() {
    let absmax: Vec<f32> = Numbers(9).vec(1000).iter().map(|x| 0.3 + 0.1 * x).collect();
    let nested = Nested::encode(&absmax);
    assert_eq!((nested.codes.len(), nested.absmax.len()), (1000, 4));
    for (a, b) in absmax.iter().zip(nested.decode()) {
        // The widest gap is 0.014 of a magnitude of 0.1.
        assert!((a - b).abs() < 0.00075, "{b} for {a}");
    }
    assert_eq!(Nested::encode(&[]).decode(), [0.0; 0]);
    assert_eq!(Nested::encode(&[0.5]).decode(), [0.5]);
}
