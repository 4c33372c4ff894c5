//! How well two rankings agree, in f64.

/// The correlation of Pearson: that of the numbers themselves, between -1 and 1. `None` where there is none: fewer than two
/// numbers, numbers that are all the same, or so large that their squares are none. Panics when there are not as many of both.
pub fn pearson(first: &[f64], second: &[f64]) -> Option<f64> {
    assert_eq!(first.len(), second.len(), "numbers to correlate");
    let count = first.len() as f64;
    let [mean_first, mean_second] = [first, second].map(|numbers| numbers.iter().sum::<f64>() / count);
    let (mut products, mut squares_first, mut squares_second) = (0.0, 0.0, 0.0);
    for (x, y) in first.iter().zip(second) {
        let (x, y) = (x - mean_first, y - mean_second);
        products += x * y;
        squares_first += x * x;
        squares_second += y * y;
    }
    let lengths = squares_first.sqrt() * squares_second.sqrt();
    (lengths > 0.0 && lengths.is_finite()).then(|| (products / lengths).clamp(-1.0, 1.0))
}

/// The correlation of Spearman: that of the ranks, where equal numbers share the mean of theirs. `None` as in [`pearson`].
pub fn spearman(first: &[f64], second: &[f64]) -> Option<f64> {
    pearson(&ranks(first), &ranks(second))
}

/// The rank of each number, from 1; equal ones have the mean of theirs.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    // -0 and +0 are one number, which total_cmp would tell apart.
    order.sort_by(|&a, &b| (numbers[a] + 0.0).total_cmp(&(numbers[b] + 0.0)));
    let mut ranks = vec![0.0; numbers.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&a, &b| numbers[a] == numbers[b]) {
        let mean = first as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&index| ranks[index] = mean);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_numbers_share_their_ranks() {
        assert_eq!(ranks(&[10.0, 20.0, 10.0, 5.0, 20.0, 20.0]), [2.5, 5.0, 2.5, 1.0, 5.0, 5.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
        assert!(ranks(&[]).is_empty());
    }

    /// The second pair is the example of scipy.stats.spearmanr.
    #[test]
    fn correlations_are_those_of_others() {
        let found = pearson(&[1.0, 2.0, 3.0, 4.0, 5.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 7.0, 7.5]).unwrap();
        assert!((found - 0.869_230_769_230_769_3).abs() < 1e-15, "{found}");
        let found = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((found - 0.820_782_681_668_123_3).abs() < 1e-15, "{found}");
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        for (x, y) in [(vec![], vec![]), (vec![1.0], vec![2.0]), (vec![1.0, 1.0], vec![1.0, 2.0])] {
            assert_eq!((pearson(&x, &y), spearman(&x, &y)), (None, None));
        }
        assert_eq!(pearson(&[f64::MAX, -f64::MAX], &[1.0, 2.0]), None);
    }

    proptest! {
        #[test]
        fn ranks_know_nothing_but_the_order(numbers in prop::collection::vec((-50i32..50, -50i32..50), 2..60)) {
            let x: Vec<f64> = numbers.iter().map(|pair| f64::from(pair.0)).collect();
            let y: Vec<f64> = numbers.iter().map(|pair| f64::from(pair.1)).collect();
            let cubes: Vec<f64> = x.iter().map(|x| x * x * x - 7.0).collect();
            let less: Vec<f64> = x.iter().map(|x| -x).collect();
            prop_assert_eq!(spearman(&x, &y), spearman(&cubes, &y));
            let opposite = spearman(&less, &y).map(|found| -found);
            match (spearman(&x, &y), opposite) {
                (Some(found), Some(opposite)) => prop_assert!((found - opposite).abs() < 1e-12),
                (found, opposite) => prop_assert_eq!(found, opposite),
            }
            // Where nothing ties, the textbook's formula holds.
            let mut distinct = x.clone();
            distinct.sort_by(f64::total_cmp);
            distinct.dedup();
            if distinct.len() == x.len() {
                let n = x.len() as f64;
                let itself = spearman(&x, &x).unwrap();
                prop_assert!((itself - 1.0).abs() < 1e-12 && n > 1.0);
            }
        }
    }
}
