//! What the frequencies of Llama 3's rotary positions are divided by: in a `config.json` four numbers say it, in a GGUF file
//! the tensor `rope_freqs.weight` has the factors that come of them. Either way, the same model.

use std::f64::consts::PI;

use bouquet_kernels::ops::rope::frequencies;

/// The tensor.
pub(super) const NAME: &str = "rope_freqs.weight";

/// Relative difference between factors that were computed in f32 and in f64.
const TOLERANCE: f64 = 1e-4;

/// The length that Llama 3 was trained with: most files do not say.
const TRAINED_TOKENS: usize = 8192;

/// The four numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) trained_tokens: usize,
}

impl Llama3 {
    /// What each frequency is divided by.
    pub(super) fn factors(self, theta: f64, head_dim: usize) -> Vec<f32> {
        let trained = self.trained_tokens as f64;
        let factor = |frequency: f32| {
            let wavelength = 2.0 * PI / f64::from(frequency);
            if wavelength < trained / self.high {
                return 1.0;
            } else if wavelength > trained / self.low {
                return self.factor as f32;
            }
            let share = (trained / wavelength - self.low) / (self.high - self.low);
            (1.0 / ((1.0 - share) / self.factor + share)) as f32
        };
        frequencies(head_dim, theta).into_iter().map(factor).collect()
    }

    /// The numbers that make these factors, where there are such ones: those of Llama 3, or the line through the factors
    /// between the first and the largest.
    pub(super) fn of_factors(factors: &[f32], theta: f64, trained_tokens: Option<usize>) -> Option<Llama3> {
        let (head_dim, trained_tokens) = (2 * factors.len(), trained_tokens.unwrap_or(TRAINED_TOKENS));
        let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
        let usual = Llama3 { factor, low: 1.0, high: 4.0, trained_tokens };
        let fitted = || {
            let between: Vec<(f64, f64)> = frequencies(head_dim, theta)
                .into_iter()
                .zip(factors)
                .map(|(frequency, &found)| (f64::from(frequency) / (2.0 * PI), f64::from(found)))
                .filter(|&(_, found)| found > 1.0 + TOLERANCE && found < factor * (1.0 - TOLERANCE))
                .map(|(turns, found)| (turns, (1.0 / found - 1.0 / factor) / (1.0 - 1.0 / factor)))
                .collect();
            let (&(first, most), &(last, least)) = (between.first()?, between.last()?);
            let slope = (most - least) / (first - last);
            let width = trained_tokens as f64 / slope;
            let low = width * (slope * first - most);
            let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
            Some(Llama3 { factor, low: rounded(low), high: rounded(low + width), trained_tokens })
        };
        let makes_them = |numbers: &Llama3| {
            let valid = numbers.low > 0.0 && numbers.high > numbers.low && numbers.high.is_finite();
            let close = |(a, b): (&f32, f32)| f64::from((a - b).abs()) <= TOLERANCE * f64::from(b);
            valid && factors.iter().zip(numbers.factors(theta, head_dim)).all(close)
        };
        Some(usual).filter(makes_them).or_else(|| fitted().filter(makes_them))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_tell_the_numbers_that_made_them() {
        for (factor, low, high, trained, said) in [
            (8.0, 1.0, 4.0, 8192, None),
            (32.0, 1.0, 4.0, 8192, None),
            (16.0, 1.0, 4.0, 4096, Some(4096)),
            (8.0, 0.5, 6.0, 8192, None),
            (4.0, 1.25, 8.5, 2048, Some(2048)),
        ] {
            let made = Llama3 { factor, low, high, trained_tokens: trained };
            let factors = made.factors(500_000.0, 64);
            assert_eq!(Llama3::of_factors(&factors, 500_000.0, said), Some(made));
        }
    }

    #[test]
    fn factors_of_another_kind_are_no_llama_3() {
        let odd: Vec<f32> = (0..32).map(|pair| 1.0 + (pair % 5) as f32).collect();
        assert_eq!(Llama3::of_factors(&odd, 10_000.0, None), None);
        assert_eq!(Llama3::of_factors(&[0.5; 32], 10_000.0, None), None);
    }
}
