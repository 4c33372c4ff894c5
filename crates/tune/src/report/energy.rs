//! What electricity a run took and what that emitted: an estimate, and how far off it may be.
//!
//! ```text
//! energy = processor seconds × watts for a busy core        emissions = energy × grams of CO₂ for a kilowatt-hour
//! ```
//!
//! Nothing is measured: most systems let only their administrator read the meters of a processor, and many have none. The
//! watts of a core are of data sheets: 4 for a laptop's or an efficient server's, 15 for a desktop's with its memory and
//! power supply, 8 between them. The grams are of electricity grids, as Our World in Data has them from Ember: 30 where it
//! is water, wind and nuclear power (Sweden, France), 480 in the world's mean of 2023, 800 where it is coal.

/// Low, middle and high.
type Range = [f64; 3];

const WATTS_PER_CORE: Range = [4.0, 8.0, 15.0];
const GRAMS_PER_KWH: Range = [30.0, 480.0, 800.0];

/// An estimate: low, middle and high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    /// Electricity, in kilowatt-hours.
    pub kilowatt_hours: [f64; 3],
    /// Emissions, in grams of CO₂ (and what has the effect of it).
    pub grams_co2: [f64; 3],
}

impl Footprint {
    /// Of so many seconds of processor time, all cores together.
    pub fn of(cpu_seconds: f64) -> Footprint {
        let kilowatt_hours = WATTS_PER_CORE.map(|watts| cpu_seconds * watts / 3.6e6);
        let grams_co2 = std::array::from_fn(|index| kilowatt_hours[index] * GRAMS_PER_KWH[index]);
        Footprint { kilowatt_hours, grams_co2 }
    }

    /// What the numbers rest on, for readers of a report.
    pub(super) fn method() -> String {
        let [low, middle, high] = WATTS_PER_CORE;
        let [clean, mean, coal] = GRAMS_PER_KWH;
        format!(
            "This is an estimate; nothing was measured. Energy is processor time times the power of a busy core, taken as \
             {middle} W ({low} to {high} W, from an efficient server to a desktop with its power supply). Emissions are \
             energy times what a kilowatt-hour emits, taken as the world's mean of {mean} g CO₂ ({clean} g where it is \
             water, wind or nuclear power, {coal} g where it is coal). The range combines the low ends and the high ends. \
             What an idle machine takes, cooling, and making the machine are not in it."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_two_cores() {
        let Footprint { kilowatt_hours, grams_co2 } = Footprint::of(7200.0);
        assert_eq!(kilowatt_hours, [0.008, 0.016, 0.03]);
        assert!(grams_co2.iter().zip([0.24, 7.68, 24.0]).all(|(found, expected)| (found - expected).abs() < 1e-9));
        assert_eq!(Footprint::of(0.0).grams_co2, [0.0; 3]);
    }
}
