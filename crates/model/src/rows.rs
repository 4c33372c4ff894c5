//! Rows of a weight in another type of numbers, some at a time: what every file is written from. Where the type is the one
//! that they have, their bytes are copied.

use bouquet_kernels::weight::{BlockFormat, blocks};
use bouquet_kernels::{Cpu, FloatEncoding, Matrix, Weight};
use bouquet_span::Limits;
use half::{bf16, f16};

use crate::Result;
use crate::checkpoint::Dtype;
use crate::checkpoint::parts::{not_finite, wrong};
use crate::encoding::float_weight;

/// Bytes of numbers that are in memory at a time.
pub(crate) const AT_A_TIME: usize = 16 << 20;

/// What rows are written with.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    /// Decodes and encodes.
    pub(crate) cpu: &'a Cpu,
    /// When to stop.
    pub(crate) limits: &'a Limits,
    /// Is told of every part of the weight that is done with.
    pub(crate) release: &'a dyn Fn(&[u8]),
}

/// Adds something to some rows, from the one of a number on.
pub(crate) type Share<'a> = &'a dyn Fn(usize, &mut Matrix);

/// Rows to write.
pub(crate) struct Rows<'a> {
    /// Whose they are, for messages.
    pub(crate) name: &'a str,
    /// Where they are.
    pub(crate) weight: &'a Weight,
    /// Which row comes where; as they are without.
    pub(crate) order: Option<&'a [usize]>,
    /// What is added to them before they are rounded.
    pub(crate) share: Option<Share<'a>>,
    /// What they become: floats, Q8_0 or Q4_0; or what they are.
    pub(crate) dtype: &'a Dtype,
}

impl Rows<'_> {
    /// Hands the bytes of all rows on, in order, in pieces.
    ///
    /// # Errors
    /// [`ModelError::Tensor`](crate::ModelError::Tensor) for a number that is not finite, or is not once it is rounded;
    /// what `write` answers; the limits.
    pub(crate) fn write(&self, work: Work<'_>, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (rows, cols) = (self.weight.rows(), self.weight.cols());
        let data = self.weight.data();
        let copied = self.share.is_none() && stored_as(self.weight).as_ref() == Some(self.dtype);
        let row_bytes = if copied { data.len() / rows.max(1) } else { cols * size_of::<f32>() };
        let at_a_time = (AT_A_TIME / row_bytes.max(1)).max(1);
        for first in (0..rows).step_by(at_a_time) {
            work.limits.check()?;
            let last = rows.min(first + at_a_time);
            let stored = data.len() / rows * first..data.len() / rows * last;
            match (copied, self.order) {
                (true, None) => write(self.checked(first, &data[stored.clone()])?)?,
                (true, Some(order)) => {
                    let rows: Vec<u8> = order[first..last]
                        .iter()
                        .flat_map(|row| &data[row * row_bytes..][..row_bytes])
                        .copied()
                        .collect();
                    write(self.checked(first, &rows)?)?;
                }
                (false, order) => {
                    let row = |place: usize| order.map_or(place, |order| order[place]) as u32;
                    let ids: Vec<u32> = (first..last).map(row).collect();
                    let mut numbers = Matrix::unset(ids.len(), cols);
                    self.weight.gather(work.cpu, &ids, numbers.view_mut());
                    if let Some(share) = self.share {
                        share(first, &mut numbers);
                    }
                    write(&self.encode(work.cpu, first, numbers)?)?;
                }
            }
            if self.order.is_none() {
                (work.release)(&data[stored]);
            }
        }
        if self.order.is_some() {
            (work.release)(data);
        }
        Ok(())
    }

    /// Floats that are copied have to be finite, too.
    fn checked<'b>(&self, first: usize, bytes: &'b [u8]) -> Result<&'b [u8]> {
        match not_finite(self.dtype, bytes) {
            None => Ok(bytes),
            Some(place) => {
                let place = first * self.weight.cols() + place;
                wrong(self.name, format!("has a number at index {place} that is not finite"))
            }
        }
    }

    fn encode(&self, cpu: &Cpu, first: usize, numbers: Matrix) -> Result<Vec<u8>> {
        let bytes: Vec<u8> = match self.dtype {
            Dtype::F32 => numbers.data().iter().flat_map(|number| number.to_le_bytes()).collect(),
            Dtype::F16 => numbers.data().iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
            Dtype::Bf16 => numbers.data().iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
            &Dtype::Blocks(format @ (BlockFormat::Q8_0 | BlockFormat::Q4_0)) => {
                let mut bytes = vec![0; blocks::block_bytes(format, numbers.rows(), numbers.cols())];
                return match blocks::encode(cpu, format, &float_weight(numbers), &mut bytes) {
                    Ok(()) => Ok(bytes),
                    Err(error) => {
                        let row = first + error.row;
                        wrong(
                            self.name,
                            format!("has a number in row {row} that is not finite, or too large to encode"),
                        )
                    }
                };
            }
            other => unreachable!("nothing is written in {other}"),
        };
        match not_finite(self.dtype, &bytes) {
            None => Ok(bytes),
            Some(place) => {
                let (place, dtype) = (first * self.weight.cols() + place, self.dtype);
                wrong(self.name, format!("would have a number at index {place} that is not finite in {dtype}"))
            }
        }
    }
}

/// The type of a weight's numbers; `None` for codes.
pub(crate) fn stored_as(weight: &Weight) -> Option<Dtype> {
    match weight {
        Weight::Float(weight) => Some(match weight.encoding() {
            FloatEncoding::F32 => Dtype::F32,
            FloatEncoding::F16 => Dtype::F16,
            FloatEncoding::Bf16 => Dtype::Bf16,
        }),
        Weight::Blocks(weight, _) => Some(Dtype::Blocks(weight.format())),
        Weight::Int8(..) | Weight::Int4(..) | Weight::Nf4(_) => None,
    }
}
