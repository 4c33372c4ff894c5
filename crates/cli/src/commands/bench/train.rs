//! A step of training: contrastive, of low rank, from token ids to the optimizer.

use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_model::adapter::{Learned, Settings, Task, targets};
use bouquet_model::{ModelSpec, Network, Pooling};
use bouquet_span::Limits;
use bouquet_tune::gradient::{Batch, PassPlan, Training};
use bouquet_tune::objective::sentences::SentenceLoss;
use bouquet_tune::optimizer::{AdamW, AdamWSettings, Optimizer, Rate, clip_by_global_norm};
use bouquet_tune::parameters::{tensors, tensors_mut};
use bouquet_tune::plan::Request;

use super::plan::{SEED, TrainStep};
use crate::commands::finetune::default_targets;
use crate::errors::asked_wrongly;

/// Sequences of a leaf.
const LEAF: usize = 8;

/// Tokens of a pass.
const TOKENS_PER_PASS: usize = 1024;

/// Steps, one after another.
pub(super) struct Steps<'a> {
    network: &'a Network,
    limits: &'a Limits,
    plan: PassPlan,
    learned: Learned,
    optimizer: AdamW,
    batch: Batch,
    done: u64,
}

impl<'a> Steps<'a> {
    pub(super) fn new(step: TrainStep, network: &'a Network, limits: &'a Limits) -> Result<Self> {
        let learned = learned(step, &network.spec)?;
        Ok(Steps {
            network,
            limits,
            plan: plan(step),
            optimizer: optimizer(&learned),
            learned,
            batch: batch(step, network.spec.vocab_size),
            done: 0,
        })
    }

    pub(super) fn step(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let training = Training {
            network: self.network,
            learned: &self.learned,
            sentences: (Pooling::Mean, SentenceLoss::Contrastive { scale: 20.0, symmetric: false }),
            plan: self.plan,
            draw: (SEED, self.done),
            limits: self.limits,
        };
        let mut gradients = training.gradient(&self.batch)?.gradients;
        clip_by_global_norm(&mut gradients.slices_mut(), 1.0);
        let mut parameters: Vec<&mut [f32]> =
            tensors_mut(&mut self.learned).into_iter().map(|(_, slice)| slice).collect();
        let rates = vec![Rate { learning_rate: 1e-4, weight_decay: 0.01 }; parameters.len()];
        self.optimizer.step(&mut parameters, &gradients.slices(), &rates);
        self.done += 1;
        Ok(start.elapsed())
    }
}

/// How often a step goes through the blocks.
pub(super) fn passes(step: TrainStep) -> usize {
    plan(step).passes(&lengths(step)).len()
}

/// What a step takes besides weights.
pub(super) fn bytes(step: TrainStep, spec: &ModelSpec) -> Result<u64> {
    let learned = learned(step, spec)?;
    let request = Request {
        held: 0,
        block: &spec.block,
        blocks: spec.num_blocks,
        learned: &learned,
        optimizer: &optimizer(&learned),
        keeps_best: false,
        lengths: &lengths(step),
        alike: true,
        leaf: LEAF,
        predicted: None,
        evaluated: 0,
        vectors: 0,
        afterwards: 0,
    };
    Ok(request.memory(plan(step)).total())
}

fn plan(step: TrainStep) -> PassPlan {
    let kept_bytes = Some(if step.keeps_activations { u64::MAX } else { 0 });
    PassPlan { leaf: LEAF, tokens_per_pass: TOKENS_PER_PASS, kept_bytes }
}

/// Of each sequence.
fn lengths(step: TrainStep) -> Vec<usize> {
    vec![step.pair_tokens; 2 * step.pairs]
}

/// Pairs of low rank on what makes queries, keys and values, as `finetune` has them unless told otherwise.
fn learned(step: TrainStep, spec: &ModelSpec) -> Result<Learned> {
    let names = default_targets(spec);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let settings = Settings {
        rank: step.rank,
        alpha: 32.0,
        rank_stabilized: false,
        dropout: 0.0,
        targets: targets::parse(spec, &names).expect("names that the model has"),
        task: Task::FeatureExtraction,
        base_model: String::new(),
    };
    Learned::initial(&settings, spec, SEED).map_err(|problem| asked_wrongly(problem, "give another --rank"))
}

fn optimizer(learned: &Learned) -> AdamW {
    let lengths: Vec<usize> = tensors(learned).iter().map(|(_, matrix)| matrix.data().len()).collect();
    AdamW::new(AdamWSettings::default(), &lengths)
}

/// Sentences of ids that are none in particular, each one another.
fn batch(step: TrainStep, vocab_size: usize) -> Batch {
    let id = |place: usize| ((place as u64 * 2_654_435_761 + 12_345) % vocab_size as u64) as u32;
    let sentence = |number: usize| (0..step.pair_tokens).map(|token| id(number * step.pair_tokens + token)).collect();
    Batch::Sentences { sequences: (0..2 * step.pairs).map(sentence).collect(), rows: step.pairs, scores: Vec::new() }
}
