//! Fewer points that look the same, and smoother ones.

/// A point of a line: step and value.
pub(super) type Point = (f64, f64);

/// At most about `most` points that draw the same picture: of each stretch the lowest and the highest, as they come, so
/// that a spike of a single step is still seen.
pub(super) fn thinned(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(most / 2);
    let ends = |points: &[Point]| {
        let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let (low, high) = (points.iter().min_by(by_value), points.iter().max_by(by_value));
        let mut ends: Vec<Point> = low.into_iter().chain(high).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        ends
    };
    points.chunks(stretch).flat_map(ends).collect()
}

/// How many points a smoothed one is the mean of; less than 3 is not smooth.
pub(super) fn width(points: usize) -> usize {
    (points / 25) | 1
}

/// Each point with the mean of the `width` values around it. Near the start, where a curve is steep, it is of fewer, though
/// never of a single one; near the end of those that there are.
pub(super) fn smoothed(points: &[Point], width: usize) -> Vec<Point> {
    let mut sums = vec![0.0];
    for point in points {
        sums.push(sums[sums.len() - 1] + point.1);
    }
    let smooth = |(index, point): (usize, &Point)| {
        let reach = (width / 2).min(index.max(width / 8));
        let (first, end) = (index.saturating_sub(reach), (index + reach + 1).min(points.len()));
        (point.0, (sums[end] - sums[first]) / (end - first) as f64)
    };
    points.iter().enumerate().map(smooth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_survives_thinning() {
        let mut points: Vec<Point> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 10))).collect();
        points[5003].1 = 100.0;
        let thin = thinned(&points, 600);
        assert!(thin.len() <= 602 && thin.len() > 300, "{}", thin.len());
        assert!(thin.contains(&(5003.0, 100.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thinned(&points[..600], 600), points[..600]);
    }

    #[test]
    fn smoothing_takes_noise_and_leaves_lines() {
        let line: Vec<Point> = (0..100).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        let smooth = smoothed(&line, 9);
        assert!(smooth[1..96].iter().zip(&line[1..]).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9));
        let noise: Vec<Point> = (0..99).map(|i| (f64::from(i), f64::from(i % 3))).collect();
        assert!(smoothed(&noise, 9)[4..95].iter().all(|point| (point.1 - 1.0).abs() < 1e-9));
        assert_eq!(smoothed(&noise, 9)[98].1, 6.0 / 5.0);
        assert_eq!(smoothed(&[], 9), []);
        assert_eq!((width(1), width(24), width(1000)), (1, 1, 41));
    }
}
