//! The range of numbers that a chart shows, and the round ones among them that it names.

/// Whether a chart has a place for it: numbers that are not finite have none, nor those so large that ranges of them are not.
pub(super) fn shown(x: f64) -> bool {
    x.abs() < 1e100
}

/// A range, and round numbers in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    step: f64,
}

impl Axis {
    /// Of all `values` that are [`shown`]; from round number to round number with `round`. `None` where there are none.
    pub(super) fn around(values: impl Iterator<Item = f64>, round: bool) -> Option<Axis> {
        let range = values.filter(|x| shown(*x)).fold(None, |range: Option<(f64, f64)>, x| {
            Some(range.map_or((x, x), |(low, high)| (low.min(x), high.max(x))))
        });
        let (mut low, mut high) = range?;
        if high - low <= low.abs().max(high.abs()) * 1e-9 {
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / 5.0);
        if round {
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Some(Axis { low, high, step })
    }

    /// Where `x` is in the range, from 0 to 1.
    pub(super) fn place(&self, x: f64) -> f64 {
        (x - self.low) / (self.high - self.low)
    }

    /// Round numbers in the range, a few.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let ticks = (0..12).map(|index| (first + f64::from(index)) * self.step);
        ticks.take_while(|tick| *tick <= self.high + self.step * 1e-9).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        let axis = |values: &[f64], round| Axis::around(values.iter().copied(), round).unwrap();
        assert_eq!(axis(&[0.3, 4.7], true).ticks(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(axis(&[1.0, 1000.0], false).ticks(), [200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(axis(&[-35.0, 12.0], true).ticks(), [-40.0, -30.0, -20.0, -10.0, 0.0, 10.0, 20.0]);
    }

    #[test]
    fn ranges_of_a_point_and_of_hugely_different_numbers_work() {
        for values in [&[5.0][..], &[0.0], &[-2.0, -2.0], &[-1e99, 1e99, f64::MAX], &[1e-300, 2e-300], &[f64::NAN, 7.0]]
        {
            for round in [false, true] {
                let axis = Axis::around(values.iter().copied(), round).unwrap();
                let mut places = values.iter().filter(|x| shown(**x)).map(|x| axis.place(*x));
                assert!(places.all(|place| (-1e-9..=1.0 + 1e-9).contains(&place)), "{values:?} {axis:?}");
                assert!(axis.ticks().len() <= 12);
            }
        }
        assert_eq!(Axis::around([f64::NAN, f64::INFINITY].into_iter(), true), None);
    }
}
