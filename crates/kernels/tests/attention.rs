//! Attention against plain double precision, its gradients against finite differences, and the promise that neither
//! cuts, nor company, nor threads, nor the instruction set change a bit.

mod common;

use std::ops::Range;

use bouquet_kernels::ops::alibi::{Alibi, AlibiKind};
use bouquet_kernels::ops::attention::{
    AttentionShape, CacheEncoding, KEY_PIECE, Numbers, Piece, PieceMemory, Sequence, attention, attention_backward,
};
use bouquet_kernels::{Cpu, Matrix};
use common::*;
use half::bf16;

/// Rounding of sums of a few hundred terms of size 1, in f32.
const FORWARD: f64 = 2e-6;
/// The same through a second product.
const BACKWARD: f64 = 1e-5;

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim, scale, alibi: None, window: None }
}

fn shapes() -> Vec<AttentionShape> {
    vec![
        shape(2, 2, 8),
        shape(4, 2, 16),
        shape(3, 1, 5),
        AttentionShape { alibi: Some(Alibi::new(6, AlibiKind::Distances)), ..shape(6, 3, 20) },
        AttentionShape { alibi: Some(Alibi::new(6, AlibiKind::Bf16Positions)), ..shape(6, 3, 20) },
        AttentionShape { window: Some(7), ..shape(2, 1, 16) },
        AttentionShape { window: Some(1), ..shape(2, 2, 33) },
        AttentionShape { window: Some(300), alibi: Some(Alibi::new(2, AlibiKind::Distances)), ..shape(2, 2, 8) },
    ]
}

/// Keys or values `[tokens, kv_heads * head_dim]` of one sequence, as pieces: values `[kv_heads, capacity, head_dim]`,
/// keys `[kv_heads, head_dim, capacity]`.
fn pieces(shape: &AttentionShape, rows: &[f32], capacity: usize, keys: bool) -> Vec<Vec<f32>> {
    let width = shape.kv_heads * shape.head_dim;
    let tokens = rows.len() / width;
    (0..tokens.div_ceil(KEY_PIECE))
        .map(|piece| {
            // What is not filled must not be read as a number.
            let mut data = vec![f32::NAN; shape.kv_heads * capacity * shape.head_dim];
            for token in piece * KEY_PIECE..tokens.min((piece + 1) * KEY_PIECE) {
                for head in 0..shape.kv_heads {
                    let from = &rows[token * width + head * shape.head_dim..][..shape.head_dim];
                    for (channel, number) in from.iter().enumerate() {
                        let (row, offset) = (head * shape.head_dim, token % KEY_PIECE);
                        let by_position = (head * capacity + offset) * shape.head_dim + channel;
                        data[if keys { (row + channel) * capacity + offset } else { by_position }] = *number;
                    }
                }
            }
            data
        })
        .collect()
}

/// A batch: queries, keys and values of all sequences, packed.
struct Batch {
    shape: AttentionShape,
    lengths: Vec<usize>,
    queries: Matrix,
    keys: Matrix,
    values: Matrix,
}

impl Batch {
    fn new(shape: AttentionShape, lengths: &[usize], seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let tokens = lengths.iter().sum();
        let wide = shape.heads * shape.head_dim;
        let narrow = shape.kv_heads * shape.head_dim;
        let queries = numbers.matrix(tokens, wide);
        let (keys, values) = (numbers.matrix(tokens, narrow), numbers.matrix(tokens, narrow));
        Batch { shape, lengths: lengths.to_vec(), queries, keys, values }
    }

    fn rows(&self) -> Vec<Range<usize>> {
        let ends = self.lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        ends.zip(&self.lengths).map(|(end, length)| end - length..end).collect()
    }

    fn with_sequences<T>(&self, capacity: usize, f: impl FnOnce(Vec<Sequence<'_>>) -> T) -> T {
        let stored: Vec<_> = self
            .rows()
            .into_iter()
            .map(|rows| {
                let keys = pieces(&self.shape, self.keys.slice(rows.clone()).data(), capacity, true);
                let values = pieces(&self.shape, self.values.slice(rows.clone()).data(), capacity, false);
                (rows, keys, values)
            })
            .collect();
        let sequences = stored.iter().map(|(rows, keys, values)| {
            let pieces = keys.iter().zip(values);
            let pieces =
                pieces.map(|(keys, values)| Piece { keys: Numbers::F32(keys), values: Numbers::F32(values), capacity });
            let pieces = pieces.collect();
            Sequence { rows: rows.clone(), start: 0, pieces }
        });
        f(sequences.collect())
    }

    fn forward(&self, cpu: &Cpu) -> Matrix {
        let mut out = Matrix::zeros(self.queries.rows(), self.queries.cols());
        self.with_sequences(KEY_PIECE, |sequences| {
            attention(cpu, &self.shape, self.queries.view(), &sequences, out.view_mut());
        });
        out
    }

    fn backward(&self, cpu: &Cpu, d_out: &Matrix) -> [Matrix; 3] {
        let out = self.forward(cpu);
        let mut d_queries = Matrix::zeros(self.queries.rows(), self.queries.cols());
        let mut d_keys = Matrix::zeros(self.keys.rows(), self.keys.cols());
        let mut d_values = d_keys.clone();
        self.with_sequences(KEY_PIECE + 5, |sequences| {
            attention_backward(
                cpu,
                &self.shape,
                self.queries.view(),
                &sequences,
                out.view(),
                d_out.view(),
                d_queries.view_mut(),
                d_keys.view_mut(),
                d_values.view_mut(),
            );
        });
        [d_queries, d_keys, d_values]
    }

    /// Plain double precision.
    fn reference(&self, queries: &[f64], keys: &[f64], values: &[f64]) -> Vec<f64> {
        let shape = &self.shape;
        let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut out = vec![0.0; queries.len()];
        for rows in self.rows() {
            for token in rows.clone() {
                for head in 0..shape.heads {
                    let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
                    let kv = head / (shape.heads / shape.kv_heads) * shape.head_dim;
                    let query = &queries[token * wide..][columns.clone()];
                    let first = shape.window.map_or(rows.start, |w| (token + 1).saturating_sub(w).max(rows.start));
                    let weights: Vec<f64> = (first..=token)
                        .map(|key| {
                            let dot: f64 = query.iter().zip(&keys[key * narrow + kv..]).map(|(a, b)| a * b).sum();
                            let scale = f64::from(shape.scale);
                            let score = match &shape.alibi {
                                None => dot * scale,
                                Some(Alibi { slopes, kind: AlibiKind::Distances }) => {
                                    dot * scale + f64::from(slopes[head]) * (key as f64 - token as f64)
                                }
                                Some(Alibi { slopes, kind: AlibiKind::Bf16Positions }) => {
                                    let [slope, key] = [slopes[head], (key - rows.start) as f32].map(bf16::from_f32);
                                    (dot + bf16::from_f32(slope.to_f32() * key.to_f32()).to_f64()) * scale
                                }
                            };
                            score.exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for (key, weight) in (first..=token).zip(&weights) {
                        for c in 0..shape.head_dim {
                            out[token * wide + columns.start + c] += weight / sum * values[key * narrow + kv + c];
                        }
                    }
                }
            }
        }
        out
    }
}

#[test]
fn forward_is_attention() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let batch = Batch::new(shape, &[5, 0, 300, 1, 17], seed as u64);
        let reference =
            batch.reference(&wide(batch.queries.data()), &wide(batch.keys.data()), &wide(batch.values.data()));
        assert_close(batch.forward(&Cpu::new(2)).data(), &reference, FORWARD, "attention");
    }
}

#[test]
fn backward_is_its_gradient() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let batch = Batch::new(shape, &[4, 0, 9], 100 + seed as u64);
        let d_out = Numbers(200 + seed as u64).matrix(batch.queries.rows(), batch.queries.cols());
        let [q, k, v] = [&batch.queries, &batch.keys, &batch.values].map(|matrix| wide(matrix.data()));
        let [d_queries, d_keys, d_values] = batch.backward(&Cpu::new(2), &d_out);
        let expected = finite_differences(batch.queries.data(), d_out.data(), |q| batch.reference(q, &k, &v));
        assert_close(d_queries.data(), &expected, BACKWARD, "d_queries");
        let expected = finite_differences(batch.keys.data(), d_out.data(), |k| batch.reference(&q, k, &v));
        assert_close(d_keys.data(), &expected, BACKWARD, "d_keys");
        let expected = finite_differences(batch.values.data(), d_out.data(), |v| batch.reference(&q, &k, v));
        assert_close(d_values.data(), &expected, BACKWARD, "d_values");
    }
}

#[test]
fn backward_crosses_pieces() {
    // Finite differences of every number would be slow: along a few random directions instead.
    for shape in [
        shape(2, 1, 4),
        AttentionShape { window: Some(40), alibi: Some(Alibi::new(2, AlibiKind::Distances)), ..shape(2, 2, 4) },
    ] {
        let batch = Batch::new(shape, &[270, 3], 7);
        let mut numbers = Numbers(8);
        let d_out = numbers.matrix(batch.queries.rows(), batch.queries.cols());
        let [q, k, v] = [&batch.queries, &batch.keys, &batch.values].map(|matrix| wide(matrix.data()));
        let gradients = batch.backward(&Cpu::new(1), &d_out);
        for _ in 0..8 {
            let directions = [&q, &k, &v].map(|x| wide(&numbers.vec(x.len())));
            let along = |step: f64| {
                let moved: Vec<Vec<f64>> = [&q, &k, &v]
                    .into_iter()
                    .zip(&directions)
                    .map(|(x, d)| x.iter().zip(d).map(|(x, d)| x + step * d).collect())
                    .collect();
                let out = batch.reference(&moved[0], &moved[1], &moved[2]);
                out.iter().zip(d_out.data()).map(|(y, d)| y * f64::from(*d)).sum::<f64>()
            };
            let expected = (along(1e-5) - along(-1e-5)) / 2e-5;
            let inner = |(gradient, direction): (&Matrix, &Vec<f64>)| -> f64 {
                gradient.data().iter().zip(direction).map(|(g, d)| f64::from(*g) * d).sum()
            };
            let found: f64 = gradients.iter().zip(&directions).map(inner).sum();
            assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} is not {expected}");
        }
    }
}

#[test]
fn every_cpu_gives_the_same_bits() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let batch = Batch::new(shape, &[3, 270, 1, 31], 300 + seed as u64);
        let d_out = Numbers(400).matrix(batch.queries.rows(), batch.queries.cols());
        let cpus = cpus();
        let out = batch.forward(&cpus[0]);
        let gradients = batch.backward(&cpus[0], &d_out);
        for cpu in &cpus[1..] {
            assert_same_bits(batch.forward(cpu).data(), out.data(), "forward");
            for (a, b) in batch.backward(cpu, &d_out).iter().zip(&gradients) {
                assert_same_bits(a.data(), b.data(), "backward");
            }
        }
    }
}

#[test]
fn company_changes_nothing() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let batch = Batch::new(shape.clone(), &[20, 261, 2], 500 + seed as u64);
        let d_out = Numbers(600).matrix(batch.queries.rows(), batch.queries.cols());
        let cpu = Cpu::new(2);
        let (out, gradients) = (batch.forward(&cpu), batch.backward(&cpu, &d_out));
        for rows in batch.rows() {
            let part = |matrix: &Matrix| matrix.slice(rows.clone()).to_matrix();
            let alone = Batch {
                shape: shape.clone(),
                lengths: vec![rows.len()],
                queries: part(&batch.queries),
                keys: part(&batch.keys),
                values: part(&batch.values),
            };
            assert_same_bits(alone.forward(&cpu).data(), part(&out).data(), "forward alone");
            for (a, b) in alone.backward(&cpu, &part(&d_out)).iter().zip(&gradients) {
                assert_same_bits(a.data(), part(b).data(), "backward alone");
            }
        }
    }
}

#[test]
fn a_window_beyond_all_keys_is_none() {
    let cpu = Cpu::new(2);
    let free = Batch::new(shape(2, 1, 8), &[3, 270], 800);
    let d_out = Numbers(801).matrix(free.queries.rows(), free.queries.cols());
    for window in [270, 1 << 33, usize::MAX - 1, usize::MAX] {
        let shape = AttentionShape { window: Some(window), ..free.shape.clone() };
        let batch = Batch::new(shape, &free.lengths, 800);
        assert_same_bits(batch.forward(&cpu).data(), free.forward(&cpu).data(), "forward");
        for (a, b) in batch.backward(&cpu, &d_out).iter().zip(&free.backward(&cpu, &d_out)) {
            assert_same_bits(a.data(), b.data(), "backward");
        }
    }
}

#[test]
fn cuts_change_nothing() {
    const LENGTH: usize = 530;
    for (seed, shape) in shapes().into_iter().enumerate() {
        let batch = Batch::new(shape, &[LENGTH], 700 + seed as u64);
        let cpu = Cpu::new(2);
        let out = batch.forward(&cpu);
        let cuts: [&[usize]; 4] = [&[1; LENGTH], &[300, 230], &[255, 2, 273], &[17, 240, 1, 16, 256]];
        for lengths in cuts {
            let mut start = 0;
            for &length in lengths {
                batch.with_sequences(KEY_PIECE, |sequences| {
                    // Keys of later positions are stored already here; a query must not see them. Pieces that left the
                    // window are gone.
                    let mut pieces = sequences[0].pieces.clone();
                    pieces.truncate((start + length).div_ceil(KEY_PIECE));
                    let first = batch.shape.window.map_or(0, |window| (start + 1).saturating_sub(window));
                    for piece in &mut pieces[..first / KEY_PIECE] {
                        *piece = Piece { keys: Numbers::F32(&[]), values: Numbers::F32(&[]), capacity: 0 };
                    }
                    let sequence = Sequence { rows: 0..length, start, pieces };
                    let mut step = Matrix::zeros(length, out.cols());
                    let queries = batch.queries.slice(start..start + length);
                    attention(&cpu, &batch.shape, queries, &[sequence], step.view_mut());
                    assert_same_bits(step.data(), out.slice(start..start + length).data(), "a cut");
                });
                start += length;
            }
        }
    }
}

#[test]
fn half_precision_is_that_of_rounded_keys_and_values() {
    const LENGTH: usize = 300;
    for (seed, shape) in shapes().into_iter().enumerate() {
        let mut batch = Batch::new(shape, &[LENGTH], 900 + seed as u64);
        let mut memories = Vec::new();
        for start in (0..LENGTH).step_by(KEY_PIECE) {
            let rows = start..LENGTH.min(start + KEY_PIECE);
            let (kv_heads, head_dim) = (batch.shape.kv_heads, batch.shape.head_dim);
            let mut memory = PieceMemory::new(CacheEncoding::F16, kv_heads, head_dim, rows.len() + 3);
            // In two goes.
            let middle = rows.start + rows.len() / 3;
            for part in [rows.start..middle, middle..rows.end] {
                let (keys, values) = (batch.keys.slice(part.clone()), batch.values.slice(part.clone()));
                memory.fill(&Cpu::new(2), part.start - start, keys, values);
            }
            memories.push(memory);
        }
        let sequence = || {
            let pieces = memories.iter().map(PieceMemory::piece).collect();
            Sequence { rows: 0..LENGTH, start: 0, pieces }
        };
        for stored in [&mut batch.keys, &mut batch.values] {
            stored.data_mut().iter_mut().for_each(|number| *number = half::f16::from_f32(*number).to_f32());
        }
        let expected = batch.forward(&Cpu::new(1));
        for cpu in cpus() {
            let mut out = Matrix::zeros(LENGTH, expected.cols());
            attention(&cpu, &batch.shape, batch.queries.view(), &[sequence()], out.view_mut());
            assert_eq!(out, expected);
        }
    }
}
