//! How fast a span is, measured: what a machine says of itself to those who look for one.

use std::time::{Duration, Instant};

use crate::contract::Random;
use crate::{Limits, Pass, Result, Returned, SessionShape, Span, Step};

/// Seconds that a token takes in a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Where tokens come one at a time.
    pub decode: f64,
    /// Where they come together, as in a prompt.
    pub prompt: f64,
}

/// Shares of the time that decoding and prompts are measured in; the rest is for warming up.
const SHARE: f64 = 0.4;

/// Steps of one token that are measured at most.
const MOST_STEPS: usize = 32;

impl Speed {
    /// Measures a span with prompts of up to `prompt_tokens` tokens, of random numbers. It ends with the first step behind
    /// `limit`; where that is too short for all tokens together, with what fewer take. The median counts: others may use the
    /// machine now and then.
    ///
    /// # Errors
    /// Those of the span, such as a cache that has no room.
    pub fn measure(span: &dyn Span, prompt_tokens: usize, limit: Duration) -> Result<Speed> {
        let prompt_tokens = prompt_tokens.max(1);
        // The first pages weights in and makes room for what is worked in.
        step(span, 1)?;
        let mut steps = Vec::new();
        let start = Instant::now();
        while steps.len() < MOST_STEPS && (steps.is_empty() || start.elapsed() < limit.mul_f64(SHARE)) {
            steps.push(step(span, 1)?);
        }
        let (decode, start) = (median(&mut steps), Instant::now());
        // More and more tokens together, while there is time; the quicker of two tries counts.
        let mut tokens = prompt_tokens.min(8);
        let prompt = loop {
            let first = step(span, tokens)?;
            if start.elapsed() + first > limit.mul_f64(SHARE) {
                break first;
            }
            let quicker = first.min(step(span, tokens)?);
            if tokens == prompt_tokens || start.elapsed() + first * 4 > limit.mul_f64(SHARE) {
                break quicker;
            }
            tokens = (tokens * 4).min(prompt_tokens);
        };
        let blocks = span.range().len() as f64;
        Ok(Speed { decode: decode.as_secs_f64() / blocks, prompt: prompt.as_secs_f64() / (blocks * tokens as f64) })
    }
}

/// How long so many tokens take in a session of their own.
fn step(span: &dyn Span, tokens: usize) -> Result<Duration> {
    let shape = SessionShape { sequences: 1, max_tokens: tokens, max_rewind: 0 };
    let mut session = span.open(shape, &Pass::default())?;
    let hidden = Random::new(tokens as u64).hidden(&[tokens], span.hidden_size());
    let start = Instant::now();
    let step = Step { session: &mut session, hidden, returned: Returned::Last, limits: Limits::default() };
    span.step(&mut [step]).remove(0)?;
    Ok(start.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeSpan;

    #[test]
    fn it_measures_within_its_time_and_says_what_cannot_be() {
        let start = Instant::now();
        let speed = Speed::measure(&FakeSpan::new(3..5, 8), 128, Duration::from_millis(50)).unwrap();
        assert!(speed.decode > 0.0 && speed.prompt > 0.0 && speed.prompt.is_finite(), "{speed:?}");
        // However busy the machine is.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let full = FakeSpan::new(3..5, 8).with_cache_tokens(4);
        assert!(Speed::measure(&full, 128, Duration::from_millis(50)).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let mut times = [5, 1, 900, 2, 3].map(Duration::from_secs);
        assert_eq!(median(&mut times), Duration::from_secs(3));
    }
}
