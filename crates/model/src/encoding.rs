//! How the weights of a model are held: as stored, or encoded when they are loaded.

use std::fmt;
use std::str::FromStr;

use bouquet_kernels::weight::{FloatWeight, Int4Weight, Int8Weight, Nf4Weight, NotFinite, int4, nf4};
use bouquet_kernels::{Arithmetic, Cpu, Weight};

use crate::{ModelError, Result};

/// What linears, embedding and head are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Weights as they are stored, decoded where they are encoded; arithmetic in f32.
    F32,
    /// int8 with a scale per row; activations in int8 per token, outliers apart (LLM.int8).
    Int8,
    /// 4 bits with a small scale per group of 64; activations as with int8.
    Int4,
    /// 4 bits with a float scale per block of 64 (NF4); arithmetic in f32.
    Nf4,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Encoding; 4] = [Encoding::F32, Encoding::Int8, Encoding::Int4, Encoding::Nf4];

    /// As flags and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::Int8 => "int8",
            Encoding::Int4 => "int4",
            Encoding::Nf4 => "nf4",
        }
    }

    /// A stored weight in this encoding; `name` is for messages.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for a number that is not finite.
    pub fn encode(self, cpu: &Cpu, name: &str, weight: Weight) -> Result<Weight> {
        let (Weight::Float(float), true) = (&weight, self != Encoding::F32) else { return Ok(weight) };
        let encoded = match self {
            Encoding::F32 => return Ok(weight),
            Encoding::Int8 => int8(cpu, float),
            Encoding::Int4 => int4(cpu, float),
            Encoding::Nf4 => nf4(cpu, float),
        };
        encoded.map_err(|NotFinite { row }| ModelError::Tensor {
            name: name.to_owned(),
            problem: format!("has a number in row {row} that is not finite, or too large to encode"),
        })
    }
}

fn int8(cpu: &Cpu, weight: &FloatWeight) -> std::result::Result<Weight, NotFinite> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut codes = vec![0; rows * cols];
    let absmax = Int8Weight::encode(cpu, weight, &mut codes)?;
    Ok(Weight::Int8(Int8Weight::new(rows, cols, codes.into(), absmax).into(), Arithmetic::Integer))
}

fn int4(cpu: &Cpu, weight: &FloatWeight) -> std::result::Result<Weight, NotFinite> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let groups = int4::groups(cols);
    let (mut codes, mut scales) = (vec![0; rows * groups * int4::GROUP / 2], vec![0; rows * groups]);
    let row_scales = Int4Weight::encode(cpu, weight, &mut codes, &mut scales)?;
    let weight = Int4Weight::new(rows, cols, codes.into(), scales.into(), row_scales);
    Ok(Weight::Int4(weight.into(), Arithmetic::Integer))
}

fn nf4(cpu: &Cpu, weight: &FloatWeight) -> std::result::Result<Weight, NotFinite> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut codes = vec![0; nf4::code_bytes(rows, cols)];
    let absmax = Nf4Weight::encode(cpu, weight, &mut codes)?;
    Ok(Weight::Nf4(Nf4Weight::new(rows, cols, codes.into(), absmax).into()))
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
