//! AdamW (Loshchilov and Hutter, arXiv 1711.05101), its state in f32.
//!
//! ```text
//! p ← p (1 − η λ)                      η learning rate, λ weight decay
//! m ← β₁ m + (1 − β₁) g                first moment
//! v ← β₂ v + (1 − β₂) g²               second moment
//! p ← p − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)      at step t, counted from 1
//! ```
//!
//! in this order, as PyTorch has it. What is the same for all elements is computed in f64 and rounded once.

use super::{Optimizer, Rate, State, StateTensor, floats_of, nothing_else, step_of, step_tensor};

/// What AdamW can be told, with the defaults of PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// β₁: how long gradients are remembered, from 0 to less than 1.
    pub beta1: f64,
    /// β₂: how long their squares are, from 0 to less than 1.
    pub beta2: f64,
    /// ε: what keeps the division sane; positive.
    pub epsilon: f64,
}

impl Default for AdamWSettings {
    fn default() -> AdamWSettings {
        AdamWSettings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

impl AdamWSettings {
    /// # Errors
    /// What cannot be, in words.
    pub fn check(&self) -> Result<(), String> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("{name} is {beta}; it has to be from 0 to less than 1"));
            }
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(format!("epsilon is {}; it has to be positive", self.epsilon));
        }
        Ok(())
    }
}

/// AdamW with two floats of state per parameter.
#[derive(Clone, Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    step: u64,
    moments: Vec<Moments>,
}

impl AdamW {
    /// For tensors of so many elements each. Panics on settings that [`AdamWSettings::check`] refuses.
    pub fn new(settings: AdamWSettings, lengths: &[usize]) -> AdamW {
        settings.check().unwrap_or_else(|error| panic!("{error}"));
        AdamW { settings, step: 0, moments: lengths.iter().map(|&length| Moments::zeros(length)).collect() }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, parameters: &mut [&mut [f32]], gradients: &[&[f32]], rates: &[Rate]) {
        check_count(self.moments.len(), parameters, gradients, rates);
        self.step += 1;
        let rule = Rule::new(&self.settings, self.step);
        for (index, moments) in self.moments.iter_mut().enumerate() {
            moments.step(&rule, parameters[index], gradients[index], rates[index]);
        }
    }

    fn state(&self) -> State {
        let moments = self.moments.iter().enumerate().flat_map(|(index, moments)| moments.state(index));
        moments.chain([step_tensor(self.step)]).collect()
    }

    fn restore(&mut self, state: &State) -> Result<(), String> {
        let moments = self.moments.iter().enumerate();
        let moments = moments.map(|(index, moments)| moments.restored(state, index)).collect::<Result<_, _>>()?;
        let restored = AdamW { settings: self.settings, step: step_of(state)?, moments };
        nothing_else(state, &restored.state())?;
        *self = restored;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.moments.iter().map(Moments::bytes).sum()
    }
}

/// The lists of a step are as long as the optimizer's.
pub(super) fn check_count(tensors: usize, parameters: &[&mut [f32]], gradients: &[&[f32]], rates: &[Rate]) {
    let found = (parameters.len(), gradients.len(), rates.len());
    assert_eq!(found, (tensors, tensors, tensors), "the number of parameters, gradients and rates");
}

/// Both moments of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Moments {
    pub(super) fn zeros(length: usize) -> Moments {
        Moments { first: vec![0.0; length], second: vec![0.0; length] }
    }

    pub(super) fn step(&mut self, rule: &Rule, parameters: &mut [f32], gradients: &[f32], rate: Rate) {
        rule.update(parameters, gradients, &mut self.first, &mut self.second, rate);
    }

    /// As they are saved, of the tensor at `index` of the list.
    pub(super) fn state(&self, index: usize) -> Vec<(String, StateTensor)> {
        vec![
            (first_moment(index), StateTensor::F32(self.first.clone())),
            (second_moment(index), StateTensor::F32(self.second.clone())),
        ]
    }

    /// What was saved, for a tensor of this length.
    pub(super) fn restored(&self, state: &State, index: usize) -> Result<Moments, String> {
        let first = floats_of(state, &first_moment(index), self.first.len())?.to_vec();
        let second = floats_of(state, &second_moment(index), self.second.len())?.to_vec();
        Ok(Moments { first, second })
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.first[..]) + size_of_val(&self.second[..])
    }
}

pub(super) fn first_moment(index: usize) -> String {
    format!("first_moment.{index}")
}

pub(super) fn second_moment(index: usize) -> String {
    format!("second_moment.{index}")
}

/// The update of a step, the same for all tensors.
pub(super) struct Rule {
    beta1: f32,
    /// 1 − β₁.
    gain1: f32,
    beta2: f32,
    /// 1 − β₂.
    gain2: f32,
    epsilon: f32,
    /// 1 − β₁ᵗ.
    correction1: f64,
    /// √(1 − β₂ᵗ).
    correction2: f32,
}

impl Rule {
    /// Of step `step`, counted from 1.
    pub(super) fn new(settings: &AdamWSettings, step: u64) -> Rule {
        Rule {
            beta1: settings.beta1 as f32,
            gain1: (1.0 - settings.beta1) as f32,
            beta2: settings.beta2 as f32,
            gain2: (1.0 - settings.beta2) as f32,
            epsilon: settings.epsilon as f32,
            correction1: 1.0 - power(settings.beta1, step),
            correction2: (1.0 - power(settings.beta2, step)).sqrt() as f32,
        }
    }

    /// New parameters and moments from a gradient, all of one length. Panics on others.
    pub(super) fn update(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rate: Rate) {
        assert_eq!(
            (p.len(), g.len(), v.len()),
            (m.len(), m.len(), m.len()),
            "elements of parameter, gradient and state"
        );
        let learning_rate = f64::from(rate.learning_rate);
        let keep = (1.0 - learning_rate * f64::from(rate.weight_decay)) as f32;
        let size = (learning_rate / self.correction1) as f32;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = self.beta1 * *m + self.gain1 * g;
            *v = self.beta2 * *v + self.gain2 * g * g;
            *p = *p * keep - size * (*m / (v.sqrt() / self.correction2 + self.epsilon));
        }
    }
}

/// An integer power, by squaring: the standard library's may round differently from machine to machine.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut power, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            power *= square;
        }
        square *= square;
        left >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::super::golden::Golden;
    use super::*;

    const RATE: Rate = Rate { learning_rate: 0.01, weight_decay: 0.01 };

    /// In norm, of a tensor: f32 rounds differently here and in PyTorch.
    const AGAINST_TORCH: f64 = 1e-6;

    /// The first step that PEFT and PyTorch take on an adapter, from their gradient.
    #[test]
    fn a_step_is_that_of_pytorch() {
        for (model, objective) in ["bloom-tiny", "llama-tiny"].into_iter().flat_map(|m| [(m, "clm"), (m, "mnrl")]) {
            let golden = Golden::load(&format!("lora/{model}"));
            let of = |kind: &str| golden.floats_below(&format!("lora.{objective}.{kind}."));
            let (mut parameters, gradients, expected) = (of("init"), of("grad"), of("step1"));
            assert!(parameters.len() >= 4);
            let lengths: Vec<usize> = parameters.iter().map(|(_, tensor)| tensor.len()).collect();
            let mut optimizer = AdamW::new(AdamWSettings::default(), &lengths);
            let mut slices: Vec<&mut [f32]> = parameters.iter_mut().map(|(_, tensor)| &mut tensor[..]).collect();
            let gradients: Vec<&[f32]> = gradients.iter().map(|(_, tensor)| &tensor[..]).collect();
            optimizer.step(&mut slices, &gradients, &vec![RATE; lengths.len()]);
            for ((name, found), (expected_name, expected)) in parameters.iter().zip(&expected) {
                assert_eq!(name, expected_name);
                let norm = |xs: &mut dyn Iterator<Item = f64>| xs.map(|x| x * x).sum::<f64>().sqrt();
                let apart = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
                let size = norm(&mut expected.iter().map(|x| f64::from(*x)));
                assert!(apart <= AGAINST_TORCH * size, "{model} {objective} {name}: {apart:e} of {size}");
            }
        }
    }

    /// The formulas of the head of this file in f64, for an element and many steps.
    #[test]
    fn many_steps_follow_the_formulas() {
        let settings = AdamWSettings { beta1: 0.8, beta2: 0.95, epsilon: 1e-6 };
        let mut optimizer = AdamW::new(settings, &[1]);
        let (mut p, mut exact, mut m, mut v) = ([0.5f32], 0.5f64, 0.0f64, 0.0f64);
        for t in 1..=60 {
            let g = ((t * 7 % 11) as f32 - 4.0) / 8.0;
            let rate = Rate { learning_rate: 0.02 / t as f32, weight_decay: 0.1 };
            optimizer.step(&mut [&mut p], &[&[g]], &[rate]);
            let (eta, lambda, g) = (f64::from(rate.learning_rate), f64::from(rate.weight_decay), f64::from(g));
            exact *= 1.0 - eta * lambda;
            m = 0.8 * m + 0.2 * g;
            v = 0.95 * v + 0.05 * g * g;
            let corrected = (v / (1.0 - 0.95f64.powi(t))).sqrt();
            exact -= eta * (m / (1.0 - 0.8f64.powi(t))) / (corrected + 1e-6);
            assert!((f64::from(p[0]) - exact).abs() < 1e-6, "step {t}: {} and {exact}", p[0]);
        }
    }

    #[test]
    fn a_restored_state_goes_on_to_the_same_bits() {
        let gradient = |step: usize| -> Vec<f32> { (0..9).map(|i| ((i * 5 + step * 3) % 7) as f32 - 3.0).collect() };
        let run = |optimizer: &mut AdamW, p: &mut [f32], steps: std::ops::Range<usize>| {
            steps.for_each(|step| optimizer.step(&mut [&mut *p], &[&gradient(step)], &[RATE]));
        };
        let (mut undisturbed, mut p) = (AdamW::new(AdamWSettings::default(), &[9]), vec![0.1; 9]);
        run(&mut undisturbed, &mut p, 0..10);
        let (mut stopped, mut q) = (AdamW::new(AdamWSettings::default(), &[9]), vec![0.1; 9]);
        run(&mut stopped, &mut q, 0..4);
        let mut resumed = AdamW::new(AdamWSettings::default(), &[9]);
        resumed.restore(&stopped.state()).unwrap();
        run(&mut resumed, &mut q, 4..10);
        assert_eq!(p, q);
        assert_eq!(undisturbed.state(), resumed.state());
        assert_eq!(resumed.bytes(), 9 * 8);
    }

    #[test]
    fn states_of_others_are_refused_and_change_nothing() {
        let mut optimizer = AdamW::new(AdamWSettings::default(), &[2, 3]);
        let state = |lengths: &[usize]| AdamW::new(AdamWSettings::default(), lengths).state();
        for lengths in [&[2][..], &[3, 2], &[2, 3, 4]] {
            let error = optimizer.restore(&state(lengths)).unwrap_err();
            assert!(error.contains("_moment."), "{error}");
        }
        let mut bad = state(&[2, 3]);
        bad.insert(first_moment(1), StateTensor::F32(vec![0.0, f32::NAN, 0.0]));
        assert!(optimizer.restore(&bad).unwrap_err().contains("not finite"));
        bad.insert(first_moment(1), StateTensor::U8(vec![0; 3]));
        assert!(optimizer.restore(&bad).unwrap_err().contains("3 bytes, not 3 floats"));
        assert_eq!(optimizer.state(), state(&[2, 3]));
        optimizer.restore(&state(&[2, 3])).unwrap();
    }

    #[test]
    fn settings_that_cannot_be_are_told() {
        let settings = AdamWSettings::default();
        assert_eq!(settings.check(), Ok(()));
        assert!(AdamWSettings { beta1: 1.0, ..settings }.check().unwrap_err().contains("beta1"));
        assert!(AdamWSettings { beta2: f64::NAN, ..settings }.check().unwrap_err().contains("beta2"));
        assert!(AdamWSettings { epsilon: 0.0, ..settings }.check().unwrap_err().contains("epsilon"));
    }
}
