//! The sums of rules 1 and 2, written once. Everything here is `#[inline(always)]`: instantiated under a wider
//! instruction set by [`per_isa!`](crate::simd), the same source becomes its vector code, with the same bits.

/// Virtual lanes of a sum over the inner dimension.
pub(crate) const LANES: usize = 16;

/// The tree of rule 1.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `Σ term(i)` for `i < len` by rule 2.
#[inline(always)]
pub(crate) fn sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for start in (0..len - len % LANES).step_by(LANES) {
        for l in 0..LANES {
            lanes[l] += term(start + l);
        }
    }
    for l in 0..len % LANES {
        lanes[l] += term(len - len % LANES + l);
    }
    fold(lanes)
}

/// `Σ a(i) b(i)` for `i < len` by rule 1, where `pair(i)` is `(a(i), b(i))`.
#[inline(always)]
pub(crate) fn sum_of_products(len: usize, pair: impl Fn(usize) -> (f32, f32)) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for start in (0..len - len % LANES).step_by(LANES) {
        for l in 0..LANES {
            let (a, b) = pair(start + l);
            lanes[l] = a.mul_add(b, lanes[l]);
        }
    }
    for l in 0..len % LANES {
        let (a, b) = pair(len - len % LANES + l);
        lanes[l] = a.mul_add(b, lanes[l]);
    }
    fold(lanes)
}

/// `a · b` by rule 1.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    sum_of_products(a.len(), |i| (a[i], b[i]))
}

/// The largest number, NaN passed over; −∞ of none. (No order shows in a maximum, so the lanes are free.)
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    for (l, &x) in chunks.remainder().iter().enumerate() {
        lanes[l] = if x > lanes[l] { x } else { lanes[l] };
    }
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Widens an f16, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    // Placed 13 bits higher, exponent and fraction read as the same number times 2^(15 − 127), whether normal or not.
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let bits = magnitude.to_bits() | if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

/// Widens a bf16, exactly.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}
