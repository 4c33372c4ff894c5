//! The accuracy that `math` states, against the platform's double precision over dense sweeps.

use bouquet_kernels::math;

/// Units in the last place of an f32 between `value` and `exact`.
fn ulps(value: f32, exact: f64) -> f64 {
    let unit = (exact.abs() as f32).max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(unit.to_bits() + 1)) - f64::from(unit);
    (f64::from(value) - exact).abs() / unit
}

/// `count` numbers from `low` to `high`, evenly.
fn sweep(low: f64, high: f64, count: u32) -> impl Iterator<Item = f64> {
    (0..=count).map(move |i| low + (high - low) * f64::from(i) / f64::from(count))
}

#[test]
fn exp_is_within_2_ulp() {
    for x in sweep(-105.0, 88.72, 2_000_003) {
        let x = x as f32;
        let error = ulps(math::exp(x), f64::from(x).exp());
        assert!(error <= 2.0, "exp({x}) = {}: {error} ulp", math::exp(x));
    }
    assert_eq!(math::exp(0.0), 1.0);
    assert_eq!(math::exp(-0.0), 1.0);
    assert_eq!(math::exp(-104.1), 0.0);
    assert_eq!(math::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(math::exp(88.73), f32::INFINITY);
    assert_eq!(math::exp(f32::INFINITY), f32::INFINITY);
    assert!(math::exp(f32::NAN).is_nan());
    assert_eq!(math::exp(-103.9), f32::from_bits(1));
}

#[test]
fn tanh_is_within_4_ulp() {
    let near_zero = (0..2_000).map(|i| f64::from(f32::from_bits(i * 1_000_003 % 0x3f80_0000)));
    for x in sweep(-11.0, 11.0, 2_000_003).chain(near_zero) {
        let x = x as f32;
        let error = ulps(math::tanh(x), f64::from(x).tanh());
        assert!(error <= 4.0, "tanh({x}) = {}: {error} ulp", math::tanh(x));
        assert_eq!(math::tanh(-x), -math::tanh(x));
    }
    assert_eq!(math::tanh(f32::INFINITY), 1.0);
    assert_eq!(math::tanh(f32::NEG_INFINITY), -1.0);
    assert!(math::tanh(0.0).is_sign_positive() && math::tanh(-0.0).is_sign_negative());
    assert!(math::tanh(f32::NAN).is_nan());
}

#[test]
fn ln_is_within_2_ulp() {
    for i in 0..2_000_000u64 {
        let bits = if i % 2 == 0 {
            // All magnitudes.
            0x0010_0000_0000_0000 + i * 4_600_000_000_007
        } else {
            // Around 1.
            (0.5f64.to_bits() + i * 10_000_000_019) % 2.0f64.to_bits()
        };
        let x = f64::from_bits(bits.max(f64::MIN_POSITIVE.to_bits()));
        let (value, exact) = (math::ln(x), x.ln());
        let steps = value.to_bits().abs_diff(exact.to_bits());
        assert!(steps <= 2, "ln({x}) = {value}, not {exact}");
    }
    assert_eq!(math::ln(1.0), 0.0);
    assert_eq!(math::ln(0.0), f64::NEG_INFINITY);
    assert_eq!(math::ln(f64::INFINITY), f64::INFINITY);
    assert!(math::ln(-1.0).is_nan() && math::ln(f64::NAN).is_nan());
    assert!((math::ln(5e-324) - 5e-324f64.ln()).abs() < 1e-12);
}

#[test]
fn exp_f64_keeps_14_digits() {
    for x in sweep(-700.0, 700.0, 400_009).chain(sweep(-2.0, 2.0, 100_003)) {
        let (value, exact) = (math::exp_f64(x), x.exp());
        assert!(((value - exact) / exact).abs() < 1e-14, "e^{x} = {value}, not {exact}");
    }
    assert_eq!((math::exp_f64(0.0), math::exp_f64(-1e4), math::exp_f64(1e4)), (1.0, 0.0, f64::INFINITY));
    assert!(math::exp_f64(f64::NAN).is_nan());
}

#[test]
fn pow_keeps_13_digits() {
    for x in [0.5, 2.0, 10.0, 1e4, 5e5, 1e6, 3.7] {
        for y in sweep(-10.0, 10.0, 20_011) {
            let (value, exact) = (math::pow(x, y), x.powf(y));
            assert!(((value - exact) / exact).abs() < 1e-13, "{x}^{y} = {value}, not {exact}");
        }
    }
    assert_eq!(math::pow(7.0, 0.0), 1.0);
}

#[test]
fn sin_and_cos_keep_12_decimals() {
    let far = f64::from(1 << 30);
    for x in sweep(-20.0, 20.0, 400_009).chain(sweep(-far, far, 1_000_003)) {
        let (sin, cos) = math::sin_cos(x);
        assert!((sin - x.sin()).abs() < 1e-12, "sin {x} = {sin}, not {}", x.sin());
        assert!((cos - x.cos()).abs() < 1e-12, "cos {x} = {cos}, not {}", x.cos());
    }
    assert_eq!(math::sin_cos(0.0), (0.0, 1.0));
}
