//! Follows a run: shows how far it is, writes metrics, checkpoints and the report, evaluates.

use std::time::Instant;

use anyhow::Result;
use bouquet_model::Network;
use bouquet_model::adapter::Learned;
use bouquet_span::Limits;
use bouquet_tune::checkpoint::{Checkpoint, Writer};
use bouquet_tune::config::Config;
use bouquet_tune::folder::{self, RunFolder};
use bouquet_tune::gradient::PassPlan;
use bouquet_tune::metrics::{Evaluation, Metric, MetricsFile, TrainStep};
use bouquet_tune::report;
use bouquet_tune::trainer::Observer;

use super::evaluate::{Evaluated, Evaluator};
use super::prepare::Prepared;
use crate::{output, swarm, system};

/// Steps over which the loss that is shown is averaged.
const SHOWN_STEPS: usize = 20;

/// What follows a run.
pub(super) struct Follower<'a> {
    prepared: &'a Prepared,
    network: &'a Network,
    plan: PassPlan,
    limits: &'a Limits,
    metrics: MetricsFile,
    /// All of them, from the first step on.
    all: Vec<Metric>,
    writer: Writer,
    folder: &'a RunFolder,
    progress: output::Progress,
    start: Instant,
    begun_at: u64,
}

impl<'a> Follower<'a> {
    /// For a run that goes on after so many steps.
    pub(super) fn new(
        prepared: &'a Prepared,
        network: &'a Network,
        plan: PassPlan,
        limits: &'a Limits,
        folder: &'a RunFolder,
        steps: u64,
    ) -> Result<Self> {
        let (metrics, all) = MetricsFile::open(&folder.path().join(folder::METRICS), steps)?;
        Ok(Follower {
            prepared,
            network,
            plan,
            limits,
            metrics,
            all,
            writer: Writer::new(folder.path()),
            folder,
            progress: output::Progress::new(),
            start: Instant::now(),
            begun_at: steps,
        })
    }

    fn config(&self) -> &Config {
        &self.prepared.config
    }

    fn write_down(&mut self, metric: Metric) -> bouquet_tune::Result<()> {
        self.metrics.append(&metric)?;
        self.all.push(metric);
        Ok(())
    }

    /// The mean loss of the last steps.
    pub(super) fn recent_loss(&self) -> Option<f64> {
        let losses = self.all.iter().rev().filter_map(|metric| match metric {
            Metric::Train(step) => Some(step.loss),
            Metric::Evaluation(_) => None,
        });
        let losses: Vec<f64> = losses.take(SHOWN_STEPS).collect();
        (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
    }

    /// Writes the run as a page.
    fn write_report(&self, end: &Checkpoint) -> bouquet_tune::Result<()> {
        // Others may read the page.
        let model = swarm::shown(&self.config().model);
        let settings = Config { model, ..self.config().clone() }.listed();
        let name = self.folder.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let run = report::Run {
            title: &name.unwrap_or_else(|| self.folder.path().display().to_string()),
            settings: &settings,
            metrics: &self.all,
            // All threads are busy nearly all the time.
            cpu_seconds: end.progress.seconds * self.network.cpu.threads() as f64,
        };
        let page = report::run(&run);
        self.folder.write(folder::REPORT, page.as_bytes())?;
        Ok(())
    }
}

impl Observer for Follower<'_> {
    fn step(&mut self, step: &TrainStep) -> bouquet_tune::Result<()> {
        self.write_down(Metric::Train(step.clone()))?;
        let (done, steps) = (step.step, self.config().steps);
        let per_step = self.start.elapsed().as_secs_f64() / (done - self.begun_at) as f64;
        let left = std::time::Duration::from_secs_f64(per_step * (steps - done) as f64);
        let loss = self.recent_loss().unwrap_or(step.loss);
        self.progress.show(&format!(
            "{} step {done}/{steps}, loss {loss:.4}, {}, {} left",
            output::bar(done as f64 / steps as f64, 24),
            output::speed(Some(step.tokens_per_second)),
            output::seconds(left),
        ));
        Ok(())
    }

    fn evaluate(&mut self, steps: u64, learned: &Learned) -> bouquet_tune::Result<Option<f64>> {
        let Follower { prepared, network, plan, limits, .. } = *self;
        let evaluator = Evaluator { config: &prepared.config, network, learned, dense: None, plan, limits };
        let Some(Evaluated { scores, score, shown }) = prepared.held.evaluate(&evaluator)? else { return Ok(None) };
        self.progress.note(&format!("after step {steps}: {shown}"));
        for (name, scores) in scores {
            self.write_down(Metric::Evaluation(Evaluation { step: steps, name, scores }))?;
        }
        Ok(Some(score))
    }

    fn save(&mut self, checkpoint: Checkpoint, last: bool) -> bouquet_tune::Result<()> {
        self.write_report(&checkpoint)?;
        self.writer.begin(checkpoint)?;
        if last { self.writer.wait() } else { Ok(()) }
    }

    fn peak_memory_bytes(&self) -> u64 {
        system::peak_memory_bytes().unwrap_or(0)
    }
}
