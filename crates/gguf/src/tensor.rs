//! What a file says of its tensors.

use std::fmt;
use std::ops::Range;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name; no other of the file has it.
    pub name: String,
    /// Its dimensions, outermost first as in safetensors: the last one is contiguous. (A file has them the other way
    /// round.) At most four; the last one is a whole number of blocks.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: TensorKind,
    /// Its bytes, from the beginning of the file. They are inside of it.
    pub data: Range<usize>,
}

/// How numbers are stored. Those of quantized kinds come in blocks along the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorKind {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// bfloat16.
    Bf16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, scales and minima for 16, themselves in 4 bits.
    Q2K,
    /// 3 bits, scales for 16, themselves in 6 bits.
    Q3K,
    /// 4 bits, scales and minima for 32, themselves in 6 bits.
    Q4K,
    /// 5 bits, scales and minima for 32, themselves in 6 bits.
    Q5K,
    /// 6 bits, scales for 16, themselves in 8 bits.
    Q6K,
    /// 4 bits that stand for 16 values at unequal distances, a scale for 32.
    Iq4Nl,
}

/// Kind, its number in a file, its name, values and bytes of a block.
const KINDS: [(TensorKind, u32, &str, usize, usize); 14] = [
    (TensorKind::F32, 0, "F32", 1, 4),
    (TensorKind::F16, 1, "F16", 1, 2),
    (TensorKind::Q4_0, 2, "Q4_0", 32, 18),
    (TensorKind::Q4_1, 3, "Q4_1", 32, 20),
    (TensorKind::Q5_0, 6, "Q5_0", 32, 22),
    (TensorKind::Q5_1, 7, "Q5_1", 32, 24),
    (TensorKind::Q8_0, 8, "Q8_0", 32, 34),
    (TensorKind::Q2K, 10, "Q2_K", 256, 84),
    (TensorKind::Q3K, 11, "Q3_K", 256, 110),
    (TensorKind::Q4K, 12, "Q4_K", 256, 144),
    (TensorKind::Q5K, 13, "Q5_K", 256, 176),
    (TensorKind::Q6K, 14, "Q6_K", 256, 210),
    (TensorKind::Iq4Nl, 20, "IQ4_NL", 32, 18),
    (TensorKind::Bf16, 30, "BF16", 1, 2),
];

/// Names of kinds that others write and this program does not read, for messages.
const OTHERS: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl TensorKind {
    /// The kind that a number in a file stands for.
    ///
    /// # Errors
    /// A clause that names the kinds that are known, for after "its tensor x".
    pub(crate) fn from_id(id: u32) -> Result<Self, String> {
        if let Some((kind, ..)) = KINDS.iter().find(|(_, number, ..)| *number == id) {
            return Ok(*kind);
        }
        let found = match OTHERS.iter().find(|(number, _)| *number == id) {
            Some((_, name)) => format!("as {name}"),
            None => format!("as kind {id}"),
        };
        let known: Vec<&str> = KINDS.iter().map(|(_, _, name, ..)| *name).collect();
        Err(format!("is stored {found}, which is not read; known are {}", known.join(", ")))
    }

    /// The number that stands for it in a file.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// Its name as people write it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The number of values in a block; 1 for floats.
    pub fn block_size(self) -> usize {
        self.row().3
    }

    /// The number of bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of a tensor of that shape, outermost dimension first; `None` when its rows are no whole blocks, or when they
    /// are more than can be counted.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_size()) {
            return None;
        }
        let row_bytes = (row / self.block_size()).checked_mul(self.block_bytes())?;
        let rows = &shape[..shape.len().saturating_sub(1)];
        rows.iter().try_fold(row_bytes, |bytes, &dimension| bytes.checked_mul(dimension))
    }

    fn row(self) -> &'static (TensorKind, u32, &'static str, usize, usize) {
        KINDS.iter().find(|(kind, ..)| *kind == self).expect("every kind is in the table")
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_of_whole_blocks() {
        assert_eq!(TensorKind::F32.bytes(&[3, 2]), Some(24));
        assert_eq!(TensorKind::F16.bytes(&[]), Some(2));
        assert_eq!(TensorKind::Q4_0.bytes(&[3, 64]), Some(3 * 2 * 18));
        assert_eq!(TensorKind::Q6K.bytes(&[2, 256]), Some(420));
        assert_eq!(TensorKind::Q6K.bytes(&[256, 32]), None, "rows of no whole block");
        assert_eq!(TensorKind::F32.bytes(&[usize::MAX, 2]), None);
        assert_eq!(TensorKind::F32.bytes(&[usize::MAX, 0]), Some(0));
    }

    #[test]
    fn kinds_are_found_by_their_numbers() {
        for (kind, id, name, ..) in KINDS {
            assert_eq!(TensorKind::from_id(id), Ok(kind));
            assert_eq!((kind.id(), kind.to_string().as_str()), (id, name));
        }
        assert!(
            TensorKind::from_id(23).unwrap_err().starts_with("is stored as IQ4_XS, which is not read; known are F32,")
        );
        assert!(TensorKind::from_id(99).unwrap_err().starts_with("is stored as kind 99, which is not read"));
    }
}
