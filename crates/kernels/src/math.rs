//! Elementary functions with the same bits on every machine: built from `+`, `*`, `/` and bit patterns alone, without
//! branches on the hot ones, so that they vectorize and still round the same. Accuracy is stated and tested per function.
//! Nothing here is fused. The one function of the platform that results lean on is `f32::mul_add`, in the sums of rules 1
//! and 3: scalar code without an instruction for it calls `fmaf` of the C library, which must round correctly. The test
//! `a_fused_multiply_add_rounds_once` checks that, wherever tests run.
//!
//! All of them reduce their argument with a constant split in a high part, whose product with the (small) quotient is
//! exact, and the rest (Cody & Waite, "Software Manual for the Elementary Functions", 1980), and then sum a Taylor
//! series long enough for its remainder to vanish in rounding.

/// Adding and subtracting it rounds an f32 below 2²² to the nearest integer, ties to even.
const ROUND_F32: f32 = 12_582_912.0;
/// The same for an f64 below 2⁵¹.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// ln 2 in 15 bits, and the rest.
const LN2_HIGH_F32: f32 = 0.693_145_75;
const LN2_LOW_F32: f32 = 1.428_606_8e-6;

/// `eˣ`, within 2 units in the last place; 0 below −104, infinity above 88.73; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (n, r) = reduce(x);
    let e = 1.0 + exp_m1_of_reduced(r);
    // 2ⁿ in two factors: n goes from −150 to 128. The first product is exact, so that only one rounding is left to
    // results below the normal numbers.
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// [`exp`] of a number from −87 to 88, of the same bits: where the result is neither too small nor too large for a normal
/// number, there is less to do. NaN stays NaN; others have no meaning.
#[inline(always)]
pub(crate) fn exp_of_moderate(x: f32) -> f32 {
    let (n, r) = reduce(x);
    (1.0 + exp_m1_of_reduced(r)) * power_of_two(n)
}

/// `tanh x`, within 4 units in the last place; exact at ±∞.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // tanh |x| = m / (m + 2) with m = e^(2|x|) − 1; from 10 on it rounds to 1.
    let magnitude = x.abs();
    let magnitude = if magnitude > 10.0 { 10.0 } else { magnitude };
    let (n, r) = reduce(2.0 * magnitude);
    let scale = power_of_two(n);
    let m = exp_m1_of_reduced(r) * scale + (scale - 1.0);
    (m / (m + 2.0)).copysign(x)
}

/// `Φ(x)`, the probability that a normal number is below `x`, within 3e-7; exactly ½ at 0. NaN stays NaN.
#[inline(always)]
pub fn normal_cdf(x: f32) -> f32 {
    // Φ(x) = (1 + erf z) / 2 with z = x / √2. Near 0 the Taylor series of erf; further out erfc |z|, as an exponential
    // whose exponent is a polynomial in 1 / (1 + |z| / 2) (Press et al., "Numerical Recipes in C", 2nd ed., section 6.2,
    // relative error below 1.2e-7).
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let square = z * z;
    // 2/√π (−1)ⁿ / (n! (2n + 1)), from n = 6 on down.
    let mut series = 1.205_533_2e-4;
    for coefficient in [-8.548_327e-4, 5.223_978e-3, -2.686_617e-2, 0.112_837_92, -0.376_126_38] {
        series = series * square + coefficient;
    }
    let near = 0.5 + 0.5 * z * (series * square + std::f32::consts::FRAC_2_SQRT_PI);

    let magnitude = z.abs();
    let t = 1.0 / (1.0 + 0.5 * magnitude);
    let mut exponent = 0.170_872_77;
    for coefficient in
        [-0.822_152_23, 1.488_515_9, -1.135_204, 0.278_868_07, -0.186_288_06, 0.096_784_18, 0.374_091_96, 1.000_023_7]
    {
        exponent = exponent * t + coefficient;
    }
    let tail = 0.5 * t * exp((exponent * t - 1.265_512_2) - square);
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    if magnitude < 0.5 { near } else { far }
}

/// `(n, r)` with `x = n ln 2 + r` and `|r|` up to about `ln 2 / 2`.
#[inline(always)]
fn reduce(x: f32) -> (i32, f32) {
    let shifted = x * std::f32::consts::LOG2_E + ROUND_F32;
    let n = shifted - ROUND_F32;
    ((shifted.to_bits() as i32).wrapping_sub(ROUND_F32.to_bits() as i32), (x - n * LN2_HIGH_F32) - n * LN2_LOW_F32)
}

/// `eʳ − 1` by its Taylor series, of which the first term is added last.
#[inline(always)]
fn exp_m1_of_reduced(r: f32) -> f32 {
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        sum = sum * r + coefficient;
    }
    r + (r * r) * sum
}

/// `2ⁿ` for the exponents of normal numbers.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ln 2 in 32 bits, and the rest.
const LN2_HIGH_F64: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW_F64: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// The natural logarithm in double precision, within 2 units in the last place for positive normal numbers; −∞ at 0,
/// NaN below.
pub fn ln(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE {
        return match x {
            0.0 => f64::NEG_INFINITY,
            x if x < 0.0 => f64::NAN,
            x => ln(x * f64::from_bits((1023 + 54) << 52)) - 54.0 * std::f64::consts::LN_2,
        };
    }
    if !x.is_finite() {
        return x;
    }
    // x = 2ᵏ (1 + f) with 1 + f between √½ and √2, and ln(1 + f) = 2 atanh s with s = f / (2 + f). Since 2 s = f − s f,
    // the largest term is exact.
    let mut k = (x.to_bits() >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        k += 1;
    }
    let f = mantissa - 1.0;
    let s = f / (2.0 + f);
    let square = s * s;
    let mut series = 0.0;
    for term in (1..=12).rev() {
        series = (series + 2.0 / f64::from(2 * term + 1)) * square;
    }
    let k = k as f64;
    k * LN2_HIGH_F64 + (f - (s * (f - series) - k * LN2_LOW_F64))
}

/// `xʸ` for positive `x`, in double precision, relative error below 1e-13 where the result is between 1e-60 and 1e60.
pub fn pow(x: f64, y: f64) -> f64 {
    exp_f64(y * ln(x))
}

/// `eˣ` in double precision, relative error below 1e-14; 0 and infinity where the result is not a normal number.
pub fn exp_f64(x: f64) -> f64 {
    if x < -708.0 {
        return 0.0;
    }
    if x > 709.7 {
        return f64::INFINITY;
    }
    let n = (x * std::f64::consts::LOG2_E + ROUND_F64) - ROUND_F64;
    let r = (x - n * LN2_HIGH_F64) - n * LN2_LOW_F64;
    let mut sum = 0.0;
    for term in (1..=15).rev() {
        sum = (1.0 + sum) * r / f64::from(term);
    }
    let half = n as i64 >> 1;
    let power = |n: i64| f64::from_bits(((n + 1023) as u64) << 52);
    (1.0 + sum) * power(half) * power(n as i64 - half)
}

/// π/2 in three parts: twice 23 bits, so that their products with a 30-bit quotient are exact, and the rest.
const HALF_PI_PARTS: [f64; 3] = [
    f64::from_bits(0x3ff9_21fb_4000_0000),
    f64::from_bits(0x3e74_442d_0000_0000),
    f64::from_bits(0x3cf8_4698_98cc_5170),
];

/// `(sin x, cos x)` in double precision, absolute error below 1e-12 for |x| up to 2³⁰.
pub fn sin_cos(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND_F64) - ROUND_F64;
    let [high, middle, low] = HALF_PI_PARTS;
    let r = ((x - n * high) - n * middle) - n * low;
    let square = r * r;
    let (mut sin, mut cos) = (0.0, 0.0);
    for term in (1..=9).rev() {
        let k = f64::from(2 * term);
        sin = (1.0 - sin) * square / (k * (k + 1.0));
        cos = (1.0 - cos) * square / (k * (k - 1.0));
    }
    let (sin, cos) = (r - r * sin, 1.0 - cos);
    match n as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_of_moderate_numbers_is_exp() {
        for bits in (0..u32::MAX).step_by(4099) {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                assert!(exp_of_moderate(x).is_nan());
            } else if (-87.0..88.0).contains(&x) {
                assert_eq!(exp_of_moderate(x).to_bits(), exp(x).to_bits(), "{x}");
            }
        }
    }
}
