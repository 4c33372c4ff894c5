//! The ops against plain double precision, their gradients against finite differences, and the promise that no batch,
//! thread or instruction set changes a bit.

mod common;

use bouquet_kernels::ops::activation::{Activation, activate, activate_backward, gated, gated_backward};
use bouquet_kernels::ops::alibi::slopes;
use bouquet_kernels::ops::cross_entropy::{cross_entropy, cross_entropy_backward};
use bouquet_kernels::ops::dropout::{DropoutRow, dropout};
use bouquet_kernels::ops::elementwise::{add, add_bias, add_scaled, first_row_not_finite};
use bouquet_kernels::ops::norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
use bouquet_kernels::ops::rope::{Angles, frequencies, rotate, rotate_backward};
use bouquet_kernels::ops::rounding::{INT8_GROUP, int8_codes, round_bf16, round_int8};
use bouquet_kernels::ops::softmax::{softmax, softmax_backward};
use bouquet_kernels::{Cpu, Matrix};
use common::*;
use half::bf16;

/// Rounding of a few dozen operations on numbers of size 1, in f32.
const FORWARD: f64 = 1e-6;
/// The same, with the gradient's longer way.
const BACKWARD: f64 = 4e-6;

/// Runs an op on every cpu, on the whole batch and on each row alone, demands equal bits, and returns the result.
fn everywhere(rows: usize, cols: usize, op: impl Fn(&Cpu, std::ops::Range<usize>, &mut Matrix)) -> Matrix {
    let mut truth: Option<Matrix> = None;
    for cpu in cpus() {
        let mut out = Matrix::zeros(rows, cols);
        op(&cpu, 0..rows, &mut out);
        let truth = truth.get_or_insert_with(|| out.clone());
        assert_same_bits(out.data(), truth.data(), &format!("{cpu:?}"));
        for row in 0..rows.min(5) {
            let mut alone = Matrix::zeros(1, cols);
            op(&cpu, row..row + 1, &mut alone);
            assert_same_bits(alone.data(), truth.row(row), "a row alone");
        }
    }
    truth.expect("some cpu")
}

fn value(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_56 * x * (1.0 + 0.044_715 * x * x)).tanh()),
        Activation::Gelu => x * normal_cdf(x),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

/// `Φ(x)` by Simpson's rule over its density from 0 on.
fn normal_cdf(x: f64) -> f64 {
    const STEPS: usize = 2000;
    let step = x / STEPS as f64;
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let weighted = |i: usize| density(i as f64 * step) * if i % 2 == 1 { 4.0 } else { 2.0 };
    let inner: f64 = (1..STEPS).map(weighted).sum();
    0.5 + (density(0.0) + inner + density(x)) * step / 3.0
}

/// Numbers from −6 to 6: activations are not only their middle.
fn spread(numbers: &mut Numbers, rows: usize, cols: usize) -> Matrix {
    let mut matrix = numbers.matrix(rows, cols);
    matrix.data_mut().iter_mut().for_each(|x| *x *= 6.0);
    matrix
}

#[test]
fn activations_and_their_gradients() {
    for activation in Activation::ALL {
        let mut numbers = Numbers(1);
        let (x, dy) = (spread(&mut numbers, 301, 37), numbers.matrix(301, 37));
        let y = everywhere(301, 37, |cpu, rows, y| activate(cpu, activation, x.slice(rows), y.view_mut()));
        let of = |x: &[f64]| x.iter().map(|x| value(activation, *x)).collect::<Vec<_>>();
        assert_close(y.data(), &of(&wide(x.data())), FORWARD, "activate");
        let dx = everywhere(301, 37, |cpu, rows, dx| {
            activate_backward(cpu, activation, x.slice(rows.clone()), dy.slice(rows), dx.view_mut());
        });
        for row in 0..20 {
            let expected = finite_differences(x.row(row), dy.row(row), of);
            assert_close(dx.row(row), &expected, BACKWARD, "activate_backward");
        }
    }
}

#[test]
fn activations_at_their_ends() {
    let ends = [0.0, -0.0, 100.0, -100.0, 1e30, -1e30, 1e-30];
    for activation in Activation::ALL {
        let x = Matrix::from_vec(1, 7, ends.to_vec());
        let (mut y, mut dx) = (Matrix::zeros(1, 7), Matrix::zeros(1, 7));
        activate(&Cpu::new(1), activation, x.view(), y.view_mut());
        assert_eq!((y.data()[2], y.data()[3].abs()), (100.0, 0.0));
        // ReLU has no slope between those of its two sides.
        let at_zero = if activation == Activation::Relu { (1e-30, 0.0) } else { (0.5e-30, 0.5) };
        assert!((y.data()[6] - at_zero.0).abs() < 0.1e-30);
        let ones = Matrix::from_vec(1, 7, vec![1.0; 7]);
        activate_backward(&Cpu::new(1), activation, x.slice(0..1), ones.view(), dx.view_mut());
        assert_eq!(dx.data()[..4], [at_zero.1, at_zero.1, 1.0, 0.0], "{activation:?}");
    }
}

#[test]
fn gates_and_their_gradients() {
    for activation in Activation::ALL {
        let mut numbers = Numbers(2);
        let (gate, up, dy) = (spread(&mut numbers, 260, 35), numbers.matrix(260, 35), numbers.matrix(260, 35));
        let y = everywhere(260, 35, |cpu, rows, y| {
            gated(cpu, activation, gate.slice(rows.clone()), up.slice(rows), y.view_mut());
        });
        let of = |gate: &[f64], up: &[f64]| {
            gate.iter().zip(up).map(|(gate, up)| value(activation, *gate) * up).collect::<Vec<_>>()
        };
        assert_close(y.data(), &of(&wide(gate.data()), &wide(up.data())), FORWARD, "gated");
        let both = |cpu: &Cpu, rows: std::ops::Range<usize>| {
            let (mut d_gate, mut d_up) = (Matrix::zeros(rows.len(), 35), Matrix::zeros(rows.len(), 35));
            let [gate, up, dy] = [&gate, &up, &dy].map(|matrix| matrix.slice(rows.clone()));
            gated_backward(cpu, activation, gate, up, dy, d_gate.view_mut(), d_up.view_mut());
            (d_gate, d_up)
        };
        let d_gate = everywhere(260, 35, |cpu, rows, out| *out = both(cpu, rows).0);
        let d_up = everywhere(260, 35, |cpu, rows, out| *out = both(cpu, rows).1);
        for row in 0..10 {
            let (g, u) = (wide(gate.row(row)), wide(up.row(row)));
            let expected = finite_differences(gate.row(row), dy.row(row), |gate| of(gate, &u));
            assert_close(d_gate.row(row), &expected, BACKWARD, "d_gate");
            let expected = finite_differences(up.row(row), dy.row(row), |up| of(&g, up));
            assert_close(d_up.row(row), &expected, BACKWARD, "d_up");
        }
    }
}

#[test]
fn norms_and_their_gradients() {
    const EPSILON: f32 = 1e-5;
    for cols in [1, 2, 16, 37, 64, 130] {
        let mut numbers = Numbers(cols as u64);
        let (x, dy) = (spread(&mut numbers, 70, cols), numbers.matrix(70, cols));
        let (weight, bias) = (numbers.vec(cols), numbers.vec(cols));
        let layer = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / cols as f64;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / cols as f64;
            let factor = 1.0 / (variance + f64::from(EPSILON)).sqrt();
            let at = |i: usize| (x[i] - mean) * factor * f64::from(weight[i]) + f64::from(bias[i]);
            (0..cols).map(at).collect::<Vec<_>>()
        };
        let rms = |x: &[f64]| {
            let square = x.iter().map(|x| x * x).sum::<f64>() / cols as f64;
            let factor = 1.0 / (square + f64::from(EPSILON)).sqrt();
            (0..cols).map(|i| x[i] * factor * f64::from(weight[i])).collect::<Vec<_>>()
        };
        let y = everywhere(70, cols, |cpu, rows, y| {
            layer_norm(cpu, x.slice(rows), &weight, &bias, EPSILON, y.view_mut());
        });
        let dx = everywhere(70, cols, |cpu, rows, dx| {
            layer_norm_backward(cpu, x.slice(rows.clone()), &weight, EPSILON, dy.slice(rows), dx.view_mut());
        });
        let z = everywhere(70, cols, |cpu, rows, y| rms_norm(cpu, x.slice(rows), &weight, EPSILON, y.view_mut()));
        let dz = everywhere(70, cols, |cpu, rows, dx| {
            rms_norm_backward(cpu, x.slice(rows.clone()), &weight, EPSILON, dy.slice(rows), dx.view_mut());
        });
        for row in 0..8 {
            let wide = wide(x.row(row));
            assert_close(y.row(row), &layer(&wide), FORWARD, "layer_norm");
            assert_close(z.row(row), &rms(&wide), FORWARD, "rms_norm");
            // With one or two columns the gradient is what is left of a difference, and ε makes the norm steep.
            let tolerance = if cols > 2 { BACKWARD } else { 1e-3 };
            assert_close(dx.row(row), &finite_differences(x.row(row), dy.row(row), layer), tolerance, "layer_norm");
            assert_close(dz.row(row), &finite_differences(x.row(row), dy.row(row), rms), tolerance, "rms_norm");
        }
    }
}

#[test]
fn rope_turns_and_turns_back() {
    let shapes = [(3, 8, 8, 1.0), (2, 20, 12, 1.3), (1, 64, 64, 0.8), (4, 6, 2, 1.0), (2, 5, 0, 2.0)];
    for (heads, head_dim, rotary, scaling) in shapes {
        let mut numbers = Numbers(3);
        let width = heads * head_dim;
        let (x, dy) = (numbers.matrix(90, width), numbers.matrix(90, width));
        let positions: Vec<usize> = (0..90).map(|i| i * i * 37).collect();
        let frequencies = frequencies(rotary, 10_000.0);
        let turn = |token: usize, x: &[f64]| {
            let mut y = x.to_vec();
            for head in 0..heads {
                for i in 0..rotary / 2 {
                    let angle = f64::from(positions[token] as f32 * frequencies[i]);
                    let (a, b) = (head * head_dim + i, head * head_dim + i + rotary / 2);
                    let (cos, sin) = (f64::from(scaling) * angle.cos(), f64::from(scaling) * angle.sin());
                    y[a] = x[a] * cos - x[b] * sin;
                    y[b] = x[b] * cos + x[a] * sin;
                }
            }
            y
        };
        let angles = |rows: std::ops::Range<usize>| Angles::new(&positions[rows], &frequencies, scaling);
        let y = everywhere(90, width, |cpu, rows, y| {
            *y = x.slice(rows.clone()).to_matrix();
            rotate(cpu, &angles(rows), heads, y.view_mut());
        });
        let dx = everywhere(90, width, |cpu, rows, dx| {
            *dx = dy.slice(rows.clone()).to_matrix();
            rotate_backward(cpu, &angles(rows), heads, dx.view_mut());
        });
        for token in (0..90).step_by(11) {
            assert_close(y.row(token), &turn(token, &wide(x.row(token))), FORWARD, "rotate");
            let expected = finite_differences(x.row(token), dy.row(token), |x| turn(token, x));
            assert_close(dx.row(token), &expected, BACKWARD, "rotate_backward");
        }
    }
    let doubled = Angles::new(&[3], &[0.5], 2.0);
    let mut x = Matrix::from_vec(1, 2, vec![1.0, 0.0]);
    rotate(&Cpu::new(1), &doubled, 1, x.view_mut());
    assert_close(x.data(), &[2.0 * 1.5f64.cos(), 2.0 * 1.5f64.sin()], FORWARD, "scaling");
    assert_eq!(frequencies(4, 10_000.0), [1.0, 0.01]);
}

#[test]
fn softmax_and_its_gradient() {
    // The last is large enough for several threads.
    for (rows, cols) in [(8, 1), (8, 2), (8, 15), (8, 16), (8, 17), (8, 100), (110, 100)] {
        let mut numbers = Numbers(4);
        let (mut x, dy) = (numbers.matrix(rows, cols), numbers.matrix(rows, cols));
        x.data_mut().iter_mut().for_each(|x| *x *= 20.0);
        let of = |x: &[f64]| {
            let max = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
            x.iter().map(|x| (x - max).exp() / sum).collect::<Vec<_>>()
        };
        let p = everywhere(rows, cols, |cpu, rows, p| {
            *p = x.slice(rows).to_matrix();
            softmax(cpu, p.view_mut());
        });
        let dx = everywhere(rows, cols, |cpu, rows, dx| {
            *dx = dy.slice(rows.clone()).to_matrix();
            softmax_backward(cpu, p.slice(rows), dx.view_mut());
        });
        for row in 0..8 {
            assert_close(p.row(row), &of(&wide(x.row(row))), FORWARD, "softmax");
            let expected = finite_differences(x.row(row), dy.row(row), of);
            assert_close(dx.row(row), &expected, BACKWARD, "softmax_backward");
        }
    }
    for cpu in cpus() {
        softmax(&cpu, Matrix::zeros(0, 5).view_mut());
        softmax(&cpu, Matrix::zeros(2, 0).view_mut());
        let none = f32::NEG_INFINITY;
        let mut masked = Matrix::from_vec(2, 3, vec![0.0, none, 0.0, none, none, none]);
        softmax(&cpu, masked.view_mut());
        assert_eq!(masked.row(0), [0.5, 0.0, 0.5]);
        assert!(masked.row(1).iter().all(|x| x.is_nan()));
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    for cols in [1, 5, 16, 200] {
        let mut numbers = Numbers(5);
        let logits = spread(&mut numbers, 90, cols);
        let targets: Vec<u32> = (0..90).map(|_| (numbers.bits() % cols as u64) as u32).collect();
        let weights: Vec<f32> = (0..90).map(|i| if i % 4 == 0 { 0.0 } else { 0.25 * i as f32 }).collect();
        let of = |row: usize, x: &[f64]| {
            let max = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            vec![x.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - x[targets[row] as usize]]
        };
        let truth = cross_entropy(&cpus()[0], logits.view(), &targets);
        for cpu in cpus() {
            let losses = cross_entropy(&cpu, logits.view(), &targets);
            for row in 0..90 {
                assert_eq!(losses[row].to_bits(), truth[row].to_bits());
                assert!((losses[row] - of(row, &wide(logits.row(row)))[0]).abs() < 1e-6);
            }
        }
        let d_logits = everywhere(90, cols, |cpu, rows, out| {
            let (targets, weights) = (&targets[rows.clone()], &weights[rows.clone()]);
            cross_entropy_backward(cpu, logits.slice(rows), targets, weights, out.view_mut());
        });
        for row in 0..9 {
            let expected = finite_differences(logits.row(row), &[weights[row]], |x| of(row, x));
            assert_close(d_logits.row(row), &expected, BACKWARD, "cross_entropy_backward");
        }
    }
    // A row that is not scored may hold anything.
    let logits = Matrix::from_vec(1, 2, vec![f32::NAN, f32::INFINITY]);
    let mut d_logits = logits.clone();
    cross_entropy_backward(&Cpu::new(1), logits.view(), &[1], &[0.0], d_logits.view_mut());
    assert_eq!(d_logits.data(), [0.0, 0.0]);
    assert!(cross_entropy(&Cpu::new(2), Matrix::zeros(0, 7).view(), &[]).is_empty());
}

#[test]
fn sums_biases_and_the_search_for_nan() {
    let mut numbers = Numbers(6);
    let (x, y, bias) = (numbers.matrix(300, 41), numbers.matrix(300, 41), numbers.vec(41));
    let sum = everywhere(300, 41, |cpu, rows, out| {
        *out = y.slice(rows.clone()).to_matrix();
        add(cpu, x.slice(rows), out.view_mut());
    });
    let scaled = everywhere(300, 41, |cpu, rows, out| {
        *out = y.slice(rows.clone()).to_matrix();
        add_scaled(cpu, 0.3, x.slice(rows), out.view_mut());
    });
    let biased = everywhere(300, 41, |cpu, rows, out| {
        *out = y.slice(rows).to_matrix();
        add_bias(cpu, &bias, out.view_mut());
    });
    for i in 0..x.data().len() {
        let (x, y) = (x.data()[i], y.data()[i]);
        assert_eq!(sum.data()[i], y + x);
        assert_eq!(scaled.data()[i], y + 0.3 * x);
        assert_eq!(biased.data()[i], y + bias[i % 41]);
    }
    for cpu in cpus() {
        assert_eq!(first_row_not_finite(&cpu, x.view()), None);
        assert_eq!(first_row_not_finite(&cpu, Matrix::zeros(0, 3).view()), None);
        for (row, bad) in [(299, f32::NAN), (150, f32::INFINITY), (64, f32::NEG_INFINITY)] {
            let mut x = x.clone();
            x.row_mut(299)[3] = f32::NAN;
            x.row_mut(row)[40] = bad;
            assert_eq!(first_row_not_finite(&cpu, x.view()), Some(row));
        }
    }
}

#[test]
fn dropout_drops_at_its_rate_and_by_its_coordinates_alone() {
    // Not a multiple of any lanes.
    const CHANNELS: usize = 1027;
    let (cpu, cpus) = (Cpu::new(1), cpus());
    let row = |position| DropoutRow { seed: 7, step: 3, view: 0, sequence: 5, position, linear: 11 };
    for rate in [0.0f32, 0.1, 0.5, 0.9] {
        let (mut dropped, mut both) = (0, 0);
        for position in 0..400 {
            let mut x = vec![2.0; CHANNELS];
            dropout(&cpu, row(position), rate, &mut x);
            let mut again = vec![2.0; CHANNELS];
            dropout(&cpus[position as usize % cpus.len()], row(position), rate, &mut again);
            assert_eq!(bits(&x), bits(&again), "every cpu draws the same");
            assert!(x.iter().all(|x| *x == 0.0 || *x == 2.0 / (1.0 - rate)));
            dropped += x.iter().filter(|x| **x == 0.0).count();
            both += x.windows(2).filter(|pair| pair == &[0.0, 0.0]).count();
            // A shorter row is the beginning of a longer one.
            let mut short = vec![2.0; 10];
            dropout(&cpu, row(position), rate, &mut short);
            assert_eq!(short, x[..10]);
        }
        // Four standard deviations of a fair draw; neighbours are independent.
        let count = 400.0 * CHANNELS as f64;
        let (rate, limit) = (f64::from(rate), |p: f64| 4.0 * (p * (1.0 - p) / count).sqrt() + 1e-12);
        assert!((dropped as f64 / count - rate).abs() <= limit(rate), "{dropped} of {count} at {rate}");
        assert!((both as f64 / count - rate * rate).abs() <= 2.0 * limit(rate * rate) + 1e-3);
    }
    // Every coordinate counts: half of the channels differ from those of the row beside it.
    let base = row(9);
    let others = [
        DropoutRow { seed: 8, ..base },
        DropoutRow { step: 4, ..base },
        DropoutRow { view: 1, ..base },
        DropoutRow { sequence: 6, ..base },
        DropoutRow { position: 10, ..base },
        DropoutRow { linear: 12, ..base },
        // Not a sum or an exclusive or of coordinates.
        DropoutRow { seed: 3, step: 7, ..base },
        DropoutRow { sequence: 9, position: 5, ..base },
    ];
    let draw = |row| {
        let mut x = vec![1.0; CHANNELS];
        dropout(&cpu, row, 0.5, &mut x);
        x
    };
    let first = draw(base);
    for other in others {
        let differ = first.iter().zip(draw(other)).filter(|(a, b)| **a != *b).count();
        assert!(differ.abs_diff(CHANNELS / 2) < 80, "{other:?}: {differ} of {CHANNELS} differ");
    }
}

#[test]
#[should_panic(expected = "a dropout rate of 1")]
fn dropping_everything_is_refused() {
    let row = DropoutRow { seed: 0, step: 0, view: 0, sequence: 0, position: 0, linear: 0 };
    dropout(&Cpu::new(1), row, 1.0, &mut [1.0]);
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    let mut numbers = Numbers(8);
    let mut x: Vec<f32> = (0..20_000).map(|_| f32::from_bits(numbers.bits() as u32)).collect();
    x.extend([0.0, -0.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::NAN]);
    x.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_8000].map(f32::from_bits));
    for cpu in cpus() {
        let mut rounded = Matrix::from_vec(1, x.len(), x.clone());
        round_bf16(&cpu, rounded.view_mut());
        for (x, rounded) in x.iter().zip(rounded.data()) {
            let expected = bf16::from_f32(*x).to_f32();
            assert!(rounded.to_bits() == expected.to_bits() || x.is_nan() && rounded.is_nan(), "{x:e}: {rounded:e}");
        }
    }
}

#[test]
fn int8_keeps_255_levels_of_the_largest() {
    let mut numbers = Numbers(9);
    let x = spread(&mut numbers, 150, 2 * INT8_GROUP + 9);
    let rounded = everywhere(150, x.cols(), |cpu, rows, out| {
        *out = x.slice(rows).to_matrix();
        round_int8(cpu, out.view_mut());
    });
    for row in 0..150 {
        for (x, rounded) in x.row(row).chunks(INT8_GROUP).zip(rounded.row(row).chunks(INT8_GROUP)) {
            let absmax = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let least = absmax / 127.0;
            let up = if least.to_bits() & 0xffff == 0 { 0 } else { 1 << 16 };
            let scale = f32::from_bits((least.to_bits() & 0xffff_0000) + up);
            assert!(scale >= least && scale <= least * 1.008);
            for (x, rounded) in x.iter().zip(rounded) {
                assert_eq!(*rounded, (x * (1.0 / scale)).round_ties_even() * scale + 0.0);
                assert!((x - rounded).abs() <= 0.5001 * scale);
            }
            // What was rounded are codes and a scale, to the bit.
            let mut codes = vec![0; rounded.len()];
            let found = int8_codes(rounded, &mut codes).unwrap();
            assert_eq!(found.to_bits() & 0xffff, 0);
            let again: Vec<f32> = codes.iter().map(|&code| f32::from(code) * found).collect();
            assert_eq!(bits(&again), bits(rounded));
        }
    }
    for no_codes in [&[1.0, 0.3][..], &[f32::NAN], &[f32::INFINITY, 1.0], &[-0.0], &[1.000_001]] {
        assert_eq!(int8_codes(no_codes, &mut vec![0; no_codes.len()]), None, "{no_codes:?}");
    }
    assert_eq!(int8_codes(&[0.0; 3], &mut [1; 3]), Some(0.0));
    let one = |x: f32| {
        let mut group = Matrix::from_vec(1, 3, vec![x, 0.0, -0.0]);
        round_int8(&Cpu::new(1), group.view_mut());
        group.into_vec()
    };
    assert_eq!(bits(&one(0.0)), [0; 3]);
    assert_eq!(bits(&one(1e-38)), [0; 3]);
    let three = one(-3.0);
    assert!((three[0] + 3.0).abs() < 0.012 && bits(&three[1..]) == [0; 2], "{three:?}");
    assert!(one(f32::NAN).iter().chain(&one(f32::INFINITY)).all(|x| x.is_nan()));
}

#[test]
fn slopes_of_4_6_and_16_heads() {
    assert_eq!(slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
    assert_eq!(slopes(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
    assert_eq!(slopes(1), [0.00390625]);
    assert!(slopes(0).is_empty());
    let sixteen = slopes(16);
    for (head, slope) in sixteen.iter().enumerate() {
        // As transformers: the power of a root that is rounded first.
        let root = f64::from(std::f32::consts::FRAC_1_SQRT_2);
        assert_eq!(*slope, root.powi(head as i32 + 1) as f32);
        let exact = 2f64.powf(-0.5 * (head + 1) as f64);
        assert!((f64::from(*slope) / exact - 1.0).abs() < 1e-6);
    }
}
