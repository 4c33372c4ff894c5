//! The block formats of ggml: its own numbers, and each instruction set against scalar.

mod common;

use bouquet_kernels::weight::blocks::{block_bytes, encode};
use bouquet_kernels::weight::{BlockFormat, BlockWeight, FloatWeight};
use bouquet_kernels::{Arithmetic, Cpu, FloatEncoding, Isa, Matrix, Weight};
use bytes::Bytes;
use common::{Numbers, assert_same_bits, cases, cpus};
use half::f16;
use proptest::prelude::*;

/// Made by ggml's Python package, with the script beside it.
const GOLDEN: &str = include_str!("goldens/blocks.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn floats(hex: &str) -> Vec<f32> {
    bytes(hex).chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The lines of one kind: format, blocks, numbers.
fn golden(kind: &str) -> Vec<(BlockFormat, Vec<u8>, Vec<f32>)> {
    let lines = GOLDEN.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|words| words[0] == kind);
    lines
        .map(|words| {
            let format = BlockFormat::ALL.into_iter().find(|format| format.name() == words[1]).unwrap();
            (format, bytes(words[2]), floats(words[3]))
        })
        .collect()
}

fn float_weight(rows: usize, cols: usize, numbers: &[f32]) -> FloatWeight {
    FloatWeight::new(FloatEncoding::F32, rows, cols, Bytes::from(bytemuck::cast_slice::<f32, u8>(numbers).to_vec()))
}

/// Where the f16 numbers of a block begin, and how many there are.
fn halves(format: BlockFormat) -> (usize, usize) {
    match format {
        BlockFormat::Q2K => (80, 2),
        BlockFormat::Q3K => (108, 1),
        BlockFormat::Q6K => (208, 1),
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => (0, 2),
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 | BlockFormat::Iq4Nl => (0, 1),
    }
}

/// Blocks of random bits, with scales that are finite. Their bytes begin at an odd address.
fn random(numbers: &mut Numbers, format: BlockFormat, arithmetic: Arithmetic, rows: usize, cols: usize) -> Weight {
    let mut data: Vec<u8> = (0..1 + block_bytes(format, rows, cols)).map(|_| numbers.bits() as u8).collect();
    let (first, count) = halves(format);
    for block in data[1..].chunks_exact_mut(format.block_bytes()) {
        for half in block[first..][..2 * count].chunks_exact_mut(2) {
            half.copy_from_slice(&f16::from_f32(0.02 * numbers.next()).to_le_bytes());
        }
    }
    Weight::Blocks(BlockWeight::new(format, rows, cols, Bytes::from(data).slice(1..)), arithmetic)
}

/// All rows, as floats.
fn decoded(cpu: &Cpu, weight: &Weight) -> Matrix {
    let ids: Vec<u32> = (0..weight.rows() as u32).collect();
    let mut rows = Matrix::zeros(weight.rows(), weight.cols());
    weight.gather(cpu, &ids, rows.view_mut());
    rows
}

#[test]
fn numbers_are_those_of_ggml() {
    let golden = golden("decode");
    assert_eq!(golden.len(), BlockFormat::ALL.len());
    for (format, blocks, expected) in golden {
        assert_eq!(blocks.len() * format.block_size(), expected.len() * format.block_bytes(), "{format:?}");
        let weight = Weight::Blocks(BlockWeight::new(format, 1, expected.len(), blocks.into()), Arithmetic::Float);
        for cpu in cpus() {
            assert_same_bits(decoded(&cpu, &weight).data(), &expected, &format!("{format:?} {cpu:?}"));
        }
    }
}

#[test]
fn blocks_are_those_of_ggml() {
    let golden = golden("encode");
    assert_eq!(golden.len(), 2);
    for (format, expected, numbers) in golden {
        for cpu in cpus() {
            let mut blocks = vec![0; expected.len()];
            encode(&cpu, format, &float_weight(numbers.len() / 64, 64, &numbers), &mut blocks).unwrap();
            assert_eq!(blocks, expected, "{format:?} {cpu:?}");
        }
    }
}

#[test]
fn what_is_not_finite_is_named_by_its_row() {
    let (rows, cols) = (50, 96);
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
        // The last is finite, but what it is divided by is not, in f16.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e7] {
            let mut numbers = Numbers(3).vec(rows * cols);
            numbers[33 * cols + 95] = bad;
            numbers[41 * cols] = bad;
            let mut blocks = vec![0; block_bytes(format, rows, cols)];
            let refused = encode(&Cpu::new(2), format, &float_weight(rows, cols, &numbers), &mut blocks);
            assert_eq!(refused.unwrap_err().row, 33, "{format:?} {bad}");
        }
        // Too small to divide by: 0.
        let mut blocks = vec![1; block_bytes(format, 1, 32)];
        encode(&Cpu::new(1), format, &float_weight(1, 32, &[1e-44; 32]), &mut blocks).unwrap();
        let weight = Weight::Blocks(BlockWeight::new(format, 1, 32, blocks.into()), Arithmetic::Float);
        assert!(decoded(&Cpu::new(1), &weight).data().iter().all(|x| *x == 0.0), "{format:?}");
    }
}

fn shapes() -> impl Strategy<Value = (BlockFormat, usize, usize, usize, u64)> {
    let format = prop::sample::select(&BlockFormat::ALL[..]);
    let tokens = prop_oneof![0..10usize, Just(27usize)];
    let rows = prop_oneof![1..20usize, 60..70usize, Just(131usize)];
    let cols = prop_oneof![1..300usize, Just(1061usize)];
    (format, tokens, rows, cols, any::<u64>()).prop_map(|(format, tokens, rows, cols, seed)| {
        (format, tokens, rows, cols.next_multiple_of(format.block_size()), seed)
    })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_instruction_set_is_the_decoded_weight((format, tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let weight = random(&mut numbers, format, Arithmetic::Float, rows, cols);
        let (x, dy, bias) = (numbers.matrix(tokens, cols), numbers.matrix(tokens, rows), numbers.vec(rows));
        let float = Weight::from_f32(rows, cols, decoded(&Cpu::with_isa(Isa::Scalar, 1).unwrap(), &weight).data());
        for cpu in cpus() {
            let what = format!("{format:?} {cpu:?} [{tokens}, {cols}] x [{rows}, {cols}]");
            assert_same_bits(decoded(&cpu, &weight).data(), decoded(&cpu, &float).data(), &what);
            let (mut a, mut b) = (Matrix::zeros(tokens, rows), Matrix::zeros(tokens, rows));
            weight.product(&cpu, x.view(), Some(&bias), a.view_mut());
            float.product(&cpu, x.view(), Some(&bias), b.view_mut());
            assert_same_bits(a.data(), b.data(), &what);
            let (mut a, mut b) = (Matrix::zeros(tokens, cols), Matrix::zeros(tokens, cols));
            weight.product_backward(&cpu, dy.view(), a.view_mut());
            float.product_backward(&cpu, dy.view(), b.view_mut());
            assert_same_bits(a.data(), b.data(), &what);
        }
    }
}

/// The formula at the top of `weight/blocks/integer.rs`, of formats whose blocks are `d`, then `m` if there is one, then
/// the codes of 32 numbers.
fn by_the_formula(weight: &BlockWeight, x: &[f32]) -> Vec<f32> {
    let (width, blocks) = (weight.format().block_bytes(), weight.cols() / 32);
    let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    (0..weight.rows())
        .map(|row| {
            let mut y = 0.0f32;
            for (x, block) in x.chunks_exact(32).zip(weight.data()[row * blocks * width..].chunks_exact(width)) {
                let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let code = |x: &f32| if largest > 0.0 { (x * (127.0 / largest)).round_ties_even() as i32 } else { 0 };
                let scale = largest / 127.0;
                let weights: Vec<i32> = match weight.format() {
                    BlockFormat::Q8_0 => block[2..].iter().map(|q| i32::from(*q as i8)).collect(),
                    BlockFormat::Q4_1 => (0..32).map(|i| i32::from(block[4 + i % 16] >> (i / 16 * 4) & 15)).collect(),
                    other => panic!("{other:?}"),
                };
                let products: i32 = x.iter().zip(&weights).map(|(x, w)| code(x) * w).sum();
                y = (products as f32).mul_add(half(block) * scale, y);
                if weight.format() == BlockFormat::Q4_1 {
                    y = half(&block[2..]).mul_add(scale * x.iter().map(code).sum::<i32>() as f32, y);
                }
            }
            y
        })
        .collect()
}

/// What rounding leaves of groups of 32 whose largest is more than 8 times all others together; 0 of others.
fn remainder(x: &[f32]) -> Vec<f32> {
    let of_group = |x: &[f32]| -> Vec<f32> {
        let (largest, sum) = x.iter().fold((0.0f32, 0.0), |(largest, sum), x| (largest.max(x.abs()), sum + x.abs()));
        if largest < 8.0 * (sum - largest) || sum == largest {
            return vec![0.0; x.len()];
        }
        x.iter().map(|x| x - (x * (127.0 / largest)).round_ties_even() * (largest / 127.0)).collect()
    };
    x.chunks_exact(32).flat_map(of_group).collect()
}

/// Activations of which some groups have one number that outweighs all others.
fn massive(numbers: &mut Numbers, tokens: usize, cols: usize) -> Matrix {
    let mut x = numbers.matrix(tokens, cols);
    for token in (0..tokens).step_by(3) {
        for group in x.row_mut(token).chunks_exact_mut(32).step_by(2) {
            group[token % 32] = 4000.0 * (1.0 + numbers.next().abs());
        }
    }
    x
}

fn product(weight: &Weight, cpu: &Cpu, x: &Matrix) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), weight.rows());
    weight.product(cpu, x.view(), None, y.view_mut());
    y
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn in_integers_every_instruction_set_is_scalar((format, tokens, rows, cols, seed) in shapes()) {
        let mut numbers = Numbers(seed);
        let weight = random(&mut numbers, format, Arithmetic::Integer, rows, cols);
        let x = massive(&mut numbers, tokens, cols);
        let scalar = product(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &x);
        for cpu in cpus() {
            let together = product(&weight, &cpu, &x);
            let what = format!("{format:?} {cpu:?} [{tokens}, {cols}] x [{rows}, {cols}]");
            assert_same_bits(scalar.data(), together.data(), &what);
            for token in 0..tokens {
                let alone = product(&weight, &cpu, &x.slice(token..token + 1).to_matrix());
                assert_same_bits(alone.data(), together.row(token), &what);
            }
        }
    }

    #[test]
    fn in_integers_scalar_is_the_formula((_, tokens, rows, cols, seed) in shapes()) {
        let (mut numbers, cols) = (Numbers(seed), cols.next_multiple_of(32));
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_1] {
            let weight = random(&mut numbers, format, Arithmetic::Integer, rows, cols);
            let x = massive(&mut numbers, tokens, cols);
            let y = product(&weight, &Cpu::with_isa(Isa::Scalar, 1).unwrap(), &x);
            let Weight::Blocks(blocks, _) = &weight else { unreachable!() };
            for token in 0..tokens {
                let (mut expected, left) = (by_the_formula(blocks, x.row(token)), remainder(x.row(token)));
                if left.iter().any(|left| *left != 0.0) {
                    expected.iter_mut().zip(by_the_formula(blocks, &left)).for_each(|(y, more)| *y += more);
                }
                assert_same_bits(&expected, y.row(token), "a token");
            }
        }
    }
}

/// What rounding activations costs, relative to the norm of the product: near what rounding to 1/254 of the largest of 32
/// evenly spread numbers makes of them, which is 1 / 127 / √12 · √3 = 0.4 %.
#[test]
fn integers_are_close_to_floats() {
    let mut numbers = Numbers(7);
    let x = numbers.matrix(50, 1280);
    for format in BlockFormat::ALL {
        let Weight::Blocks(blocks, _) = random(&mut numbers, format, Arithmetic::Float, 70, 1280) else {
            unreachable!()
        };
        let [float, integer] = [Arithmetic::Float, Arithmetic::Integer]
            .map(|arithmetic| product(&Weight::Blocks(blocks.clone(), arithmetic), &Cpu::new(2), &x));
        let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let error = squares(&mut integer.data().iter().zip(float.data()).map(|(a, b)| a - b));
        let error = (error / squares(&mut float.data().iter().copied())).sqrt();
        assert!((0.003..0.005).contains(&error), "{format:?}: {error}");
    }
}

/// One number of 21,904 among others of 50, as a small Llama has them at its first token, does not take them along.
#[test]
fn massive_activations_leave_their_neighbours_alone() {
    let mut numbers = Numbers(11);
    let Weight::Blocks(blocks, _) = random(&mut numbers, BlockFormat::Q4_1, Arithmetic::Float, 40, 64) else {
        unreachable!()
    };
    let mut x = numbers.matrix(1, 64);
    x.row_mut(0)[5] = 440.0;
    let [float, integer] = [Arithmetic::Float, Arithmetic::Integer]
        .map(|arithmetic| product(&Weight::Blocks(blocks.clone(), arithmetic), &Cpu::new(1), &x));
    // A step is 3.5 there, and a weight is as large as 0.3.
    let error = integer.data().iter().zip(float.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 0.05, "{error}");
}

#[test]
fn what_is_not_finite_reaches_the_output() {
    let mut numbers = Numbers(3);
    for format in BlockFormat::ALL {
        let weight = random(&mut numbers, format, Arithmetic::Integer, 50, 256);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = numbers.matrix(9, 256);
            x.row_mut(7)[200] = bad;
            // Too small for a scale: 0.
            x.row_mut(6).fill(1e-36);
            for cpu in cpus() {
                let y = product(&weight, &cpu, &x);
                assert!(y.row(7).iter().all(|y| !y.is_finite()), "{format:?} {cpu:?}");
                assert!(y.row(6).iter().all(|y| *y == 0.0), "{format:?} {cpu:?}");
                assert!(y.row(8).iter().all(|y| y.is_finite()), "{format:?} {cpu:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "48 columns in blocks of 32 (Q4_0)")]
fn rows_are_whole_blocks() {
    BlockWeight::new(BlockFormat::Q4_0, 2, 48, Bytes::from(vec![0; 54]));
}

#[test]
#[should_panic(expected = "bytes of a [2, 256] Q6_K weight")]
fn bytes_are_counted() {
    BlockWeight::new(BlockFormat::Q6K, 2, 256, Bytes::from(vec![0; 419]));
}
