//! Picks a token from logits.
//!
//! The steps and their order are those of Hugging Face's `generate`: the repetition penalty (Keskar et al. 2019, arXiv
//! 1909.05858), temperature, top-k, top-p (Holtzman et al. 2019, arXiv 1904.09751), min-p (Nguyen et al. 2024, arXiv
//! 2407.01082), then a draw from what is left. Temperature 0 takes the largest logit after the penalty.
//!
//! Deviations: a tie at the border of top-k goes to the lower ids, where Hugging Face keeps all of them; and the random
//! numbers are our own, so that a seed means the same on every machine: `u = (next u64 of ChaCha8 >> 11) · 2⁻⁵³`, and
//! the first token at which the running sum of the probabilities, in f64, exceeds `u` times their sum.

use std::borrow::Cow;
use std::cmp::Ordering;

use bouquet_kernels::ops::softmax::softmax;
use bouquet_kernels::{Cpu, MatrixViewMut};
use bouquet_model::generation_config::GenerationConfig;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{GenerateError, Result};

/// How a token is picked. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f32,
    /// Keeps the largest so many; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens up to and with the one at which their probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens with at least this share of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens less likely that were there before: divides their logits where positive, multiplies them where
    /// negative. 1 changes nothing.
    pub repetition_penalty: f32,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What transformers keeps for top-k where a checkpoint that samples does not say.
pub const DEFAULT_TOP_K: usize = 50;

/// Picks tokens, one after another.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
}

/// A token that can be picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub token_id: u32,
    /// Its probability among the candidates before top-p and min-p: those that these drop are missing from the sum.
    pub probability: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        SamplingOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingOptions {
    /// What a checkpoint asks for: greedy, unless it says `do_sample`.
    pub fn from_config(config: &GenerationConfig) -> Self {
        let greedy = SamplingOptions {
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            ..SamplingOptions::default()
        };
        if config.do_sample == Some(true) { greedy.sampling(config) } else { greedy }
    }

    /// The same, drawing: with what the checkpoint says about temperature, top-k, top-p and min-p, and what transformers
    /// assumes where it says nothing, which for top-k is [`DEFAULT_TOP_K`].
    pub fn sampling(self, config: &GenerationConfig) -> Self {
        SamplingOptions {
            temperature: config.temperature.unwrap_or(1.0),
            top_k: config.top_k.unwrap_or(DEFAULT_TOP_K),
            top_p: config.top_p.unwrap_or(1.0),
            min_p: config.min_p.unwrap_or(0.0),
            ..self
        }
    }

    /// Whether every number is one that makes sense.
    ///
    /// # Errors
    /// [`GenerateError::Option`] for the first that does not.
    pub fn validate(&self) -> Result<()> {
        let check = |name, value: f32, good: bool, expected| {
            if good { Ok(()) } else { Err(GenerateError::Option { name, expected, found: value.into() }) }
        };
        let SamplingOptions { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check("temperature", temperature, temperature.is_finite() && temperature >= 0.0, "0 or more")?;
        check("top_p", top_p, (0.0..=1.0).contains(&top_p), "between 0 and 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
        let penalty = repetition_penalty.is_finite() && repetition_penalty > 0.0;
        check("repetition_penalty", repetition_penalty, penalty, "above 0")
    }

    /// Whether the seed has no say.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    ///
    /// # Errors
    /// [`GenerateError::Option`] for a number that makes no sense.
    pub fn open(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        Ok(Sampler { random: ChaCha8Rng::seed_from_u64(options.seed), options })
    }

    /// Picks the token that follows `token_ids`, the prompt and all that was generated.
    ///
    /// # Errors
    /// [`GenerateError::LogitsNotFinite`] for a NaN, +∞, or −∞ alone.
    pub fn sample(&mut self, logits: &[f32], token_ids: &[u32]) -> Result<u32> {
        let logits = self.penalized(logits, token_ids)?;
        if self.options.is_greedy() {
            return Ok(largest(&logits));
        }
        let candidates = self.filtered(&logits);
        let sum: f64 = candidates.iter().map(|candidate| f64::from(candidate.probability)).sum();
        let target = sum * (self.random.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        let mut reached = 0.0;
        let drawn = candidates.iter().find(|candidate| {
            reached += f64::from(candidate.probability);
            reached > target
        });
        // The running sum ends at `sum`, which `target` is below.
        Ok(drawn.expect("the last running sum exceeds the target").token_id)
    }

    /// The tokens that can be picked after `token_ids`, the likeliest first; with temperature 0 the largest alone.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn candidates(&self, logits: &[f32], token_ids: &[u32]) -> Result<Vec<Candidate>> {
        let logits = self.penalized(logits, token_ids)?;
        if self.options.is_greedy() {
            return Ok(vec![Candidate { token_id: largest(&logits), probability: 1.0 }]);
        }
        let mut candidates = self.filtered(&logits);
        candidates.sort_unstable_by(by_number(|candidate: &Candidate| (candidate.probability, candidate.token_id)));
        Ok(candidates)
    }

    /// The logits with those of repeated tokens made smaller.
    fn penalized<'a>(&self, logits: &'a [f32], token_ids: &[u32]) -> Result<Cow<'a, [f32]>> {
        let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        // Looked at to the end, which lanes can, and once more for who is bad.
        let any_bad = logits.iter().fold(false, |any, logit| any | is_bad(logit));
        if any_bad || maximum(logits) == f32::NEG_INFINITY {
            return Err(GenerateError::LogitsNotFinite { token_id: logits.iter().position(is_bad).unwrap_or(0) });
        }
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return Ok(Cow::Borrowed(logits));
        }
        let mut penalized = logits.to_vec();
        for &id in token_ids {
            // From the untouched logits: a token that was there twice is not penalized twice.
            let Some(&logit) = logits.get(id as usize) else { continue };
            penalized[id as usize] = if logit < 0.0 { logit * penalty } else { logit / penalty };
        }
        Ok(Cow::Owned(penalized))
    }

    /// Temperature and the filters; the probabilities are not made to sum to 1 again after top-p and min-p.
    fn filtered(&self, logits: &[f32]) -> Vec<Candidate> {
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let max = maximum(logits);
        // Relative to the largest, so that a tiny temperature cannot overflow.
        let scaled: Vec<f32> = logits.iter().map(|logit| (logit - max) / temperature).collect();
        // `probability` holds a logit until the softmax.
        let mut candidates = best(&scaled, if top_k == 0 { usize::MAX } else { top_k });
        let order = by_number(|candidate: &Candidate| (candidate.probability, candidate.token_id));
        if top_k > 0 || top_p < 1.0 {
            candidates.sort_unstable_by(order);
        }
        let mut probabilities: Vec<f32> = candidates.iter().map(|candidate| candidate.probability).collect();
        softmax(&Cpu::new(1), MatrixViewMut::new(1, candidates.len(), &mut probabilities));
        for (candidate, probability) in candidates.iter_mut().zip(probabilities) {
            candidate.probability = probability;
        }
        if top_p < 1.0 {
            candidates.truncate(nucleus(&candidates, f64::from(top_p)));
        }
        if min_p > 0.0 {
            let best = candidates.iter().map(|candidate| candidate.probability).fold(0.0, f32::max);
            candidates.retain(|candidate| candidate.probability >= min_p * best);
        }
        candidates
    }
}

/// How many of the likeliest tokens it takes to reach `top_p`, the one that reaches it included.
fn nucleus(candidates: &[Candidate], top_p: f64) -> usize {
    let mut reached = 0.0;
    let last = candidates.iter().position(|candidate| {
        reached += f64::from(candidate.probability);
        reached >= top_p
    });
    last.map_or(candidates.len(), |last| last + 1)
}

/// The `count` largest logits, of equal ones those of lower ids, in some order: as candidates whose probability is the
/// logit. A vocabulary is long and few are kept, so most parts of it are passed over for their maximum alone.
fn best(logits: &[f32], count: usize) -> Vec<Candidate> {
    const PART: usize = 256;
    let order = by_number(|candidate: &Candidate| (candidate.probability, candidate.token_id));
    let mut candidates = Vec::new();
    let mut floor = None;
    for (part, logits) in logits.chunks(PART).enumerate() {
        // What equals the worst that is kept has a higher id.
        let beats = |logit: f32| floor.is_none_or(|floor| logit > floor);
        if !beats(maximum(logits)) {
            continue;
        }
        let first = (part * PART) as u32;
        let of_part = (first..).zip(logits).filter(|&(_, &logit)| beats(logit));
        candidates.extend(of_part.map(|(token_id, &probability)| Candidate { token_id, probability }));
        if candidates.len() > count {
            let (_, worst, _) = candidates.select_nth_unstable_by(count - 1, order);
            floor = Some(worst.probability);
            candidates.truncate(count);
        }
    }
    candidates
}

/// The largest; −∞ of none. `logits` has no NaN. In lanes, since a chain of comparisons would wait for each.
fn maximum(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut parts = logits.chunks_exact(LANES);
    for part in &mut parts {
        lanes.iter_mut().zip(part).for_each(|(lane, logit)| *lane = larger(*lane, *logit));
    }
    lanes.iter().chain(parts.remainder()).fold(f32::NEG_INFINITY, |max, logit| larger(max, *logit))
}

/// The index of the largest; the first of equals. `logits` has no NaN.
fn largest(logits: &[f32]) -> u32 {
    let max = maximum(logits);
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}

/// Larger numbers first, then lower ids: a total order where there is no NaN and ids differ.
fn by_number<T>(key: impl Fn(&T) -> (f32, u32) + Copy) -> impl Fn(&T, &T) -> Ordering + Copy {
    move |a, b| {
        let ((number_a, id_a), (number_b, id_b)) = (key(a), key(b));
        // Adding +0 makes −0 and +0 the same.
        (number_b + 0.0).total_cmp(&(number_a + 0.0)).then(id_a.cmp(&id_b))
    }
}

#[cfg(test)]
mod tests;
