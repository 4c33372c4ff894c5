//! Elementary functions with the same bits on every machine: built from `+`, `*`, `/` and bit patterns alone, without
//! branches on the hot ones, so that they vectorize and still round the same. Accuracy is stated and tested per function.

/// `eˣ`, within 2 units in the last place; 0 below −104, infinity above 88.73; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let _ = x;
    todo!()
}

/// `tanh x`, within 4 units in the last place; exact at ±∞.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let _ = x;
    todo!()
}

/// The natural logarithm in double precision, within 2 units in the last place for positive normal numbers.
pub fn ln(x: f64) -> f64 {
    let _ = x;
    todo!()
}

/// `xʸ` for positive `x`, in double precision, relative error below 1e-13 where the result is between 1e-60 and 1e60.
pub fn pow(x: f64, y: f64) -> f64 {
    let _ = (x, y);
    todo!()
}

/// `(sin x, cos x)` in double precision, absolute error below 1e-12 for |x| up to 2³⁰.
pub fn sin_cos(x: f64) -> (f64, f64) {
    let _ = x;
    todo!()
}
