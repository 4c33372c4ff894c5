//! Whitened embeddings against their covariance, NumPy, and what cannot be whitened.

use bouquet_kernels::Cpu;
use proptest::prelude::*;

use super::*;

/// Sentences whose channels have other means and variances, and lean on each other.
fn leaning(sentences: usize, channels: usize, seed: u64) -> Matrix {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut rows = Matrix::zeros(sentences, channels);
    for row in 0..sentences {
        let mut before = 0.0;
        for (channel, x) in rows.row_mut(row).iter_mut().enumerate() {
            before = 0.6 * before + next() * (1.0 + channel as f32 % 3.0);
            *x = before + channel as f32;
        }
    }
    rows
}

fn covariance(rows: MatrixView<'_>) -> Square {
    let mut covariance = Square::zeros(rows.cols());
    add_covariance(&mut covariance, rows, &mean(rows), &Limits::default()).unwrap();
    covariance
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whitened_channels_tell_nothing_of_each_other(channels in 1usize..20, more in 40usize..200, seed: u64) {
        let rows = leaning(channels + more, channels, seed);
        let dense = fit(rows.view(), 0.0, &Limits::default()).unwrap();
        let white = dense.forward(&Cpu::new(2), rows.view());
        for (channel, mean) in mean(white.view()).into_iter().enumerate() {
            prop_assert!(mean.abs() < 1e-4, "the mean of channel {channel} is {mean}");
        }
        let covariance = covariance(white.view());
        for i in 0..channels {
            for (j, &found) in covariance.row(i).iter().enumerate().skip(i) {
                let expected = if i == j { 1.0 } else { 0.0 };
                prop_assert!((found - expected).abs() < 1e-4, "{i}, {j}: {found}");
            }
        }
    }
}

/// What NumPy makes of the same numbers: `inv(cholesky(cov(x.T, bias=True) + λ I))`, in f64.
#[test]
fn vectors_are_those_of_numpy() {
    let number = |i: usize| ((i * i * 37 + 11 * i) % 29) as f32 / 8.0 - 1.625;
    let rows = Matrix::from_vec(9, 4, (0..36).map(number).collect());
    let dense = fit(rows.view(), RATIO, &Limits::default()).unwrap();
    let white = dense.forward(&Cpu::new(1), rows.view());
    #[rustfmt::skip]
    let expected = [
        -1.560327, -0.339751, 1.248098, -0.224435,
        1.036656, 1.03892, -1.201288, -1.049465,
        0.363364, 0.685933, -0.556678, 1.230338,
        -0.790851, -0.433675, -0.560591, 1.128304,
        0.363364, -1.354865, -1.125507, -0.027536,
        1.036656, 0.438685, 1.334965, 1.086589,
        -1.560327, 0.500577, -0.770641, -0.489031,
        0.940471, -1.755437, 0.636432, -0.647652,
        0.170995, 1.219613, 0.99521, -1.007113,
    ];
    for (index, (found, expected)) in white.data().iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-5, "{index}: {found}, not {expected}");
    }
}

#[test]
fn a_direction_in_which_sentences_hardly_differ_does_not_become_loud() {
    let mut rows = leaning(50, 3, 1);
    for row in 0..50 {
        rows.row_mut(row)[2] = if row == 0 { 1e-6 } else { 0.0 };
    }
    let dense = fit(rows.view(), RATIO, &Limits::default()).unwrap();
    let white = dense.forward(&Cpu::new(1), rows.view());
    assert!((0..50).all(|row| white.row(row)[2].abs() < 1e-4));
}

#[test]
fn what_cannot_be_whitened_is_told() {
    let told = |rows: &Matrix, ratio| fit(rows.view(), ratio, &Limits::default()).unwrap_err().to_string();
    assert!(told(&leaning(5, 5, 1), RATIO).contains("5 channels need more different sentences"));
    assert!(told(&Matrix::zeros(9, 3), RATIO).contains("hardly differ"));
    let mut same = leaning(9, 3, 1);
    (0..9).for_each(|row| same.row_mut(row)[1] = 4.0);
    assert!(told(&same, 0.0).contains("hardly differ"));
    let mut rows = leaning(9, 3, 1);
    rows.row_mut(4)[1] = f32::INFINITY;
    assert!(told(&rows, RATIO).contains("not finite"));
    rows.row_mut(4)[1] = f32::MAX;
    assert!(fit(rows.view(), RATIO, &Limits::default()).is_ok());
    let stopped = Limits::default();
    stopped.cancel.cancel();
    assert!(matches!(fit(leaning(9, 3, 1).view(), RATIO, &stopped), Err(EmbedError::Model(_))));
}
