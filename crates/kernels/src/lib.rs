//! Numbers in, numbers out: the encodings of weights, the products with them, and the ops of a decoder block, each
//! forward and backward side by side. No files, no models, no network; the only SIMD and nearly the only `unsafe`
//! of the house.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`cpu`] | how this process computes: instruction set and threads |
//! | [`matrix`] | row-major f32 matrices and views |
//! | [`weight`] | a stored weight in its encoding: `x Wᵀ`, `dy W`, gather rows |
//! | [`product`] | the same products between f32 matrices, for adapters and gradients |
//! | [`ops`] | norm, rope, ALiBi, attention, activations, softmax, cross-entropy, dropout, rounding |
//! | [`math`] | exp, ln, tanh, sin, cos, pow: the same bits on every machine |
//!
//! # The same bits everywhere
//!
//! The same inputs give the same output bits, whatever the number of threads, the batch that a sequence happens to be
//! in, the way a prompt is cut, the instruction set and the machine. Every kernel obeys these rules; tests compare
//! for equality, never for closeness. [`ARITHMETIC_VERSION`] is raised whenever any output bit changes.
//!
//! 1. **Products over the inner dimension** (`x Wᵀ`, every dot product but those of rule 7, every sum of squares): 16
//!    virtual lanes. Lane `l` accumulates, from +0, the terms `k = l, l+16, l+32, …` in ascending order with a fused
//!    multiply-add each. Then the lanes are folded by a fixed tree: `l += l+8` for `l < 8`, `l += l+4` for `l < 4`,
//!    `l += l+2` for `l < 2`, `l += l+1`. A tail shorter than 16 fills the first lanes only (a lane without a term is
//!    left as it is).
//! 2. **Plain sums** (means, sums of exponentials): the same lanes and tree, with `+`.
//! 3. **Products over rows** (`dy W`, gradients `dyᵀ x`, probabilities · values) and over the rank of an adapter: one
//!    chain per output element, in ascending order of the summed index, a fused multiply-add each, from the value already
//!    there (or +0).
//! 4. A weight stored in f16 or bf16 is widened to f32, exactly, before rule 1 or 3 applies.
//! 5. A fused multiply-add stands in sums of products only, and rounds once on every platform: where a machine has no
//!    instruction for it, `f32::mul_add` is the C library's `fmaf`, which a test holds to hard cases. Everywhere else
//!    `*` and `+` are rounded as written; Rust never contracts them. No reciprocal approximations. Rounding is half to
//!    even. Denormals are kept.
//! 6. exp, ln, tanh, sin, cos and pow are those of [`math`], never the platform's.
//! 7. **Attention** walks keys in pieces of [`KEY_PIECE`](ops::attention::KEY_PIECE) positions, whose borders are
//!    multiples of it counted from absolute position 0, and skips masked keys. Inside a piece: scores (query · key) by
//!    rule 3 over the channels, their
//!    maximum, exponentials, their sum by rule 2 (lane = position modulo 16), values by rule 3. Pieces are merged in
//!    ascending order. An exponential below e⁻⁶⁴ counts as 0. Thus neither cuts of a prompt, nor caches, nor threads
//!    that share a long context set an order.
//! 8. Work is split over threads by outputs, or by pieces of rule 7; never by the number of threads.
//! 9. Whatever is chosen from activations (scales, outliers, experts) is chosen per token, never per batch. Ties go to
//!    the lower index.
//! 10. Dropout is a hash of counters (seed, step, view, sequence, position, linear, channel), not a stream.
//! 11. **Short sums elsewhere** are one ascending chain of `+`; where a term has a factor, their product is rounded
//!     first. Such are the sums over the experts of a token, from +0 (chosen probabilities, weighted outputs, and the
//!     gradients for their input, to which that of the router is added last); over the tokens that share a deep
//!     prompt's gradient; and over the losses of a text, in f64, by window and position. A linear's output is its
//!     product, then its bias added, from where the product with the adapter's `B` goes on by rule 3; backwards, `dy W`,
//!     then the adapter's part, a product of its own, added. The gradients of linears that share an input are added in
//!     the order q + k + v, or gate + up.
//! 12. **Weights of integers** computed in integers ([`Arithmetic::Integer`]): `x Wᵀ` rounds the activations of each
//!     token to int8, `dy W` the gradients of each token, times the scales of the rows of `W`, in groups of 128 rows from
//!     row 0 on. Sums of integers are exact. Those of the groups, each times its scale, are added by rule 3.
//!     Blocks of ggml round activations in groups of 32 columns, and add the sums of the groups of `x Wᵀ` by rule 3, too:
//!     each times its scale, then its minimum; what rounding leaves of groups with one massive activation is a row of its
//!     own, whose output is added. Their `dy W` is that of floats.
//!
//! ```
//! use bouquet_kernels::{Cpu, Matrix, Weight};
//! let cpu = Cpu::new(1);
//! let weight = Weight::from_f32(2, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
//! let x = Matrix::from_vec(1, 3, vec![5.0, 6.0, 7.0]);
//! let mut y = Matrix::zeros(1, 2);
//! weight.product(&cpu, x.view(), None, y.view_mut());
//! assert_eq!(y.data(), &[5.0, 13.0]);
//! ```

#[cfg(target_endian = "big")]
compile_error!("weights are read in place from little-endian files");

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a model is larger than what narrower pointers reach");

mod affinity;
pub mod cpu;
mod lanes;
pub mod limits;
pub mod math;
pub mod matrix;
pub mod ops;
mod permission;
pub mod product;
pub mod profile;
mod recycle;
mod scratch;
mod simd;
mod threads;
pub mod weight;

pub use cpu::{Cpu, Isa};
pub use matrix::{Matrix, MatrixView, MatrixViewMut};
pub use recycle::{MOST_IDLE_BYTES, set_most_idle_bytes};
pub use weight::{Arithmetic, FloatEncoding, Weight};

/// Raised whenever any bit of any result changes. Part of a model's fingerprint.
pub const ARITHMETIC_VERSION: u32 = 4;
