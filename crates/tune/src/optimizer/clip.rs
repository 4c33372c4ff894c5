//! Gradients that are too long together are shortened together.

/// Scales all gradients by one factor so that their norm together is at most about `max_norm`, and returns the norm that
/// they had. The factor is PyTorch's: `max_norm / (norm + 10⁻⁶)` where that is below 1. Squares are summed in f64,
/// tensors in order and their elements in order. Gradients whose norm is not finite stay as they are.
pub fn clip_by_global_norm(gradients: &mut [&mut [f32]], max_norm: f32) -> f64 {
    let squares = gradients.iter().flat_map(|tensor| tensor.iter()).map(|&x| f64::from(x) * f64::from(x));
    let norm = squares.fold(0.0, |sum, square| sum + square).sqrt();
    let factor = f64::from(max_norm) / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        let factor = factor as f32;
        gradients.iter_mut().flat_map(|tensor| tensor.iter_mut()).for_each(|x| *x *= factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_are_shortened_together() {
        let (mut a, mut b) = (vec![3.0, 0.0], vec![-4.0]);
        assert_eq!(clip_by_global_norm(&mut [&mut a, &mut b], 1.0), 5.0);
        let factor = (1.0 / (5.0 + 1e-6)) as f32;
        assert_eq!((a, b), (vec![3.0 * factor, 0.0], vec![-4.0 * factor]));
    }

    #[test]
    fn short_gradients_stay_as_they_are() {
        let mut a = vec![3.0, 4.0];
        assert_eq!(clip_by_global_norm(&mut [&mut a, &mut []], 5.1), 5.0);
        assert_eq!(a, [3.0, 4.0]);
        assert_eq!(clip_by_global_norm(&mut [&mut [0.0, 0.0]], 1.0), 0.0);
    }

    #[test]
    fn what_is_not_finite_shows_in_the_norm_alone() {
        let mut a = vec![1.0, f32::INFINITY];
        assert!(clip_by_global_norm(&mut [&mut a], 1.0).is_infinite());
        assert_eq!(a, [1.0, f32::INFINITY]);
        assert!(clip_by_global_norm(&mut [&mut [f32::NAN]], 1.0).is_nan());
        // In f64 the square of the largest f32 is finite.
        assert!(clip_by_global_norm(&mut [&mut [f32::MAX]], 1.0).is_finite());
    }
}
