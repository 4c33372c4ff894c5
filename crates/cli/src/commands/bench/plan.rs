//! What is measured: the tests, the model, and the memory that it needs.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_embed::embedder::TOKENS_PER_PASS;
use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::random::{RandomModel, Shape};
use bouquet_model::{Encoding, ModelSpec, Network, families};
use bouquet_swarm::{Invite, Wire};
use serde_json::json;

use super::{BenchArgs, train};
use crate::errors::{asked_wrongly, wrong};
use crate::limits::Memory;
use crate::open::{self, open_network, options};
use crate::{hosting, hub, output, swarm, system};

/// Sentences that are embedded in a test.
pub(super) const SENTENCES: usize = 512;

/// Tokens of the shortest and of the longest of them; 24 in the mean.
const SENTENCE_TOKENS: RangeInclusive<usize> = 8..=40;

/// Seed of random weights.
pub(super) const SEED: u64 = 1;

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// A prompt of so many tokens.
    Prompt(usize),
    /// So many tokens one by one, in so many sequences, behind `depth` others in each.
    Generate { tokens: usize, batch: usize, depth: usize },
    /// Embeddings of [`SENTENCES`] sentences, as long as sentences are.
    Embed,
    /// A step of training.
    Train(TrainStep),
}

/// A step of training: pairs of sentences of as many tokens each, and pairs of low rank for queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrainStep {
    pub(super) pairs: usize,
    pub(super) pair_tokens: usize,
    pub(super) rank: usize,
    /// Whether activations are kept for the backward, or made again from the inputs of blocks.
    pub(super) keeps_activations: bool,
}

/// All that was asked for.
pub(super) struct Plan {
    /// What the model is called.
    pub(super) name: String,
    pub(super) spec: ModelSpec,
    pub(super) encoding: Encoding,
    /// How hidden states travel, where a swarm runs the blocks.
    pub(super) wire: Option<Wire>,
    pub(super) cache_encoding: CacheEncoding,
    pub(super) tests: Vec<Test>,
    pub(super) repetitions: usize,
    pub(super) weight_bytes: u64,
    /// What a step of training takes besides, 0 where none is measured.
    train_bytes: u64,
    origin: Origin,
}

/// Where weights come from.
enum Origin {
    Folder(PathBuf),
    Random { outliers: bool },
}

impl Test {
    /// As llama-bench calls it.
    pub(super) fn name(self) -> String {
        match self {
            Test::Prompt(tokens) => format!("pp{tokens}"),
            Test::Generate { tokens, depth: 0, .. } => format!("tg{tokens}"),
            Test::Generate { tokens, depth, .. } => format!("tg{tokens} @ d{depth}"),
            Test::Embed => "embed".to_owned(),
            Test::Train(step) => {
                let activations = if step.keeps_activations { "kept" } else { "recomputed" };
                format!("train {} x {}, {activations}", step.pairs, step.pair_tokens)
            }
        }
    }

    /// Tokens that are computed.
    pub(super) fn tokens(self) -> usize {
        match self {
            Test::Prompt(tokens) => tokens,
            Test::Generate { tokens, batch, .. } => tokens * batch,
            Test::Embed => (0..SENTENCES).map(sentence_tokens).sum(),
            Test::Train(step) => self.batch().saturating_mul(step.pair_tokens),
        }
    }

    /// Sequences.
    pub(super) fn batch(self) -> usize {
        match self {
            Test::Prompt(_) => 1,
            Test::Generate { batch, .. } => batch,
            Test::Embed => SENTENCES,
            Test::Train(step) => 2 * step.pairs,
        }
    }

    /// Tokens whose keys and values are held at a time, besides what training counts.
    fn cached_tokens(self) -> usize {
        match self {
            Test::Embed => TOKENS_PER_PASS,
            Test::Train(_) => 0,
            Test::Prompt(_) | Test::Generate { .. } => self.positions() * self.batch(),
        }
    }

    /// Tokens of the longest sequence.
    fn positions(self) -> usize {
        match self {
            Test::Prompt(tokens) => tokens,
            Test::Generate { tokens, depth, .. } => depth + tokens,
            Test::Embed => *SENTENCE_TOKENS.end(),
            Test::Train(step) => step.pair_tokens,
        }
    }
}

impl Plan {
    pub(super) fn of(args: &BenchArgs) -> Result<Plan> {
        let (name, spec, origin) = match (&args.model, args.shape.as_deref().and_then(Shape::of_name)) {
            (_, Some(shape)) => (shape.name.to_owned(), shape.spec(), Origin::Random { outliers: args.outliers }),
            (Some(model), None) => {
                let folder = match model.to_str().is_some_and(Invite::is_meant) || args.invited.model.is_some() {
                    true => hub::folder_or_ends(model.clone(), &args.invited)?,
                    false => hub::folder_for(model.clone(), args.dry_run)?,
                };
                let name =
                    swarm::of(&folder).map_or_else(|| folder_name(model), |swarm| swarm::model_name(&swarm.invite));
                (name, families::load_spec(&folder)?, Origin::Folder(folder))
            }
            (None, None) => unreachable!("clap asks for one of them"),
        };
        let encoding = match (&origin, args.encoding) {
            (Origin::Folder(folder), asked) => open::or_usual(asked, folder)?,
            (Origin::Random { .. }, Some(Encoding::Stored)) => return Err(nothing_stored()),
            (Origin::Random { .. }, asked) => asked.unwrap_or_else(|| spec.stored.usual()),
        };
        let wire = match &origin {
            Origin::Folder(folder) => swarm::of(folder).map(|swarm| swarm.invite.wire),
            Origin::Random { .. } => None,
        };
        if wire.is_some() && args.cache.kv_cache != CacheEncoding::F32 {
            return Err(asked_wrongly("servers of a swarm keep keys and values in f32", "leave --kv-cache out"));
        }
        // Servers keep no activations.
        let here = |test: &Test| wire.is_none() || !matches!(test, Test::Train(step) if step.keeps_activations);
        let tests: Vec<Test> = tests(args).filter(|test| test.tokens() > 0 && here(test)).collect();
        if tests.is_empty() {
            return Err(asked_wrongly("there is nothing to measure", "give a number of tokens with -p or -n"));
        }
        if let Some(limit) = spec.max_positions
            && let Some(test) = tests.iter().find(|test| test.positions() > limit)
        {
            let message = format!("{} is beyond the {limit} positions that this model is made for", test.name());
            return Err(asked_wrongly(message, format!("stay within {}", output::tokens(limit))));
        }
        let train_bytes = train_bytes(&spec, &tests)?;
        let weight_bytes = match &origin {
            Origin::Folder(folder) if wire.is_some() => hosting::ends_bytes(folder, &spec, encoding)?,
            Origin::Folder(folder) => open::weight_bytes(folder, &spec, encoding)?,
            Origin::Random { .. } => open::bytes_in(&spec, encoding),
        };
        let repetitions = usize::from(args.repetitions);
        let cache_encoding = args.cache.kv_cache;
        Ok(Plan { name, spec, encoding, wire, cache_encoding, tests, repetitions, weight_bytes, train_bytes, origin })
    }

    /// Opens the model, or makes it.
    pub(super) fn open(&self, cpu: Cpu) -> Result<Network> {
        let mut options = options(cpu, self.encoding);
        options.cache_encoding = self.cache_encoding;
        match &self.origin {
            Origin::Folder(folder) => open_network(folder, &options),
            Origin::Random { outliers } => {
                let source = RandomModel::new(&self.spec, SEED, *outliers, options.cpu.threads());
                Ok(Network::from_source(&source, self.spec.clone(), &options)?)
            }
        }
    }

    /// Whether steps of training are measured, and nothing else.
    pub(super) fn trains(&self) -> bool {
        matches!(self.tests[0], Test::Train(_))
    }

    /// Keys and values of the largest test, where they are here.
    fn cache_bytes(&self) -> u64 {
        if self.wire.is_some() {
            return 0;
        }
        let tokens = self.tests.iter().map(|test| test.cached_tokens()).max().unwrap_or(0) as u64;
        tokens.saturating_mul(self.spec.cache_bytes_per_token(self.cache_encoding))
    }

    /// What is held besides weights and cache: logits, what the limit of reads is measured with, and a weight before it is
    /// encoded where all are random.
    fn other_bytes(&self) -> u64 {
        let batch = if self.trains() { 0 } else { self.tests.iter().map(|test| test.batch()).max().unwrap_or(1) };
        let random = match self.origin {
            Origin::Folder(_) => 0,
            Origin::Random { .. } => 2 * self.spec.block.hidden_size,
        };
        let read = if self.trains() || self.wire.is_some() { 0 } else { Memory::bytes_of(self.weight_bytes) };
        (self.spec.vocab_size * (4 * batch + random)) as u64 + read
    }

    /// Whether all of it fits into the memory that is free.
    pub(super) fn check_memory(&self) -> Result<()> {
        let parts = [self.cache_bytes(), self.other_bytes(), self.train_bytes];
        let needed = parts.into_iter().fold(self.weight_bytes, u64::saturating_add);
        match system::available_memory_bytes() {
            Some(available) if needed > available => Err(wrong(
                format!(
                    "measuring {} in {} needs {} for weights, cache and logits, but {} are free",
                    self.name,
                    self.encoding,
                    output::bytes(needed),
                    output::bytes(available)
                ),
                "give a smaller model or encoding, shorter tests or fewer sequences",
            )),
            _ => Ok(()),
        }
    }

    /// Says what would be done.
    pub(super) fn tell(&self, cpu: &Cpu, as_json: bool) -> Result<()> {
        let (cache, available) = (self.cache_bytes(), system::available_memory_bytes());
        let tests: Vec<String> = self.tests.iter().map(|test| test.name()).collect();
        if as_json {
            return output::json(&json!({
                "model": self.name,
                "encoding": self.encoding.name(),
                "wire": self.wire.map(Wire::name),
                "isa": cpu.isa().name(),
                "threads": cpu.threads(),
                "tests": tests,
                "batch": self.tests.iter().map(|test| test.batch()).max(),
                "repetitions": self.repetitions,
                "weight_bytes": self.weight_bytes,
                "kv_cache_bytes": cache,
                "train_bytes": self.train_bytes,
                "available_memory_bytes": available,
            }));
        }
        let parameters = families::parameters(&self.spec).map_or_else(String::new, |all| output::count(all.total));
        let facts = [
            ("model", format!("{}, {parameters} parameters", self.name)),
            ("encoding", self.encoding.to_string()),
            ("computes with", format!("{}, {}", cpu.isa().name(), output::counted(cpu.threads(), "thread"))),
            ("tests", format!("{}, {} each", tests.join(", "), output::counted(self.repetitions, "time"))),
            (if self.wire.is_some() { "embedding and head" } else { "weights" }, output::bytes(self.weight_bytes)),
            if self.trains() {
                ("a step of training", output::bytes(self.train_bytes))
            } else {
                ("keys and values", output::bytes(cache))
            },
            ("free memory", available.map_or_else(|| "unknown".to_owned(), output::bytes)),
        ];
        output::write(&output::table(&facts.map(|(name, fact)| vec![name.to_owned(), fact]), 2))
    }
}

/// The length of a sentence: uneven, and always the same.
pub(super) fn sentence_tokens(sentence: usize) -> usize {
    let mixed = (sentence as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    SENTENCE_TOKENS.start() + mixed as usize % (SENTENCE_TOKENS.end() - SENTENCE_TOKENS.start() + 1)
}

/// The tests that were asked for. Training that keeps more comes last, so that memory peaks in order.
fn tests(args: &BenchArgs) -> Box<dyn Iterator<Item = Test> + '_> {
    let [pairs, pair_tokens, rank] = [args.pairs, args.pair_tokens, args.rank].map(|number| number as usize);
    if args.train {
        let step = move |keeps_activations| Test::Train(TrainStep { pairs, pair_tokens, rank, keeps_activations });
        return Box::new([false, true].into_iter().map(step));
    }
    if args.embed {
        return Box::new([Test::Embed].into_iter());
    }
    let (batch, depth) = (usize::from(args.batch), args.depth as usize);
    let prompts = args.prompt.iter().map(|&tokens| Test::Prompt(tokens as usize));
    let generation = move |&tokens| Test::Generate { tokens: tokens as usize, batch, depth };
    let generations = args.generate.iter().map(generation);
    Box::new(prompts.chain(generations))
}

/// What the largest step of training takes besides weights.
fn train_bytes(spec: &ModelSpec, tests: &[Test]) -> Result<u64> {
    let mut steps = tests.iter().filter_map(|test| match test {
        Test::Train(step) => Some(train::bytes(*step, spec)),
        Test::Prompt(_) | Test::Generate { .. } | Test::Embed => None,
    });
    steps.try_fold(0, |largest, bytes| Ok(bytes?.max(largest)))
}

/// The last part of a path that names something.
fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| folder.display().to_string())
}

/// Random weights are made in the encoding that is asked for.
pub(super) fn nothing_stored() -> anyhow::Error {
    asked_wrongly("a shape has nothing stored", "give another --encoding")
}
