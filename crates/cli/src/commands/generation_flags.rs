//! The flags that say how to generate, and what they mean for a model.

use anyhow::Result;
use bouquet_generate::{SamplingOptions, StopRules, end_of_turn};
use bouquet_model::generation_config::GenerationConfig;
use bouquet_model::{ChatTemplate, Model};

use crate::errors::asked_wrongly;

/// Flags about picking tokens.
#[derive(clap::Args)]
pub(crate) struct GenerationArgs {
    /// Stop after N new tokens [default: the model's, or 256]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Divide the logits by this; 0 is greedy
    #[arg(long, value_name = "T", value_parser = number::<0, 1000>, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among the K best tokens; 0 is all [default: the model's, or 50]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the best tokens that have this probability together
    #[arg(long, value_name = "P", value_parser = number::<0, 1>, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens with this share of the best one's probability
    #[arg(long, value_name = "P", value_parser = number::<0, 1>, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that were there less likely; 1 changes nothing
    #[arg(long, value_name = "R", value_parser = penalty, allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// The same seed gives the same text [default: a new one]
    #[arg(long, value_name = "S")]
    pub(super) seed: Option<u64>,
    /// Stop before this text; can be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = stop_text)]
    stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Room for N tokens, prompt included [default: the model's, or 2048]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
}

/// New tokens where neither the user nor the model says.
const DEFAULT_MAX_TOKENS: usize = 256;

/// Tokens of context where neither the user nor the model says.
const DEFAULT_CONTEXT: usize = 2048;

/// What it means, once the model is open.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) sampling: SamplingOptions,
    pub(super) stop: StopRules,
    pub(super) context: usize,
}

impl GenerationArgs {
    /// Refuses flags that contradict each other.
    pub(super) fn check(&self) -> Result<()> {
        let filters = [
            ("--top-k", self.top_k.is_some_and(|k| k > 0)),
            ("--top-p", self.top_p.is_some_and(|p| p < 1.0)),
            ("--min-p", self.min_p.is_some_and(|p| p > 0.0)),
        ];
        match filters.iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.temperature == Some(0.0) => Err(asked_wrongly(
                format!("--temperature 0 takes the best token, so {flag} has nothing to choose from"),
                format!("leave one of them out, or give a temperature above 0 with {flag}"),
            )),
            _ => Ok(()),
        }
    }

    /// What they mean for a model.
    pub(super) fn plan(&self, model: &Model) -> Result<Plan> {
        let eos_token_ids = match model.generation_config.eos_token_ids.as_slice() {
            _ if self.ignore_eos => Vec::new(),
            [] => model.spec.eos_token_ids.clone(),
            ids => ids.to_vec(),
        };
        let context = match (self.ctx, model.spec.max_positions) {
            (Some(asked), Some(limit)) if asked as usize > limit => {
                return Err(asked_wrongly(
                    format!("--ctx {asked} is beyond the {limit} positions that this model is made for"),
                    format!("give --ctx {limit} or less"),
                ));
            }
            (Some(asked), _) => asked as usize,
            (None, limit) => limit.unwrap_or(DEFAULT_CONTEXT),
        };
        let max_tokens = self.max_tokens(&model.generation_config);
        let stop = StopRules { eos_token_ids, strings: self.stop.clone(), max_tokens };
        Ok(Plan { sampling: self.sampling(&model.generation_config), stop, context })
    }

    /// The same for answers, which the template's end of a turn ends as well.
    pub(super) fn plan_answers(&self, model: &Model, template: &ChatTemplate) -> Result<Plan> {
        let mut plan = self.plan(model)?;
        if let Some(id) = end_of_turn(model, template)
            && !self.ignore_eos
            && !plan.stop.eos_token_ids.contains(&id)
        {
            plan.stop.eos_token_ids.push(id);
        }
        Ok(plan)
    }

    fn max_tokens(&self, config: &GenerationConfig) -> usize {
        self.max_tokens.or(config.max_new_tokens).unwrap_or(DEFAULT_MAX_TOKENS)
    }

    /// The model's own defaults, and the flags over them.
    fn sampling(&self, config: &GenerationConfig) -> SamplingOptions {
        let mut options = SamplingOptions::from_config(config);
        let filtered = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        if self.temperature == Some(0.0) {
            options = SamplingOptions { repetition_penalty: options.repetition_penalty, ..Default::default() };
        } else if self.temperature.is_some() || filtered {
            options = options.sampling(config);
            if options.is_greedy() {
                options.temperature = 1.0;
            }
        }
        if !options.is_greedy() {
            options.temperature = self.temperature.unwrap_or(options.temperature);
            options.top_k = self.top_k.unwrap_or(options.top_k);
            options.top_p = self.top_p.unwrap_or(options.top_p);
            options.min_p = self.min_p.unwrap_or(options.min_p);
        }
        options.repetition_penalty = self.repetition_penalty.unwrap_or(options.repetition_penalty);
        options.seed = self.seed.unwrap_or_else(any_seed);
        options
    }
}

/// A seed that is another each time: the keys of a new hash map are random.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Short enough to be typed again.
    RandomState::new().hash_one(0) % 1_000_000_000
}

/// A number between two.
fn number<const MIN: u32, const MAX: u32>(typed: &str) -> std::result::Result<f32, String> {
    between(typed, MIN as f32, MAX as f32).ok_or_else(|| format!("it must be a number between {MIN} and {MAX}"))
}

/// What was typed, if it is a number in a range.
pub(super) fn between(typed: &str, min: f32, max: f32) -> Option<f32> {
    typed.parse().ok().filter(|number| (min..=max).contains(number))
}

fn penalty(typed: &str) -> std::result::Result<f32, String> {
    let number = number::<0, 1000>(typed)?;
    if number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}

fn stop_text(typed: &str) -> std::result::Result<String, String> {
    if typed.is_empty() { Err("an empty text is everywhere".to_owned()) } else { Ok(typed.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: GenerationArgs,
    }

    fn sampling(flags: &[&str], config: &GenerationConfig) -> SamplingOptions {
        let typed = Typed::parse_from([&["run", "--seed", "1"], flags].concat());
        typed.args.check().unwrap();
        typed.args.sampling(config)
    }

    #[test]
    fn flags_stand_above_the_model_and_the_model_above_greedy() {
        let greedy = SamplingOptions { seed: 1, ..SamplingOptions::default() };
        let silent = GenerationConfig::default();
        let sampled = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(20),
            repetition_penalty: Some(1.2),
            ..GenerationConfig::default()
        };
        let unsampled = GenerationConfig { do_sample: Some(false), ..sampled.clone() };
        let with = |temperature, top_k, penalty| SamplingOptions {
            temperature,
            top_k,
            repetition_penalty: penalty,
            ..greedy.clone()
        };
        assert_eq!(sampling(&[], &silent), greedy);
        assert_eq!(sampling(&["--temperature", "0.5"], &silent), with(0.5, 50, 1.0));
        assert_eq!(sampling(&["--temperature", "0.5", "--top-k", "0"], &silent), with(0.5, 0, 1.0));
        assert_eq!(sampling(&["--top-k", "5"], &silent), with(1.0, 5, 1.0));
        assert_eq!(sampling(&[], &sampled), with(0.6, 20, 1.2));
        assert_eq!(sampling(&["--top-k", "5"], &sampled), with(0.6, 5, 1.2));
        assert_eq!(sampling(&["--temperature", "0"], &sampled), with(0.0, 0, 1.2));
        assert_eq!(sampling(&[], &unsampled), with(0.0, 0, 1.2));
        assert_eq!(sampling(&["--temperature", "0.9"], &unsampled), with(0.9, 20, 1.2));
    }

    #[test]
    fn tokens_are_as_many_as_were_asked_for_or_as_the_model_says() {
        let tokens = |flags: &[&str], max_new_tokens| {
            let config = GenerationConfig { max_new_tokens, ..GenerationConfig::default() };
            Typed::parse_from([&["run"], flags].concat()).args.max_tokens(&config)
        };
        assert_eq!([tokens(&[], None), tokens(&[], Some(20))], [256, 20]);
        assert_eq!(tokens(&["--max-tokens", "7"], Some(20)), 7);
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let typed = |flags: &[&str]| Typed::parse_from([&["run"], flags].concat()).args.check();
        assert!(typed(&["--temperature", "0", "--top-k", "5"]).is_err());
        assert!(typed(&["--temperature", "0", "--top-p", "1"]).is_ok());
        assert!(Typed::try_parse_from(["run", "--temperature", "-1"]).is_err());
        assert!(Typed::try_parse_from(["run", "--top-p", "NaN"]).is_err());
        assert!(Typed::try_parse_from(["run", "--repetition-penalty", "0"]).is_err());
        assert!(Typed::try_parse_from(["run", "--stop", ""]).is_err());
        assert_eq!(Typed::parse_from(["run", "--stop", "--", "--stop", "b"]).args.stop, ["--", "b"]);
    }
}
