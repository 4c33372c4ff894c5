//! How the weights of a model are held: as stored, or encoded when they are loaded.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bouquet_kernels::weight::{FloatWeight, Int4Weight, Int8Weight, Nf4Weight, NotFinite, int4, nf4};
use bouquet_kernels::{Arithmetic, Cpu, FloatEncoding, Matrix, Weight};
use bytes::Bytes;

use crate::checkpoint::mmap::filled;
use crate::{ModelError, Result};

/// What linears, embedding and head are computed in. Codes of a folder are taken as they are, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Weights as they are stored, decoded where they are encoded; arithmetic in f32.
    F32,
    /// Blocks of a GGUF file as they are stored, activations in int8 for each 32 columns; floats as [`Int8`](Self::Int8).
    Stored,
    /// int8 with a scale per row; activations in int8 per token, outliers apart (LLM.int8).
    Int8,
    /// 4 bits with a small scale per group of 64; activations as with int8.
    Int4,
    /// 4 bits with a float scale per block of 64 (NF4); arithmetic in f32.
    Nf4,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Encoding; 5] = [Encoding::F32, Encoding::Stored, Encoding::Int8, Encoding::Int4, Encoding::Nf4];

    /// What the weights of a folder are in: floats, which are computed as they are stored, or codes.
    pub const OF_FOLDERS: [Encoding; 4] = [Encoding::F32, Encoding::Int8, Encoding::Int4, Encoding::Nf4];

    /// As flags and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::Stored => "stored",
            Encoding::Int8 => "int8",
            Encoding::Int4 => "int4",
            Encoding::Nf4 => "nf4",
        }
    }

    /// Bytes that a `[rows, cols]` weight takes in this encoding; `None` where that depends on how it is stored.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<u64> {
        let bytes = match self {
            Encoding::F32 | Encoding::Stored => return None,
            Encoding::Int8 => rows * (cols + 4),
            Encoding::Int4 => rows * (int4::groups(cols) * (int4::GROUP / 2 + 1) + 4),
            Encoding::Nf4 => nf4::code_bytes(rows, cols) + 4 * nf4::blocks(rows, cols),
        };
        Some(bytes as u64)
    }

    /// What embedding and head are encoded in where linears are encoded in this: with 4 bits that is int8, since 4 bits
    /// there cost several times what they cost in all linears together.
    pub fn of_vocabulary(self) -> Encoding {
        match self {
            Encoding::F32 | Encoding::Stored => self,
            Encoding::Int8 | Encoding::Int4 | Encoding::Nf4 => Encoding::Int8,
        }
    }

    /// How a weight is stored.
    pub fn of(weight: &Weight) -> Encoding {
        match weight {
            Weight::Float(_) | Weight::Blocks(..) => Encoding::F32,
            Weight::Int8(..) => Encoding::Int8,
            Weight::Int4(..) => Encoding::Int4,
            Weight::Nf4(_) => Encoding::Nf4,
        }
    }

    /// A stored weight as it is computed in this encoding: floats are encoded, and so are blocks unless they are to stay as
    /// they are stored; codes of whatever kind are taken as they are. `name` is for messages; `release` is told of every part of the floats that is done with.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for a number that is not finite.
    pub fn encode(self, cpu: &Cpu, name: &str, weight: Weight, release: &dyn Fn(&[u8])) -> Result<Weight> {
        let encoded = match (self, weight) {
            (Encoding::F32, Weight::Int8(codes, _)) => return Ok(Weight::Int8(codes, Arithmetic::Float)),
            (Encoding::F32, Weight::Int4(codes, _)) => return Ok(Weight::Int4(codes, Arithmetic::Float)),
            (Encoding::F32, Weight::Blocks(blocks, _)) => return Ok(Weight::Blocks(blocks, Arithmetic::Float)),
            (_, Weight::Int8(codes, _)) => return Ok(Weight::Int8(codes, Arithmetic::Integer)),
            (_, Weight::Int4(codes, _)) => return Ok(Weight::Int4(codes, Arithmetic::Integer)),
            (_, weight @ Weight::Nf4(_)) | (Encoding::F32, weight) => return Ok(weight),
            (Encoding::Stored, Weight::Blocks(blocks, _)) => return Ok(Weight::Blocks(blocks, Arithmetic::Integer)),
            // Floats, and blocks, which are decoded for it.
            (Encoding::Stored | Encoding::Int8, weight) => int8(cpu, &weight, release),
            (Encoding::Int4, weight) => int4(cpu, &weight, release),
            (Encoding::Nf4, weight) => nf4(cpu, &weight, release),
        };
        encoded.map_err(|NotFinite { row }| ModelError::Tensor {
            name: name.to_owned(),
            problem: format!("has a number in row {row} that is not finite, or too large to encode"),
        })
    }
}

type Encoded = std::result::Result<Weight, NotFinite>;

fn int8(cpu: &Cpu, weight: &Weight, release: &dyn Fn(&[u8])) -> Encoded {
    let (rows, cols) = (weight.rows(), weight.cols());
    let (codes, absmax) = filled(rows * cols, |codes| {
        in_parts(cpu, weight, release, |first, part| {
            Int8Weight::encode(cpu, part, &mut codes[first * cols..][..part.rows() * cols])
        })
    })?;
    Ok(Weight::Int8(Int8Weight::new(rows, cols, codes, absmax).into(), Arithmetic::Integer))
}

fn int4(cpu: &Cpu, weight: &Weight, release: &dyn Fn(&[u8])) -> Encoded {
    let (rows, cols) = (weight.rows(), weight.cols());
    let groups = int4::groups(cols);
    let width = groups * int4::GROUP / 2;
    let mut scales = vec![0; rows * groups];
    let (codes, row_scales) = filled(rows * width, |codes| {
        in_parts(cpu, weight, release, |first, part| {
            let codes = &mut codes[first * width..][..part.rows() * width];
            Int4Weight::encode(cpu, part, codes, &mut scales[first * groups..][..part.rows() * groups])
        })
    })?;
    let weight = Int4Weight::new(rows, cols, codes, scales.into(), row_scales);
    Ok(Weight::Int4(weight.into(), Arithmetic::Integer))
}

fn nf4(cpu: &Cpu, weight: &Weight, release: &dyn Fn(&[u8])) -> Encoded {
    let (rows, cols) = (weight.rows(), weight.cols());
    let (codes, absmax) = filled(nf4::code_bytes(rows, cols), |codes| {
        in_parts(cpu, weight, release, |first, part| {
            let codes = &mut codes[first * cols / 2..][..nf4::code_bytes(part.rows(), cols)];
            Nf4Weight::encode(cpu, part, codes)
        })
    })?;
    Ok(Weight::Nf4(Nf4Weight::new(rows, cols, codes, absmax).into()))
}

/// Calls `encode` with the number of the first row and the rows of one part of a weight after the other, and puts what
/// it returns one after the other; so no more than a part of the floats is in memory at a time. A part has a multiple
/// of 64 rows, hence of 64 numbers.
fn in_parts(
    cpu: &Cpu,
    weight: &Weight,
    release: &dyn Fn(&[u8]),
    mut encode: impl FnMut(usize, &FloatWeight) -> std::result::Result<Vec<f32>, NotFinite>,
) -> std::result::Result<Vec<f32>, NotFinite> {
    const BYTES: usize = 16 << 20;
    let row_bytes = (weight.cols() * size_of::<f32>()).max(1);
    let at_a_time = (BYTES / row_bytes).max(1).next_multiple_of(64);
    let mut scales = Vec::new();
    for first in (0..weight.rows()).step_by(at_a_time) {
        let rows = first..weight.rows().min(first + at_a_time);
        let (part, stored) = floats(cpu, weight, rows);
        let encoded = encode(first, &part).map_err(|NotFinite { row }| NotFinite { row: first + row });
        scales.extend(encoded?);
        release(&stored);
    }
    Ok(scales)
}

/// Some rows of a weight as floats, and the bytes that they are stored in. Panics for codes, which are taken as they are.
fn floats(cpu: &Cpu, weight: &Weight, rows: Range<usize>) -> (FloatWeight, Bytes) {
    match weight {
        Weight::Float(weight) => {
            let part = weight.slice(rows);
            let stored = part.data().clone();
            (part, stored)
        }
        Weight::Blocks(blocks, _) => {
            let row_bytes = blocks.bytes() / blocks.rows().max(1);
            let stored = blocks.data().slice(rows.start * row_bytes..rows.end * row_bytes);
            let ids: Vec<u32> = rows.map(|row| row as u32).collect();
            let mut decoded = Matrix::unset(ids.len(), weight.cols());
            weight.gather(cpu, &ids, decoded.view_mut());
            (float_weight(decoded), stored)
        }
        Weight::Int8(..) | Weight::Int4(..) | Weight::Nf4(_) => unreachable!("codes are taken as they are"),
    }
}

/// Numbers as a weight, where they lie.
pub(crate) fn float_weight(numbers: Matrix) -> FloatWeight {
    struct Owned(Matrix);
    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(self.0.data())
        }
    }
    let (rows, cols) = (numbers.rows(), numbers.cols());
    FloatWeight::new(FloatEncoding::F32, rows, cols, Bytes::from_owner(Owned(numbers)))
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = Encoding::ALL.into_iter().find(|encoding| encoding.name() == name);
        known.ok_or_else(|| format!("there is no encoding {name}"))
    }
}
