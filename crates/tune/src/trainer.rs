//! The loop: a batch, its gradient, a step, again; from the state of a checkpoint to the end, with evaluations and
//! checkpoints on the way. It can be stopped at any moment: what it goes on from later is the last checkpoint, and where
//! it ends is the same bits.

use std::time::{Duration, Instant};

use bouquet_model::adapter::Learned;
use bouquet_model::{ModelError, Network};
use bouquet_span::{Limits, SpanError};

use crate::checkpoint::{Best, Checkpoint, Progress};
use crate::config::Config;
use crate::gradient::{Batch, PassPlan, Training};
use crate::metrics::TrainStep;
use crate::optimizer::{Optimizer, Rate, clip_by_global_norm};
use crate::parameters::tensors_mut;
use crate::rates;
use crate::{Result, TuneError};

/// After so long there is a checkpoint, however few steps were done.
const SAVE_AFTER: Duration = Duration::from_secs(300);

/// Where batches come from.
pub trait BatchSource {
    /// The batch of a number, counted from 0, and which records it is made of.
    fn batch(&mut self, number: u64) -> (Batch, Vec<usize>);
}

/// What follows a run while it goes on.
pub trait Observer {
    /// A step is done.
    ///
    /// # Errors
    /// Those of writing it down.
    fn step(&mut self, step: &TrainStep) -> Result<()>;

    /// An evaluation was asked for: how good what is learned so far is, the larger the better; `None` where nothing is
    /// evaluated.
    ///
    /// # Errors
    /// Those of computing it and of writing it down.
    fn evaluate(&mut self, steps: u64, learned: &Learned) -> Result<Option<f64>>;

    /// A checkpoint is due: `last` where the run is at its end, or was interrupted.
    ///
    /// # Errors
    /// Those of writing it.
    fn save(&mut self, checkpoint: Checkpoint, last: bool) -> Result<()>;

    /// Memory that the process has held at most, in bytes; 0 where that is not known.
    fn peak_memory_bytes(&self) -> u64;
}

/// A run.
pub struct Trainer<'a> {
    /// Its settings.
    pub config: &'a Config,
    /// The frozen model.
    pub network: &'a Network,
    /// How batches go through it.
    pub plan: PassPlan,
    /// When to stop: between steps, and within one, which is then not counted.
    pub limits: &'a Limits,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// Evaluations did not become better any more.
    StoppedEarly,
    /// Somebody asked to stop.
    Interrupted,
}

/// The state of a run in memory.
struct State {
    progress: Progress,
    learned: Learned,
    optimizer: Box<dyn Optimizer>,
    best: Option<Learned>,
    /// Of the learning rate, a factor for each tensor.
    factors: Vec<f32>,
}

impl Trainer<'_> {
    /// Goes on from a checkpoint to the end. Returns the state there, and why it is the end.
    ///
    /// # Errors
    /// [`TuneError::Diverged`] when something is not finite: the last checkpoint is from before. What the model, the
    /// observer or the optimizer's state refuses.
    pub fn run(
        &self,
        from: Checkpoint,
        source: &mut dyn BatchSource,
        observer: &mut dyn Observer,
    ) -> Result<(Checkpoint, Ending)> {
        let mut state = self.restore(from)?;
        let before = state.progress.seconds;
        let start = Instant::now();
        let (mut saved, mut saved_steps) = (start, state.progress.steps);
        let cancelled = |error: &TuneError| {
            matches!(error, TuneError::Model(ModelError::Span(SpanError::Cancelled | SpanError::DeadlinePassed)))
        };
        let ending = loop {
            // Before anything else, so that a run which was stopped in an evaluation makes it when it goes on.
            match self.evaluate_if_due(&mut state, observer) {
                Err(error) if cancelled(&error) => break Ending::Interrupted,
                evaluated => evaluated?,
            }
            let steps = state.progress.steps;
            let due = self.config.save_every > 0 && steps.is_multiple_of(self.config.save_every);
            if steps > saved_steps && steps < self.config.steps && (due || saved.elapsed() >= SAVE_AFTER) {
                (saved, saved_steps) = (Instant::now(), steps);
                observer.save(state.checkpoint(), false)?;
            }
            if steps >= self.config.steps {
                break Ending::Finished;
            }
            if self.stale(&state) {
                break Ending::StoppedEarly;
            }
            if self.limits.check().is_err() {
                break Ending::Interrupted;
            }
            let step = match self.step(&mut state, source) {
                Err(error) if cancelled(&error) => break Ending::Interrupted,
                step => step?,
            };
            state.progress.seconds = before + start.elapsed().as_secs_f64();
            observer.step(&TrainStep { memory_bytes: observer.peak_memory_bytes(), ..step })?;
        };
        let checkpoint = state.checkpoint();
        observer.save(checkpoint.clone(), true)?;
        Ok((checkpoint, ending))
    }

    fn restore(&self, from: Checkpoint) -> Result<State> {
        let Checkpoint { progress, learned, optimizer: saved, best } = from;
        let mut optimizer = self.config.optimizer.begin(&learned);
        if progress.steps > 0 {
            let refuse = |problem| TuneError::Checkpoint { folder: Default::default(), problem };
            optimizer.restore(&saved).map_err(refuse)?;
        }
        let factors = rates::factors(&self.config.lr_group, &self.network.spec, &learned)?;
        Ok(State { progress, learned, optimizer, best, factors })
    }

    /// One step of the optimizer.
    fn step(&self, state: &mut State, source: &mut dyn BatchSource) -> Result<TrainStep> {
        let (start, number) = (Instant::now(), state.progress.steps);
        let batches = self.config.accumulation as u64;
        let (mut sum, mut loss, mut tokens, mut rows) = (None, 0.0, 0, Vec::new());
        let diverged = |problem: String, rows: &[usize]| {
            let rows = rows.iter().map(|row| row + 1).collect();
            TuneError::Diverged { step: number, problem, rows }
        };
        for batch in number * batches..(number + 1) * batches {
            let (of_batch, records) = source.batch(batch);
            rows.extend(records);
            let training = Training {
                network: self.network,
                learned: &state.learned,
                sentences: (self.config.pooling, self.config.sentence_loss()),
                plan: self.plan,
                // Not that of the step: what dropout drops differs between its batches.
                draw: (self.config.seed, batch),
                limits: self.limits,
            };
            let one = training.gradient(&of_batch).map_err(|error| match error {
                ModelError::Span(
                    error @ (SpanError::NotFinite { .. }
                    | SpanError::InputNotFinite { .. }
                    | SpanError::GradientNotFinite { .. }),
                ) => diverged(error.to_string(), &rows),
                error => error.into(),
            })?;
            if !one.loss.is_finite() {
                return Err(diverged("the loss is not finite".to_owned(), &rows));
            }
            loss += one.loss;
            tokens += one.tokens;
            match &mut sum {
                None => sum = Some(one.gradients),
                Some(sum) => sum.add(&one.gradients),
            }
        }
        let mut gradients = sum.expect("a step has a batch");
        if batches > 1 {
            gradients.scale(1.0 / batches as f32);
            loss /= batches as f64;
        }
        let max_norm = if self.config.max_grad_norm > 0.0 { self.config.max_grad_norm } else { f32::INFINITY };
        let grad_norm = clip_by_global_norm(&mut gradients.slices_mut(), max_norm);
        if !grad_norm.is_finite() {
            return Err(diverged("the gradient is not finite".to_owned(), &rows));
        }
        let Config { schedule, warmup_steps, steps, .. } = *self.config;
        let learning_rate = schedule.rate(f64::from(self.config.lr), number, warmup_steps, steps);
        let mut parameters: Vec<&mut [f32]> =
            tensors_mut(&mut state.learned).into_iter().map(|(_, tensor)| tensor).collect();
        let rate = |factor: &f32| Rate {
            learning_rate: learning_rate as f32 * factor,
            weight_decay: self.config.weight_decay,
        };
        let rates: Vec<Rate> = state.factors.iter().map(rate).collect();
        state.optimizer.step(&mut parameters, &gradients.slices(), &rates);
        if parameters.iter().any(|slice| slice.iter().any(|value| !value.is_finite())) {
            return Err(diverged("what is learned is no longer finite".to_owned(), &rows));
        }
        state.progress.steps += 1;
        state.progress.tokens += tokens as u64;
        let seconds = start.elapsed().as_secs_f64();
        Ok(TrainStep {
            step: state.progress.steps,
            loss,
            learning_rate,
            grad_norm,
            tokens: tokens as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            memory_bytes: 0,
        })
    }

    /// Evaluates what is learned so far, where it is time to and has not been done yet.
    fn evaluate_if_due(&self, state: &mut State, observer: &mut dyn Observer) -> Result<()> {
        let (steps, every) = (state.progress.steps, self.config.eval_every);
        let due = steps == self.config.steps || every > 0 && steps.is_multiple_of(every);
        if !due || steps <= state.progress.evaluated {
            return Ok(());
        }
        let score = observer.evaluate(steps, &state.learned)?;
        state.progress.evaluated = steps;
        let Some(score) = score else { return Ok(()) };
        if state.progress.best.is_none_or(|best| score > best.score) {
            state.progress.best = Some(Best { steps, score });
            state.progress.evaluations_since = 0;
            state.best = Some(state.learned.clone());
        } else {
            state.progress.evaluations_since += 1;
        }
        Ok(())
    }

    /// Whether evaluations have not become better for as long as is waited.
    fn stale(&self, state: &State) -> bool {
        self.config.patience > 0 && state.progress.evaluations_since >= self.config.patience
    }
}

impl State {
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            progress: self.progress.clone(),
            learned: self.learned.clone(),
            optimizer: self.optimizer.state(),
            best: self.best.clone(),
        }
    }
}
