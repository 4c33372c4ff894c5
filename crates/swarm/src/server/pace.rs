//! How fast the blocks are while they are used, which is not how fast they were alone: other programs come and go. Servers
//! say it in their records, and clients choose by it.

use std::time::Duration;

use tokio::time::Instant;

use super::schedule::FEW_TOKENS;
use crate::Figures;
use crate::route::SESSION_SHARE;

/// The share of a new step in a mean.
const NEW_SHARE: f32 = 1.0 / 16.0;

/// What was seen long ago counts half as much after so many seconds: whoever is avoided for it is to be tried again.
const HALF_LIFE: f32 = 30.0;

/// Steps of fewer tokens than these, but more than are decoded, say little of prompts: weights are unpacked for them, too.
const PROMPT_TOKENS: usize = 64;

/// Means of seconds, in one block.
#[derive(Debug, Default)]
pub(super) struct Pace {
    decode: Option<Mean>,
    prompt: Option<Mean>,
}

#[derive(Clone, Copy, Debug)]
struct Mean {
    seconds: f32,
    at: Instant,
}

impl Pace {
    /// Some sessions were stepped together, by so many tokens in all.
    pub(super) fn saw(&mut self, tokens: usize, sessions: usize, blocks: usize, took: Duration) {
        let in_a_block = took.as_secs_f32() / blocks.max(1) as f32;
        if tokens <= sessions * FEW_TOKENS {
            // As a client counts it, to whom the others are told apart.
            let others = 1.0 + SESSION_SHARE as f32 * sessions.saturating_sub(1) as f32;
            note(&mut self.decode, in_a_block / others);
        } else if tokens >= PROMPT_TOKENS {
            note(&mut self.prompt, in_a_block / tokens as f32);
        }
    }

    /// Figures with what was seen lately, and more and more of what was measured at the start as that grows old.
    pub(super) fn over(&self, measured: Figures) -> Figures {
        let blend = |seen: Option<Mean>, measured: f32| {
            seen.map_or(measured, |Mean { seconds, at }| {
                measured + (seconds - measured) * 0.5_f32.powf(at.elapsed().as_secs_f32() / HALF_LIFE)
            })
        };
        Figures {
            decode_seconds_per_block: blend(self.decode, measured.decode_seconds_per_block),
            prompt_seconds_per_block: blend(self.prompt, measured.prompt_seconds_per_block),
            ..measured
        }
    }
}

fn note(mean: &mut Option<Mean>, seconds: f32) {
    let before = mean.map_or(seconds, |mean| mean.seconds);
    *mean = Some(Mean { seconds: before + NEW_SHARE * (seconds - before), at: Instant::now() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_seen_counts_and_is_forgotten() {
        let measured =
            Figures { decode_seconds_per_block: 0.25, prompt_seconds_per_block: 0.125, ..Figures::default() };
        let mut pace = Pace::default();
        assert_eq!(pace.over(measured), measured);
        // Nine together take twice as long as one: this is the pace of one.
        pace.saw(9, 9, 4, Duration::from_secs(8));
        pace.saw(PROMPT_TOKENS - 1, 1, 1, Duration::from_secs(100));
        let seen = pace.over(measured);
        assert_eq!((seen.decode_seconds_per_block, seen.prompt_seconds_per_block), (1.0, 0.125));
        pace.saw(1, 1, 4, Duration::from_secs(20));
        pace.saw(64, 1, 2, Duration::from_secs(128));
        let seen = pace.over(measured);
        assert_eq!((seen.decode_seconds_per_block, seen.prompt_seconds_per_block), (1.25, 1.0));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(pace.over(measured).decode_seconds_per_block, 0.75);
        tokio::time::sleep(Duration::from_secs(3000)).await;
        assert_eq!(pace.over(measured), measured);
    }
}
