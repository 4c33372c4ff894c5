//! AdamW with a state of 8 bits (Dettmers et al., arXiv 2110.02861), as bitsandbytes has it: a quarter of the memory.
//!
//! Moments rest in blocks of 256: a code for each element, and the largest magnitude of the block (`absmax`) in f32. A
//! code stands for a level of the dynamic map times `absmax`: from −1 to 1 for the first moment, from 0 to 1 for the second.
//! A step decodes a block, takes the step of [`AdamW`](super::AdamW), and encodes to the nearest levels. Tensors with
//! fewer than 4096 elements keep their state in f32, where there is little to save.
//!
//! Two deviations. The graphics cards' code of bitsandbytes rounds a negative first moment that is nearest to 0 away from
//! it; here, as in its code for processors, the nearest level is taken. And what cannot be is mended: whatever the
//! gradients were, |m| is at most a multiple of √v that β₁ and β₂ tell, so a first moment beyond that, beside a second
//! one that was rounded to less or to 0, is taken at the bound. Otherwise a gradient of 0 would divide it by ε.

use bouquet_kernels::weight::dynamic::{LEVELS, nearest, signed_map, unsigned_map};

use super::adamw::{Moments, Rule, check_count, first_moment, second_moment};
use super::{
    AdamWSettings, Optimizer, Rate, State, StateTensor, codes_of, floats_of, nothing_else, step_of, step_tensor,
};

/// Elements that share an `absmax`.
const BLOCK: usize = 256;

/// Tensors with fewer elements have a state in f32.
const SMALLEST_IN_CODES: usize = 4096;

/// AdamW with two bytes of state per parameter, and 8 more for each 256.
#[derive(Clone, Debug)]
pub struct AdamW8bit {
    settings: AdamWSettings,
    step: u64,
    tensors: Vec<Tensor>,
    signed: [f32; LEVELS],
    unsigned: [f32; LEVELS],
}

#[derive(Clone, Debug)]
enum Tensor {
    Floats(Moments),
    Codes { first: Codes, second: Codes },
}

impl AdamW8bit {
    /// For tensors of so many elements each. Panics on settings that [`AdamWSettings::check`] refuses.
    pub fn new(settings: AdamWSettings, lengths: &[usize]) -> AdamW8bit {
        settings.check().unwrap_or_else(|error| panic!("{error}"));
        let (signed, unsigned) = (signed_map(), unsigned_map());
        let tensor = |&length: &usize| match length < SMALLEST_IN_CODES {
            true => Tensor::Floats(Moments::zeros(length)),
            false => Tensor::Codes { first: Codes::zeros(&signed, length), second: Codes::zeros(&unsigned, length) },
        };
        let tensors = lengths.iter().map(tensor).collect();
        AdamW8bit { settings, step: 0, tensors, signed, unsigned }
    }
}

impl Optimizer for AdamW8bit {
    fn step(&mut self, parameters: &mut [&mut [f32]], gradients: &[&[f32]], rates: &[Rate]) {
        check_count(self.tensors.len(), parameters, gradients, rates);
        self.step += 1;
        let rule = Rule::new(&self.settings, self.step);
        let bound = largest_ratio(&self.settings);
        let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            let (parameters, gradients, rate) = (&mut *parameters[index], gradients[index], rates[index]);
            let (first, second) = match tensor {
                Tensor::Floats(moments) => {
                    moments.step(&rule, parameters, gradients, rate);
                    continue;
                }
                Tensor::Codes { first, second } => (first, second),
            };
            let lengths = (parameters.len(), gradients.len());
            assert_eq!(lengths, (first.codes.len(), first.codes.len()), "elements of parameter and gradient");
            let blocks = parameters.chunks_mut(BLOCK).zip(gradients.chunks(BLOCK));
            for (block, (parameters, gradients)) in blocks.enumerate() {
                let (m, v) = (&mut m[..parameters.len()], &mut v[..parameters.len()]);
                first.decode(&self.signed, block, m);
                second.decode(&self.unsigned, block, v);
                for (m, v) in m.iter_mut().zip(&*v) {
                    let most = bound * v.sqrt();
                    *m = m.max(-most).min(most);
                }
                rule.update(parameters, gradients, m, v, rate);
                first.encode(&self.signed, block, m);
                second.encode(&self.unsigned, block, v);
            }
        }
    }

    fn state(&self) -> State {
        let tensors = self.tensors.iter().enumerate().flat_map(|(index, tensor)| match tensor {
            Tensor::Floats(moments) => moments.state(index),
            Tensor::Codes { first, second } => {
                [first.state(&first_moment(index)), second.state(&second_moment(index))].concat()
            }
        });
        tensors.chain([step_tensor(self.step)]).collect()
    }

    fn restore(&mut self, state: &State) -> Result<(), String> {
        let restored = |(index, tensor): (usize, &Tensor)| match tensor {
            Tensor::Floats(moments) => Ok(Tensor::Floats(moments.restored(state, index)?)),
            Tensor::Codes { first, second } => Ok(Tensor::Codes {
                first: first.restored(state, &first_moment(index))?,
                second: second.restored(state, &second_moment(index))?,
            }),
        };
        let tensors = self.tensors.iter().enumerate().map(restored).collect::<Result<_, String>>()?;
        let restored = AdamW8bit { step: step_of(state)?, tensors, ..*self };
        nothing_else(state, &restored.state())?;
        *self = restored;
        Ok(())
    }

    fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| match tensor {
            Tensor::Floats(moments) => moments.bytes(),
            Tensor::Codes { first, second } => first.bytes() + second.bytes(),
        };
        self.tensors.iter().map(bytes).sum()
    }
}

/// The largest `|m| / √v` that any gradients make, by the inequality of Cauchy and Schwarz; infinite where β₁² is not
/// below β₂ (then it grows from step to step). A step from moments within the bound is within it again.
fn largest_ratio(settings: &AdamWSettings) -> f32 {
    let AdamWSettings { beta1, beta2, .. } = settings;
    let shrinks = beta1 * beta1 / beta2;
    match shrinks < 1.0 {
        true => ((1.0 - beta1) * (1.0 - beta1) / ((1.0 - beta2) * (1.0 - shrinks))).sqrt() as f32,
        false => f32::INFINITY,
    }
}

/// A moment of a tensor, in codes.
#[derive(Clone, Debug)]
struct Codes {
    codes: Vec<u8>,
    /// The largest magnitude of each block.
    absmax: Vec<f32>,
}

impl Codes {
    fn zeros(map: &[f32; LEVELS], length: usize) -> Codes {
        Codes { codes: vec![nearest(map, 0.0); length], absmax: vec![0.0; length.div_ceil(BLOCK)] }
    }

    fn decode(&self, map: &[f32; LEVELS], block: usize, values: &mut [f32]) {
        let codes = &self.codes[block * BLOCK..][..values.len()];
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = map[usize::from(code)] * self.absmax[block];
        }
    }

    fn encode(&mut self, map: &[f32; LEVELS], block: usize, values: &[f32]) {
        let absmax = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        self.absmax[block] = absmax;
        // A block of zeros has nothing to divide by.
        let divisor = if absmax > 0.0 { absmax } else { 1.0 };
        for (code, value) in self.codes[block * BLOCK..].iter_mut().zip(values) {
            *code = nearest(map, value / divisor);
        }
    }

    fn state(&self, name: &str) -> [(String, StateTensor); 2] {
        [
            (format!("{name}.codes"), StateTensor::U8(self.codes.clone())),
            (format!("{name}.absmax"), StateTensor::F32(self.absmax.clone())),
        ]
    }

    fn restored(&self, state: &State, name: &str) -> Result<Codes, String> {
        let codes = codes_of(state, &format!("{name}.codes"), self.codes.len())?.to_vec();
        let absmax = floats_of(state, &format!("{name}.absmax"), self.absmax.len())?.to_vec();
        Ok(Codes { codes, absmax })
    }

    fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(&self.absmax[..])
    }
}

#[cfg(test)]
mod tests {
    use bouquet_kernels::math;

    use super::super::AdamW;
    use super::super::golden::Golden;
    use super::*;

    const RATE: Rate = Rate { learning_rate: 0.01, weight_decay: 0.01 };

    /// Codes of a tensor that may be one level off where the recorded program computed in f64: a value half way between
    /// two levels falls on one side here and on the other there.
    const CODES_OFF: usize = 1;

    /// How far a parameter may be from those that f64 moved; such a code moves its parameter by up to 1.3e-5 in all.
    const AGAINST_F64: f64 = 2e-5;

    /// What bitsandbytes loses in the same steps against a state in f32, as its manifest says, and what rounding adds.
    const AGAINST_F32: [f32; 5] = [3e-7, 5.5e-4, 9e-4, 1.3e-3, 1.52e-3];

    #[test]
    fn five_steps_have_the_nearest_codes() {
        let golden = Golden::load("compress/quant_bnb");
        let mut p = golden.floats("adamw8bit.w0");
        let mut optimizer = AdamW8bit::new(AdamWSettings::default(), &[p.len()]);
        for step in 1..=5 {
            optimizer.step(&mut [&mut p], &[&golden.floats(&format!("adamw8bit.grad{step}"))], &[RATE]);
            let Tensor::Codes { first, second } = &optimizer.tensors[0] else { panic!("a tensor of 8192 in floats") };
            for (moment, name) in [(first, "m"), (second, "v")] {
                let expected = golden.codes(&format!("exact.adamw8bit.{name}_codes{step}"));
                assert_eq!(expected.len(), moment.codes.len());
                let off = expected.iter().zip(&moment.codes).map(|(a, b)| a.abs_diff(*b));
                let off: Vec<u8> = off.filter(|&off| off > 0).collect();
                assert!(off.len() <= CODES_OFF && off.iter().all(|&off| off == 1), "step {step}, {name}: {off:?}");
                let expected = golden.doubles(&format!("exact.adamw8bit.{name}_absmax{step}"));
                assert_eq!(expected.len(), moment.absmax.len());
                for (expected, found) in expected.iter().zip(&moment.absmax) {
                    assert!((expected / f64::from(*found) - 1.0).abs() < 1e-6, "step {step}, {name}: {found}");
                }
            }
            let in_f32 = golden.floats(&format!("adamw8bit.w32_{step}"));
            let apart = in_f32.iter().zip(&p).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(apart < AGAINST_F32[step - 1], "step {step}: {apart:e}");
        }
        let in_f64 = golden.doubles("exact.adamw8bit.w5");
        let apart = in_f64.iter().zip(&p).fold(0.0f64, |most, (a, b)| most.max((a - f64::from(*b)).abs()));
        assert!(apart < AGAINST_F64, "{apart:e}");
    }

    /// Normal deviates (Box and Muller), the same ones for a seed.
    fn normal(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(state >> 8) + 0.5) / f64::from(1 << 24)
        };
        let deviate = |_| {
            let radius = (-2.0 * math::ln(uniform())).sqrt();
            (radius * math::sin_cos(std::f64::consts::TAU * uniform()).1) as f32
        };
        (0..count).map(deviate).collect()
    }

    /// What bitsandbytes asks of its own: 50 steps, each from the same parameters as one with a state in f32.
    #[test]
    fn fifty_steps_stay_close_to_a_state_in_f32() {
        const LENGTH: usize = 32 * 1024 + 77;
        let rate = Rate { learning_rate: 1e-3, weight_decay: 0.0 };
        let mut in_codes = AdamW8bit::new(AdamWSettings::default(), &[LENGTH]);
        let mut in_floats = AdamW::new(AdamWSettings::default(), &[LENGTH]);
        let mut p: Vec<f32> = normal(1, LENGTH).into_iter().map(|x| 0.1 * x).collect();
        for step in 0..50 {
            let g: Vec<f32> = normal(100 + step, LENGTH).into_iter().map(|x| 0.01 * x).collect();
            let mut q = p.clone();
            in_codes.step(&mut [&mut q], &[&g], &[rate]);
            in_floats.step(&mut [&mut p], &[&g], &[rate]);
            let errors = || p.iter().zip(&q).map(|(p, q)| (f64::from(p.abs()), f64::from((p - q).abs())));
            let mean = errors().map(|(_, error)| error).sum::<f64>() / LENGTH as f64;
            // One parameter that happens to be next to 0 could be all of the mean.
            let relative = errors().filter(|(size, _)| *size > 1e-4).map(|(size, error)| error / size);
            let relative = relative.sum::<f64>() / LENGTH as f64;
            assert!(mean < 6e-5 && relative < 6e-4, "step {step}: {mean:e}, {relative:e}");
        }
    }

    /// The second moment of the small gradient is too small for a code, its first moment is not: without the bound, the
    /// step after, which has no gradient, would be 10⁵ long.
    #[test]
    fn a_second_moment_rounded_to_zero_makes_no_giant_step() {
        let mut g = vec![0.0; SMALLEST_IN_CODES];
        (g[0], g[1]) = (1000.0, 0.1);
        let mut optimizer = AdamW8bit::new(AdamWSettings::default(), &[g.len()]);
        let mut p = vec![0.0; g.len()];
        optimizer.step(&mut [&mut p], &[&g], &[RATE]);
        let Tensor::Codes { first, second } = &optimizer.tensors[0] else { panic!("in floats") };
        assert!(first.codes[1] > first.codes[2] && second.codes[1] == 0);
        g.fill(0.0);
        optimizer.step(&mut [&mut p], &[&g], &[RATE]);
        assert!(p.iter().all(|p| p.abs() < 0.1), "{:?}", &p[..2]);
    }

    #[test]
    fn small_tensors_have_their_state_in_f32() {
        let lengths = [SMALLEST_IN_CODES - 1, 0];
        let mut in_codes = AdamW8bit::new(AdamWSettings::default(), &lengths);
        let mut in_floats = AdamW::new(AdamWSettings::default(), &lengths);
        let (mut p, mut q, g) = (normal(1, lengths[0]), normal(1, lengths[0]), normal(2, lengths[0]));
        in_codes.step(&mut [&mut p, &mut []], &[&g, &[]], &[RATE; 2]);
        in_floats.step(&mut [&mut q, &mut []], &[&g, &[]], &[RATE; 2]);
        assert_eq!(p, q);
        assert_eq!(in_codes.state(), in_floats.state());
    }

    #[test]
    fn a_restored_state_goes_on_to_the_same_bits() {
        const LENGTHS: [usize; 2] = [SMALLEST_IN_CODES + 13, 5];
        let new = || AdamW8bit::new(AdamWSettings::default(), &LENGTHS);
        let start = || LENGTHS.map(|length| normal(9, length));
        let run = |optimizer: &mut AdamW8bit, p: &mut [Vec<f32>; 2], steps: std::ops::Range<u32>| {
            for step in steps {
                let g = LENGTHS.map(|length| normal(step, length));
                let [a, b] = &mut *p;
                optimizer.step(&mut [a, b], &[&g[0], &g[1]], &[RATE; 2]);
            }
        };
        let (mut undisturbed, mut p) = (new(), start());
        run(&mut undisturbed, &mut p, 0..6);
        let (mut stopped, mut q) = (new(), start());
        run(&mut stopped, &mut q, 0..3);
        let mut resumed = new();
        resumed.restore(&stopped.state()).unwrap();
        run(&mut resumed, &mut q, 3..6);
        assert_eq!(p, q);
        assert_eq!(undisturbed.state(), resumed.state());
        // Two codes each, and two absmax for each of 17 blocks; five in floats.
        assert_eq!(resumed.bytes(), 2 * LENGTHS[0] + 2 * 17 * 4 + 5 * 8);
    }

    #[test]
    fn states_of_others_are_refused() {
        let mut optimizer = AdamW8bit::new(AdamWSettings::default(), &[SMALLEST_IN_CODES]);
        let in_floats = AdamW::new(AdamWSettings::default(), &[SMALLEST_IN_CODES]).state();
        assert!(optimizer.restore(&in_floats).unwrap_err().contains("no `first_moment.0.codes`"));
        let mut short = optimizer.state();
        short.insert("second_moment.0.absmax".into(), StateTensor::F32(vec![0.0]));
        assert!(optimizer.restore(&short).unwrap_err().contains("has 1 floats, not 16 floats"));
    }
}
