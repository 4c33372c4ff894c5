//! Rotary positions as `config.json` describes them: `rope_theta` and `rope_scaling`, or both in the `rope_parameters` of
//! transformers 5. Frequencies are rounded to f32 where transformers rounds them: a position multiplies what they are off,
//! so a better rounding would be further from the model that was trained.

use std::f64::consts::PI;

use bouquet_kernels::math::ln;
use bouquet_kernels::ops::rope::frequencies;

use super::limits;
use crate::Result;
use crate::config::Config;
use crate::files::shown;
use crate::spec::{DynamicRope, RopeScaling, RopeSettings, RopeSpec};

/// What scales positions: larger factors are mistakes.
const MAX_FACTOR: f64 = 1e6;

/// The rotation of heads of `head_dim` channels, all of which turn, in a model for `max_positions`.
pub(super) fn read(config: &Config, head_dim: usize, default_theta: f64, max_positions: usize) -> Result<RopeSpec> {
    if !head_dim.is_multiple_of(2) || head_dim as u64 > limits::HEAD_DIM.max {
        let problem =
            format!("is {head_dim}, but rotary positions need an even one of at most {}", limits::HEAD_DIM.max);
        return Err(config.error("head_dim", problem));
    }
    whole_heads(config)?;
    let theta = |from: &Config| from.optional_float("rope_theta", 1.0, 1e15);
    let mut found = theta(config)?;
    let mut scaled = None;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(parameters) = config.optional_object(field)? else { continue };
        whole_heads(&parameters)?;
        found = theta(&parameters)?.or(found);
        let kind = parameters.optional_text("rope_type")?.or(parameters.optional_text("type")?);
        if let Some(kind) = kind.filter(|&kind| kind != "default").map(str::to_owned) {
            scaled = Some((parameters, kind));
        }
    }
    let theta = found.unwrap_or(default_theta);
    let Some((parameters, kind)) = scaled else {
        let settings = RopeSettings { theta, scaling: RopeScaling::None };
        return Ok(RopeSpec::new(settings, frequencies(head_dim, theta), 1.0));
    };
    let parameters = Parameters { config: &parameters, head_dim, theta, max_positions };
    match kind.as_str() {
        "linear" => parameters.linear(),
        "dynamic" => parameters.dynamic(),
        "llama3" => parameters.llama3(),
        "yarn" => parameters.yarn(),
        other => {
            let problem = format!("is {}, but only default, linear, dynamic, llama3 and yarn are known", shown(other));
            Err(parameters.config.error("rope_type", problem))
        }
    }
}

/// Refuses positions that turn a part of each head only.
fn whole_heads(config: &Config) -> Result<()> {
    const FIELD: &str = "partial_rotary_factor";
    match config.optional_float(FIELD, 0.0, 1.0)? {
        Some(part) if part != 1.0 => Err(config.error(FIELD, format!("is {part}, but only 1 is known yet"))),
        _ => Ok(()),
    }
}

/// Positions of a model for so many, when they are scaled by a factor.
fn stretched(positions: usize, factor: f64) -> usize {
    (positions as f64 * factor) as usize
}

/// What all kinds read.
struct Parameters<'a> {
    config: &'a Config,
    head_dim: usize,
    theta: f64,
    max_positions: usize,
}

impl Parameters<'_> {
    /// Positions are divided by a factor (Chen et al. 2023, arXiv 2306.15595).
    fn linear(&self) -> Result<RopeSpec> {
        let factor = self.factor()?;
        let scaled = frequencies(self.head_dim, self.theta).into_iter().map(|frequency| frequency / factor as f32);
        Ok(RopeSpec::new(self.settings(RopeScaling::Linear { factor }), scaled.collect(), 1.0)
            .carried_to(stretched(self.max_positions, factor)))
    }

    /// The base grows with the length.
    fn dynamic(&self) -> Result<RopeSpec> {
        if self.head_dim < 4 {
            return Err(self.config.error("rope_type", "is dynamic, which needs heads of more than 2 channels"));
        }
        let (theta, factor, trained_tokens) = (self.theta, self.factor()?, self.max_positions);
        let rope = RopeSpec::dynamic(self.head_dim, DynamicRope { theta, factor, trained_tokens });
        Ok(rope.carried_to(stretched(trained_tokens, factor)))
    }

    /// Low frequencies are divided by a factor, high ones are not, those between are mixed (Llama 3.1, arXiv 2407.21783).
    fn llama3(&self) -> Result<RopeSpec> {
        let given = self.factor()?;
        let factor = given as f32;
        let (low, high) = (self.number("low_freq_factor")?, self.number("high_freq_factor")?);
        let trained_tokens = self.trained_tokens()?;
        let trained = trained_tokens as f64;
        if high <= low {
            return Err(self.config.error("high_freq_factor", format!("is {high}, not more than the low one, {low}")));
        }
        let (longest, shortest) = ((trained / low) as f32, (trained / high) as f32);
        let mixed = |frequency: f32| {
            let wavelength = (2.0 * PI) as f32 / frequency;
            let divided = if wavelength > longest { frequency / factor } else { frequency };
            if wavelength < shortest || wavelength > longest {
                return divided;
            }
            let share = (trained as f32 / wavelength - low as f32) / (high - low) as f32;
            (1.0 - share) * divided / factor + share * divided
        };
        let mixed = frequencies(self.head_dim, self.theta).into_iter().map(mixed).collect();
        let (low_freq_factor, high_freq_factor) = (low, high);
        let scaling = RopeScaling::Llama3 { factor: given, low_freq_factor, high_freq_factor, trained_tokens };
        Ok(RopeSpec::new(self.settings(scaling), mixed, 1.0))
    }

    /// YaRN (Peng et al. 2023, arXiv 2309.00071): as the above with a ramp over channels, and sharper attention.
    fn yarn(&self) -> Result<RopeSpec> {
        let trained_tokens = self.trained_tokens()?;
        let trained = trained_tokens as f64;
        let factor = match self.optional("factor")? {
            Some(factor) => factor,
            None => self.max_positions as f64 / trained,
        };
        // The channel that turns so many times over the trained length.
        let channel = |turns: f64| (self.head_dim as f64 * ln(trained / (turns * 2.0 * PI))) / (2.0 * ln(self.theta));
        let (fast, slow) = (self.optional("beta_fast")?.unwrap_or(32.0), self.optional("beta_slow")?.unwrap_or(1.0));
        let (mut first, mut last) = (channel(fast), channel(slow));
        let truncate = self.config.optional_flag("truncate")?.unwrap_or(true);
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(self.head_dim as f64 - 1.0));
        if first == last {
            last += 0.001;
        }
        let mixed = |(pair, frequency): (usize, f32)| {
            let ramp = ((pair as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            // transformers divides 1 by `factor · theta^(2i/d)`, of which only the reciprocal is at hand here.
            frequency / factor as f32 * (1.0 - kept) + frequency * kept
        };
        let mixed = frequencies(self.head_dim, self.theta).into_iter().enumerate().map(mixed).collect();
        let scaling = RopeScaling::Yarn { factor, trained_tokens, beta_fast: fast, beta_slow: slow, truncate };
        let rope = RopeSpec::new(self.settings(scaling), mixed, self.attention_factor(factor)? as f32);
        Ok(rope.carried_to(stretched(trained_tokens, factor)))
    }

    /// What YaRN multiplies cosines and sines with.
    fn attention_factor(&self, factor: f64) -> Result<f64> {
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * ln(factor) + 1.0 };
        if let Some(given) = self.optional("attention_factor")? {
            return Ok(given);
        }
        Ok(match (self.optional("mscale")?, self.optional("mscale_all_dim")?) {
            (Some(numerator), Some(denominator)) => scale(numerator) / scale(denominator),
            _ => scale(1.0),
        })
    }

    fn settings(&self, scaling: RopeScaling) -> RopeSettings {
        RopeSettings { theta: self.theta, scaling }
    }

    fn factor(&self) -> Result<f64> {
        match self.config.optional_float("factor", 1.0, MAX_FACTOR)? {
            Some(factor) => Ok(factor),
            None => Err(self.config.error("factor", "is missing")),
        }
    }

    /// A positive number.
    fn number(&self, field: &str) -> Result<f64> {
        self.optional(field)?.ok_or_else(|| self.config.error(field, "is missing"))
    }

    /// A positive number that may be absent; 0 counts as absent, as in transformers.
    fn optional(&self, field: &str) -> Result<Option<f64>> {
        Ok(self.config.optional_float(field, 0.0, MAX_FACTOR)?.filter(|&number| number > 0.0))
    }

    /// The length that the model was trained with before positions were scaled.
    fn trained_tokens(&self) -> Result<usize> {
        let field = "original_max_position_embeddings";
        Ok(self.config.optional_number(field, limits::POSITIONS)?.unwrap_or(self.max_positions))
    }
}
