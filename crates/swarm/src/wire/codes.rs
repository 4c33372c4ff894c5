//! Hidden states as bytes and back, exactly. On a wire that rounds, they were rounded where they were made, so that what is
//! sent are the codes of that rounding and no bit is lost on the way.

use bouquet_kernels::Matrix;
use bouquet_kernels::ops::rounding::{INT8_GROUP, int8_codes};

use super::Wire;

/// Bytes of so many rows of `width` channels.
pub fn bytes(wire: Wire, rows: usize, width: usize) -> Option<usize> {
    let row = match wire {
        Wire::F32 => width.checked_mul(4)?,
        Wire::Bf16 => width.checked_mul(2)?,
        Wire::Int8 => width.checked_add(width.div_ceil(INT8_GROUP).checked_mul(2)?)?,
    };
    rows.checked_mul(row)
}

/// Rows that the rounding of `wire` has left as they are, row by row: of int8 the scales of a row, then its codes.
/// `None` if they are not such rows, which would lose bits.
pub fn encode(wire: Wire, rows: &[f32], width: usize) -> Option<Vec<u8>> {
    match wire {
        Wire::F32 => Some(rows.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Wire::Bf16 => {
            let exact = rows.iter().all(|value| value.to_bits() & 0xffff == 0);
            exact.then(|| rows.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect())
        }
        Wire::Int8 => {
            let mut bytes = Vec::with_capacity(bytes(wire, rows.len() / width.max(1), width)?);
            let mut codes = vec![0i8; width];
            for row in rows.chunks(width) {
                for (group, codes) in row.chunks(INT8_GROUP).zip(codes.chunks_mut(INT8_GROUP)) {
                    let scale = int8_codes(group, codes)?;
                    bytes.extend(((scale.to_bits() >> 16) as u16).to_le_bytes());
                }
                bytes.extend(codes.iter().map(|&code| code as u8));
            }
            Some(bytes)
        }
    }
}

/// The rows that [`encode`] had; `None` for another number of bytes, and for scales that no rounding makes.
pub fn decode(wire: Wire, bytes_: &[u8], rows: usize, width: usize) -> Option<Matrix> {
    if bytes(wire, rows, width)? != bytes_.len() {
        return None;
    }
    let mut values = Vec::with_capacity(rows * width);
    match wire {
        Wire::F32 => {
            values.extend(bytes_.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4"))))
        }
        Wire::Bf16 => {
            values.extend(bytes_.chunks_exact(2).map(|bytes| bf16(bytes.try_into().expect("2"))));
        }
        Wire::Int8 => {
            let groups = width.div_ceil(INT8_GROUP);
            for row in bytes_.chunks_exact(width + 2 * groups) {
                let (scales, codes) = row.split_at(2 * groups);
                for (scale, codes) in scales.chunks_exact(2).zip(codes.chunks(INT8_GROUP)) {
                    let scale = bf16(scale.try_into().expect("2"));
                    if !(scale.is_finite() && scale >= 0.0) {
                        return None;
                    }
                    values.extend(codes.iter().map(|&code| f32::from(code as i8) * scale));
                }
            }
        }
    }
    Some(Matrix::from_vec(rows, width, values))
}

fn bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[cfg(test)]
mod tests {
    use bouquet_kernels::Cpu;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_rounded_travels_exactly(
            rows in 0usize..4, width in 1usize..200, wire in prop::sample::select(&Wire::ALL[..]), seed in any::<u64>(),
            exponent in -125i32..120,
        ) {
            let mut random = bouquet_span::contract::Random::new(seed);
            let mut values = random.matrix(rows, width);
            let scale = 2f32.powi(exponent);
            values.data_mut().iter_mut().for_each(|value| *value *= scale);
            wire.rounding().apply(&Cpu::new(1), values.view_mut());
            let sent = encode(wire, values.data(), width).unwrap();
            prop_assert_eq!(Some(sent.len()), bytes(wire, rows, width));
            let received = decode(wire, &sent, rows, width).unwrap();
            let bits = |matrix: &Matrix| matrix.data().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&received), bits(&values));
            prop_assert!(decode(wire, &sent, rows + 1, width).is_none());
        }
    }

    #[test]
    fn what_would_lose_bits_is_not_sent() {
        assert_eq!(encode(Wire::Bf16, &[1.000_000_1], 1), None);
        assert_eq!(encode(Wire::Int8, &[1.0, 0.3], 2), None);
        assert_eq!(encode(Wire::Int8, &[f32::NAN], 1), None);
        assert_eq!(decode(Wire::Int8, &[0xc0, 0x7f, 1], 1, 1), None);
        assert_eq!(bytes(Wire::F32, usize::MAX, 4), None);
    }
}
