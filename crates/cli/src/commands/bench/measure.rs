//! Runs tests, and measures the limits of the machine around each repetition: other programs, and heat, move both.

use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_embed::Embedder;
use bouquet_embed::embedder::TOKENS_PER_PASS;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::profile::OperationTime;
use bouquet_kernels::{Matrix, Weight};
use bouquet_model::adapter::Learned;
use bouquet_model::{Encoding, Network, Pooling};
use bouquet_span::{CancelToken, HiddenStates, Limits, Pass, Returned, Session, SessionShape, SpanError, Step};

use super::plan::{Plan, SENTENCES, Test, sentence_tokens};
use super::train::{self, Steps};
use crate::limits::{MachineLimits, Memory, TokenCost};
use crate::system;

/// A model that is being measured.
pub(super) struct Bench {
    pub(super) network: Network,
    encoding: Encoding,
    cache_encoding: CacheEncoding,
    memory: Memory,
    limits: Limits,
    /// Others run the blocks.
    in_swarm: bool,
}

/// What came out of one test.
pub(super) struct Measured {
    pub(super) samples: Vec<Sample>,
    /// Over all repetitions, the longest first; empty unless asked for.
    pub(super) profile: Vec<OperationTime>,
    /// Of this test, where the system can tell; else so far.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// One repetition.
pub(super) struct Sample {
    pub(super) time: Duration,
    pub(super) tokens_per_sec: f64,
    /// What this machine did for it, where it did all of it.
    pub(super) here: Option<Here>,
}

/// What this machine did, and what it could have done.
pub(super) struct Here {
    pub(super) bytes_per_sec: f64,
    pub(super) ops_per_sec: f64,
    /// The mean of before and after.
    pub(super) limits: MachineLimits,
}

impl Bench {
    pub(super) fn new(network: Network, memory: Memory, plan: &Plan, cancel: &CancelToken) -> Self {
        let limits = Limits { deadline: None, cancel: cancel.clone() };
        let in_swarm = plan.wire.is_some();
        Bench { network, encoding: plan.encoding, cache_encoding: plan.cache_encoding, memory, limits, in_swarm }
    }

    /// Bytes of all weights.
    pub(super) fn weight_bytes(&self) -> u64 {
        let (embedding, head) = (&self.network.embedding.weight, &self.network.head.weight);
        let tied = embedding.data().as_ptr() == head.data().as_ptr();
        let embedding = if tied { 0 } else { embedding.bytes() };
        (self.network.weights().map(Weight::bytes).sum::<usize>() + embedding) as u64
    }

    /// Runs a test so many times, after a warm-up.
    pub(super) fn measure(&self, test: Test, repetitions: usize) -> Result<Measured> {
        if let Test::Train(_) = test {
            system::forget_peak_memory();
        }
        let mut once: Box<dyn FnMut() -> Result<Duration> + '_> = match test {
            Test::Prompt(tokens) => Box::new(move || self.prompt(tokens)),
            Test::Generate { tokens, batch, depth } => {
                let mut sessions = self.sessions(tokens, batch, depth)?;
                Box::new(move || self.generate(&mut sessions, tokens))
            }
            Test::Embed => Box::new(|| self.embed()),
            Test::Train(step) => {
                let mut training = Steps::new(step, &self.network, &self.limits)?;
                Box::new(move || training.step())
            }
        };
        once()?;
        self.network.cpu.take_profile();
        let (mut samples, mut profile) = (Vec::new(), Vec::new());
        let mut before = self.machine_limits();
        for _ in 0..repetitions {
            let time = once()?;
            add_times(&mut profile, self.network.cpu.take_profile());
            let after = self.machine_limits();
            let seconds = time.as_secs_f64();
            let (bytes, ops) = self.work(test);
            samples.push(Sample {
                time,
                tokens_per_sec: test.tokens() as f64 / seconds,
                here: before.zip(after).map(|(before, after)| Here {
                    bytes_per_sec: bytes / seconds,
                    ops_per_sec: ops / seconds,
                    limits: before.mean(after),
                }),
            });
            before = after;
        }
        profile.sort_by_key(|times| std::cmp::Reverse(times.time));
        Ok(Measured { samples, profile, peak_memory_bytes: system::peak_memory_bytes() })
    }

    /// A prompt through all blocks, and the logits of its last token.
    fn prompt(&self, tokens: usize) -> Result<Duration> {
        let mut session = self.open(tokens, 0)?;
        let start = Instant::now();
        if let Some(last) = self.read(&mut session, tokens)? {
            self.head(&last);
        }
        Ok(start.elapsed())
    }

    /// Steps a session by so many tokens, and returns the last one, if there is any.
    fn read(&self, session: &mut Session, tokens: usize) -> Result<Option<Vec<HiddenStates>>> {
        let ids: Vec<u32> = (0..tokens).map(|place| self.token_id(place)).collect();
        let (mut chunks, mut last) = (ids.chunks(self.network.blocks.prompt_chunk()).peekable(), None);
        while let Some(chunk) = chunks.next() {
            let returned = if chunks.peek().is_none() { Returned::Last } else { Returned::None };
            last = Some(self.step(&mut [&mut *session], &[chunk], returned)?);
        }
        Ok(last)
    }

    /// Sessions that have read `depth` tokens, with room for more.
    fn sessions(&self, tokens: usize, batch: usize, depth: usize) -> Result<Vec<Session>> {
        let session = |_| {
            let mut session = self.open(depth + tokens, tokens)?;
            self.read(&mut session, depth)?;
            Ok(session)
        };
        (0..batch).map(session).collect()
    }

    /// Tokens one by one, each with its logits, in several sequences at once; the sessions are then as they were.
    fn generate(&self, sessions: &mut [Session], tokens: usize) -> Result<Duration> {
        let (batch, depth) = (sessions.len(), sessions.first().map_or(0, |session| session.positions()[0]));
        let start = Instant::now();
        for place in 0..tokens {
            let ids: Vec<[u32; 1]> = (0..batch).map(|sequence| [self.token_id(place * batch + sequence)]).collect();
            let ids: Vec<&[u32]> = ids.iter().map(<[u32; 1]>::as_slice).collect();
            let last = self.step(&mut sessions.iter_mut().collect::<Vec<_>>(), &ids, Returned::Last)?;
            self.head(&last);
        }
        let time = start.elapsed();
        sessions.iter_mut().try_for_each(|session| session.rewind(0, depth))?;
        Ok(time)
    }

    /// Sentences to vectors, without their tokens being cut out of texts.
    fn embed(&self) -> Result<Duration> {
        let mut place = 0;
        let mut sentence = |index| {
            let first = place;
            place += sentence_tokens(index);
            (first..place).map(|place| self.token_id(place)).collect()
        };
        let sentences: Vec<Vec<u32>> = (0..SENTENCES).map(&mut sentence).collect();
        let (learned, pass) = (Learned::default(), Pass { limits: self.limits.clone(), ..Pass::default() });
        let start = Instant::now();
        Embedder::new(&self.network, &learned, Pooling::Mean).embed(&sentences, &pass)?;
        Ok(start.elapsed())
    }

    fn open(&self, max_tokens: usize, max_rewind: usize) -> Result<Session> {
        let shape = SessionShape { sequences: 1, max_tokens, max_rewind };
        Ok(self.network.blocks.open(shape, &Pass::default())?)
    }

    /// Steps sessions together, each by its tokens.
    fn step(&self, sessions: &mut [&mut Session], ids: &[&[u32]], returned: Returned) -> Result<Vec<HiddenStates>> {
        self.limits.check()?;
        let mut steps = Vec::with_capacity(sessions.len());
        for (session, ids) in sessions.iter_mut().zip(ids) {
            let hidden = self.network.embedding.embed_at(&self.network.cpu, session.positions(), &[ids])?;
            steps.push(Step { session, hidden, returned, limits: self.limits.clone() });
        }
        let outputs = self.network.blocks.step(&mut steps);
        Ok(outputs.into_iter().collect::<std::result::Result<Vec<_>, SpanError>>()?)
    }

    /// The logits of all rows.
    fn head(&self, outputs: &[HiddenStates]) {
        let mut rows = Matrix::zeros(0, self.network.spec.block.hidden_size);
        outputs.iter().for_each(|output| rows.push_rows(output.values().view()));
        std::hint::black_box(self.network.head.logits(&self.network.cpu, rows.view()));
    }

    /// Ids that are no sequence in particular.
    fn token_id(&self, place: usize) -> u32 {
        ((place as u64 * 2_654_435_761 + 12_345) % self.network.spec.vocab_size as u64) as u32
    }

    /// Nothing where this machine is not what limits.
    fn machine_limits(&self) -> Option<MachineLimits> {
        let measure =
            || MachineLimits::measure(&self.network.cpu, self.encoding, self.memory.pieces(self.network.weights()));
        (!self.in_swarm).then(measure)
    }

    /// Bytes that a test reads, and operations that it does.
    fn work(&self, test: Test) -> (f64, f64) {
        let cost = TokenCost::of(&self.network);
        let cache = self.network.spec.cache_bytes_per_token(self.cache_encoding) as f64;
        match test {
            Test::Prompt(tokens) => {
                let passes = tokens.div_ceil(self.network.blocks.prompt_chunk()) as f64;
                let tokens = tokens as f64;
                (passes * cost.weight_bytes + tokens * cache, tokens * cost.block_ops + cost.head_ops)
            }
            Test::Generate { tokens, batch, depth } => {
                let [tokens, batch, depth] = [tokens, batch, depth].map(|count| count as f64);
                // The token at position p sees p + 1.
                let seen = batch * tokens * (depth + (tokens + 1.0) / 2.0);
                (tokens * cost.weight_bytes + seen * cache, tokens * batch * (cost.block_ops + cost.head_ops))
            }
            Test::Embed => {
                let passes = test.tokens().div_ceil(TOKENS_PER_PASS) as f64;
                let weight_bytes = cost.weight_bytes - self.network.head.weight.bytes() as f64;
                let tokens = test.tokens() as f64;
                (passes * weight_bytes + tokens * cache, tokens * cost.block_ops)
            }
            Test::Train(step) => {
                let (passes, tokens) = (train::passes(step) as f64, test.tokens() as f64);
                let weight_bytes = cost.weight_bytes - self.network.head.weight.bytes() as f64;
                let times = if step.keeps_activations { 2.0 } else { 3.0 };
                // What is computed again is no more work done.
                (times * passes * weight_bytes, 2.0 * tokens * cost.block_ops)
            }
        }
    }
}

/// Adds the times of one repetition.
fn add_times(all: &mut Vec<OperationTime>, more: Vec<OperationTime>) {
    for times in more {
        match all.iter_mut().find(|known| known.operation == times.operation) {
            Some(known) => {
                known.calls += times.calls;
                known.time += times.time;
            }
            None => all.push(times),
        }
    }
}
