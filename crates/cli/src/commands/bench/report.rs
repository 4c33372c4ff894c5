//! The table, a row as soon as it is measured, in the shape of llama-bench; or all of it as JSON.

use std::time::Duration;

use anyhow::Result;
use bouquet_model::families;
use bouquet_swarm::Wire;
use serde_json::{Value, json};

use super::measure::{Bench, Here, Measured, Sample};
use super::plan::{Plan, Test};
use crate::limits::{MachineLimits, arithmetic};
use crate::{output, system};

/// What is told of a whole run.
pub(super) struct Report<'a> {
    plan: &'a Plan,
    bench: &'a Bench,
    load: Duration,
    as_json: bool,
    results: Vec<(Test, Measured)>,
    /// Titles and cells of what is the same in all rows.
    model: Vec<(&'static str, String)>,
}

/// Columns of a test, and how wide they are. Those of [`HERE`] only where this machine computes all of it.
const TEST_COLUMNS: [(&str, usize); 4] = [("test", 11), ("tokens/s", 17), ("GB/s read", 14), ("GOP/s", 14)];
const TRAIN_COLUMNS: [(&str, usize); 5] =
    [("test", 24), ("s/step", 15), ("tokens/s", 9), ("GOP/s", 14), ("peak memory", 11)];
const HERE: [&str; 2] = ["GB/s read", "GOP/s"];

impl<'a> Report<'a> {
    /// Prints the head of the table.
    pub(super) fn begin(plan: &'a Plan, bench: &'a Bench, load: Duration, as_json: bool) -> Result<Self> {
        let cpu = &bench.network.cpu;
        let parameters = families::parameters(&plan.spec).map_or(0, |all| all.total);
        let mut model = vec![("model", plan.name.clone())];
        if plan.wire.is_none() {
            model.push(("size", output::bytes(bench.weight_bytes())));
        }
        model.extend([("params", output::count(parameters)), ("encoding", plan.encoding.to_string())]);
        match plan.wire {
            Some(wire) => model.push(("wire", wire.name().to_owned())),
            None => model.extend([("isa", cpu.isa().name().to_owned()), ("threads", cpu.threads().to_string())]),
        }
        let report = Report { plan, bench, load, as_json, results: Vec::new(), model };
        if !as_json {
            let widths = report.widths();
            let titles =
                report.model.iter().map(|(title, _)| *title).chain(report.test_columns().map(|(title, _)| title));
            output::line(&row(&titles.map(str::to_owned).collect::<Vec<_>>(), &widths))?;
            let rule: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
            output::line(&row(&rule, &widths))?;
        }
        Ok(report)
    }

    fn test_columns(&self) -> impl Iterator<Item = (&'static str, usize)> + use<> {
        let (columns, in_swarm): (&[_], _) =
            (if self.plan.trains() { &TRAIN_COLUMNS } else { &TEST_COLUMNS }, self.plan.wire.is_some());
        columns.iter().copied().filter(move |(title, _)| !in_swarm || !HERE.contains(title))
    }

    fn widths(&self) -> Vec<usize> {
        let model = self.model.iter().map(|(title, cell)| title.len().max(cell.len()));
        model.chain(self.test_columns().map(|(_, width)| width)).collect()
    }

    /// Prints a row.
    pub(super) fn add(&mut self, test: Test, measured: Measured) -> Result<()> {
        if !self.as_json {
            let figures = Figures::of(&measured.samples);
            let speed = figures
                .here
                .as_ref()
                .map(|here| format!("{:.0} ({:.0} %)", here.ops_per_sec / 1e9, 100.0 * here.share_of_arithmetic));
            let mut cells: Vec<String> = self.model.iter().map(|(_, cell)| cell.clone()).collect();
            if let Test::Train(_) = test {
                let (seconds, sd) = seconds_per_step(&measured.samples);
                let peak = measured.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), output::bytes);
                cells.extend([test.name(), format!("{seconds:.3} ± {sd:.3}"), decimals(figures.tokens_per_sec)]);
                cells.extend(speed);
                cells.push(peak);
            } else {
                let name = if test.batch() > 1 { format!("{} x {}", test.name(), test.batch()) } else { test.name() };
                let read = figures
                    .here
                    .as_ref()
                    .map(|here| format!("{:.1} ({:.0} %)", here.bytes_per_sec / 1e9, 100.0 * here.share_of_bandwidth));
                cells.extend([name, format!("{} ± {}", decimals(figures.tokens_per_sec), decimals(figures.sd))]);
                cells.extend(read.into_iter().chain(speed));
            }
            output::line(&row(&cells, &self.widths()))?;
        }
        self.results.push((test, measured));
        Ok(())
    }

    /// Prints what belongs to all tests, or everything as JSON.
    pub(super) fn finish(self) -> Result<()> {
        if self.as_json {
            return output::json(&self.json());
        }
        let peak = system::peak_memory_bytes();
        let limits = self.limits().map_or_else(String::new, |limits| {
            format!(
                "limits here, the best seen: {:.1} GB/s read, {:.0} GOP/s in {}\n",
                limits.read_bytes_per_sec / 1e9,
                limits.ops_per_sec / 1e9,
                arithmetic(self.plan.encoding)
            )
        });
        output::line(&format!(
            "\n{limits}opened in {}{}",
            output::seconds(self.load),
            peak.map_or_else(String::new, |peak| format!(", peak memory {}", output::bytes(peak)))
        ))?;
        for (test, measured) in &self.results {
            if let Some(speed) = sentences_per_sec(*test, measured) {
                output::line(&format!("{}: {speed:.1} sentences/s", test.name()))?;
            }
        }
        for (test, measured) in self.results.iter().filter(|(_, measured)| !measured.profile.is_empty()) {
            output::line("")?;
            output::write(&output::table(&profile_rows(*test, measured), 1))?;
        }
        Ok(())
    }

    /// The best that was measured around any repetition.
    fn limits(&self) -> Option<MachineLimits> {
        let samples = self.results.iter().flat_map(|(_, measured)| &measured.samples);
        samples.filter_map(|sample| Some(sample.here.as_ref()?.limits)).reduce(MachineLimits::max)
    }

    fn json(&self) -> Value {
        let cpu = &self.bench.network.cpu;
        let results: Vec<Value> = self.results.iter().map(|(test, measured)| result(*test, measured)).collect();
        let limits = self.limits().map(|limits| {
            json!({
                "gb_per_sec": limits.read_bytes_per_sec / 1e9,
                "gop_per_sec": limits.ops_per_sec / 1e9,
                "arithmetic": arithmetic(self.plan.encoding),
            })
        });
        json!({
            "model": self.plan.name,
            "parameters": families::parameters(&self.plan.spec).map(|all| all.total),
            "weight_bytes": self.bench.weight_bytes(),
            "encoding": self.plan.encoding.name(),
            "wire": self.plan.wire.map(Wire::name),
            "isa": cpu.isa().name(),
            "threads": cpu.threads(),
            "load_seconds": self.load.as_secs_f64(),
            "limits": limits,
            "results": results,
            "peak_memory_bytes": system::peak_memory_bytes(),
        })
    }
}

/// Means over the repetitions of a test.
struct Figures {
    tokens_per_sec: f64,
    /// Standard deviation of the samples.
    sd: f64,
    /// Where this machine did all of it.
    here: Option<HereFigures>,
}

/// What this machine did.
struct HereFigures {
    bytes_per_sec: f64,
    ops_per_sec: f64,
    /// Of the limits measured around each repetition.
    share_of_bandwidth: f64,
    share_of_arithmetic: f64,
}

/// The mean over samples, of which there are some.
fn mean<T>(samples: &[T], of: impl Fn(&T) -> f64) -> f64 {
    samples.iter().map(of).sum::<f64>() / samples.len() as f64
}

impl Figures {
    fn of(samples: &[Sample]) -> Figures {
        let tokens_per_sec = mean(samples, |sample| sample.tokens_per_sec);
        let squares: f64 = samples.iter().map(|sample| (sample.tokens_per_sec - tokens_per_sec).powi(2)).sum();
        let here: Option<Vec<&Here>> = samples.iter().map(|sample| sample.here.as_ref()).collect();
        let here = here.map(|here| HereFigures {
            bytes_per_sec: mean(&here, |here| here.bytes_per_sec),
            ops_per_sec: mean(&here, |here| here.ops_per_sec),
            share_of_bandwidth: mean(&here, |here| here.bytes_per_sec / here.limits.read_bytes_per_sec),
            share_of_arithmetic: mean(&here, |here| here.ops_per_sec / here.limits.ops_per_sec),
        });
        Figures { tokens_per_sec, sd: (squares / (samples.len() as f64 - 1.0).max(1.0)).sqrt(), here }
    }
}

/// How many sentences were embedded in a second, in the mean.
fn sentences_per_sec(test: Test, measured: &Measured) -> Option<f64> {
    let tokens_each = test.tokens() as f64 / test.batch() as f64;
    (test == Test::Embed).then(|| Figures::of(&measured.samples).tokens_per_sec / tokens_each)
}

/// Mean and standard deviation.
fn seconds_per_step(samples: &[Sample]) -> (f64, f64) {
    let seconds: Vec<f64> = samples.iter().map(|sample| sample.time.as_secs_f64()).collect();
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let squares: f64 = seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum();
    (mean, (squares / (seconds.len() as f64 - 1.0).max(1.0)).sqrt())
}

/// One test as JSON.
fn result(test: Test, measured: &Measured) -> Value {
    let figures = Figures::of(&measured.samples);
    let samples: Vec<f64> = measured.samples.iter().map(|sample| sample.tokens_per_sec).collect();
    let mut value = json!({
        "test": test.name(),
        "tokens": test.tokens(),
        "batch": test.batch(),
        "tokens_per_sec": figures.tokens_per_sec,
        "sd": figures.sd,
        "samples": samples,
    });
    if let Some(here) = &figures.here {
        let bound_by_memory = here.share_of_bandwidth > here.share_of_arithmetic;
        extend(
            &mut value,
            json!({
                "gb_per_sec": here.bytes_per_sec / 1e9,
                "gop_per_sec": here.ops_per_sec / 1e9,
                "share_of_bandwidth": here.share_of_bandwidth,
                "share_of_arithmetic": here.share_of_arithmetic,
                "limit": if bound_by_memory { "bandwidth" } else { "arithmetic" },
                "share_of_limit": here.share_of_bandwidth.max(here.share_of_arithmetic),
            }),
        );
    }
    if let Some(speed) = sentences_per_sec(test, measured) {
        value["sentences_per_sec"] = speed.into();
    }
    if let Test::Train(step) = test {
        let (seconds, _) = seconds_per_step(&measured.samples);
        let activations = if step.keeps_activations { "kept" } else { "recomputed" };
        let more = json!({
            "test": "train",
            "pairs": step.pairs,
            "pair_tokens": step.pair_tokens,
            "rank": step.rank,
            "activations": activations,
            "seconds_per_step": seconds,
            "steps_per_sec": 1.0 / seconds,
            "peak_memory_bytes": measured.peak_memory_bytes,
        });
        extend(&mut value, more);
    }
    if !measured.profile.is_empty() {
        let all = total(measured).as_secs_f64();
        let rows = operations(measured).into_iter().map(|(operation, calls, time)| {
            let seconds = time.as_secs_f64();
            json!({ "operation": operation, "calls": calls, "seconds": seconds, "share": seconds / all })
        });
        value["profile"] = rows.collect();
    }
    value
}

/// Adds the fields of an object to another.
fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// A table of where the time of a test went.
fn profile_rows(test: Test, measured: &Measured) -> Vec<Vec<String>> {
    let (repetitions, all) = (measured.samples.len() as u64, total(measured).as_secs_f64());
    let mut rows = vec![["operation", "calls", "ms", "share"].map(str::to_owned).to_vec()];
    rows[0][0] = format!("{}, once", test.name());
    for (operation, calls, time) in operations(measured) {
        let seconds = time.as_secs_f64();
        let calls = if calls > 0 { (calls / repetitions).to_string() } else { String::new() };
        let milliseconds = format!("{:.2}", 1e3 * seconds / repetitions as f64);
        rows.push(vec![operation.to_owned(), calls, milliseconds, format!("{:.1} %", 100.0 * seconds / all)]);
    }
    rows
}

/// Operations with their calls and times, and what is none of them.
fn operations(measured: &Measured) -> Vec<(&'static str, u64, Duration)> {
    let known = measured.profile.iter().map(|times| times.time).sum();
    let other = total(measured).saturating_sub(known);
    let named = measured.profile.iter().map(|times| (times.operation, times.calls, times.time));
    named.chain([("other", 0, other)]).collect()
}

fn total(measured: &Measured) -> Duration {
    measured.samples.iter().map(|sample| sample.time).sum()
}

/// As many decimals as say something.
fn decimals(number: f64) -> String {
    if number < 100.0 { format!("{number:.2}") } else { format!("{number:.1}") }
}

/// A row of a Markdown table.
fn row(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:>width$} |"));
    format!("|{}", cells.collect::<String>())
}
