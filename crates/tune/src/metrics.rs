//! `metrics.jsonl`: what a run measures, a line of JSON each, appended as it happens.
//!
//! ```json
//! {"kind":"train","step":7,"loss":0.52,"learning_rate":0.0003,"grad_norm":1.5,"tokens":2048,"seconds":2.5,"tokens_per_second":819.2,"memory_bytes":1234567890}
//! {"kind":"evaluation","step":7,"name":"stsb-dev","scores":{"spearman":0.81}}
//! ```
//!
//! A program that is killed may leave half a line; nobody minds. A run that goes on from a checkpoint first cuts the file
//! back to the step of that checkpoint, so that every step is in it once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use bouquet_model::ModelError;
use bouquet_model::checkpoint::new_file::write_whole;

/// Longer lines are no metrics.
const LONGEST_LINE: u64 = 1 << 20;

/// A line. Fields that are not known are passed over, so that older versions read what newer ones wrote.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Metric {
    /// A step was taken.
    Train(TrainStep),
    /// What was learned so far was evaluated.
    Evaluation(Evaluation),
}

/// A step of training.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct TrainStep {
    /// Steps taken, this one among them.
    pub step: u64,
    /// Mean loss of the step's batch; NaN is `null` in JSON.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients before they were clipped; NaN is `null` in JSON.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Tokens of the step's batch.
    pub tokens: u64,
    /// How long the step took.
    pub seconds: f64,
    /// Its tokens by its seconds.
    pub tokens_per_second: f64,
    /// The most memory that the process has held so far.
    pub memory_bytes: u64,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Evaluation {
    /// Steps taken before it.
    pub step: u64,
    /// What was evaluated on.
    pub name: String,
    /// Scores by their names, such as `spearman`; NaN is `null` in JSON.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub scores: BTreeMap<String, f64>,
}

impl Metric {
    /// Steps taken by then.
    pub fn step(&self) -> u64 {
        match self {
            Metric::Train(train) => train.step,
            Metric::Evaluation(evaluation) => evaluation.step,
        }
    }

    /// The step, if it is one.
    pub fn train(&self) -> Option<&TrainStep> {
        match self {
            Metric::Train(step) => Some(step),
            Metric::Evaluation(_) => None,
        }
    }

    /// The evaluation, if it is one.
    pub fn evaluation(&self) -> Option<&Evaluation> {
        match self {
            Metric::Evaluation(evaluation) => Some(evaluation),
            Metric::Train(_) => None,
        }
    }
}

/// Why metrics could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written anew.
    #[error(transparent)]
    Anew(#[from] ModelError),
    /// The file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is not the last one is no metric.
    #[error("line {line} of {path} is no metric: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

/// All metrics of a file, in order; a last line that a kill tore is left out.
///
/// # Errors
/// [`MetricsError::Read`], [`MetricsError::Line`].
pub fn read(path: &Path) -> Result<Vec<Metric>, MetricsError> {
    let cannot_read = |source| MetricsError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(cannot_read)?);
    let (mut metrics, mut bytes, mut torn) = (Vec::new(), Vec::new(), None);
    for line in 1.. {
        bytes.clear();
        reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes).map_err(cannot_read)?;
        if bytes.is_empty() {
            break;
        }
        if let Some(error) = torn {
            return Err(error);
        }
        match serde_json::from_slice(&bytes) {
            Ok(metric) if bytes.ends_with(b"\n") => metrics.push(metric),
            // Half a line can be whole JSON by chance; what is appended to it would not be.
            Ok(_) => {}
            Err(error) => torn = Some(MetricsError::Line { path: path.to_owned(), line, reason: error.to_string() }),
        }
    }
    Ok(metrics)
}

/// A file that grows line by line.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file of a run that has taken `step` steps, and returns what it has of them; what it has of later steps
    /// is cut off (all of it, for a run that begins).
    ///
    /// # Errors
    /// [`MetricsError::Read`] (not for want of a file), [`MetricsError::Write`], [`MetricsError::Line`].
    pub fn open(path: &Path, step: u64) -> Result<(MetricsFile, Vec<Metric>), MetricsError> {
        let mut metrics = match read(path) {
            Err(MetricsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            // A run that begins has no use for what it cannot read.
            Err(MetricsError::Line { .. }) if step == 0 => Vec::new(),
            metrics => metrics?,
        };
        metrics.retain(|metric| step > 0 && metric.step() <= step);
        let cannot_write = |source| MetricsError::Write { path: path.to_owned(), source };
        write_whole(path, &metrics.iter().flat_map(line_of).collect::<Vec<u8>>())?;
        let file = OpenOptions::new().append(true).open(path).map_err(cannot_write)?;
        Ok((MetricsFile { path: path.to_owned(), file }, metrics))
    }

    /// Appends a line; other programs see it at once.
    ///
    /// # Errors
    /// [`MetricsError::Write`].
    pub fn append(&mut self, metric: &Metric) -> Result<(), MetricsError> {
        let written = self.file.write_all(&line_of(metric)).and_then(|()| self.file.flush());
        written.map_err(|source| MetricsError::Write { path: self.path.clone(), source })
    }
}

fn line_of(metric: &Metric) -> Vec<u8> {
    let mut line = serde_json::to_vec(metric).expect("a metric is JSON");
    line.push(b'\n');
    line
}

/// JSON has no NaN and no infinity; their line has `null`.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nulls_are_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let scores = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(scores.into_iter().map(|(name, score)| (name, score.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn train(step: u64) -> Metric {
        Metric::Train(TrainStep {
            step,
            loss: 1.0 / step as f64,
            learning_rate: 3e-4,
            grad_norm: 0.1,
            tokens: 2048,
            seconds: 2.5,
            tokens_per_second: 819.2,
            memory_bytes: 1 << 40,
        })
    }

    fn evaluation(step: u64) -> Metric {
        let scores = [("pearson".to_owned(), 0.1), ("spearman".to_owned(), -0.2)].into();
        Metric::Evaluation(Evaluation { step, name: "a \"name\"\nof two lines".to_owned(), scores })
    }

    /// A file with three steps and an evaluation after the second.
    fn filled(folder: &Path) -> (PathBuf, Vec<Metric>) {
        let path = folder.join("metrics.jsonl");
        let metrics = vec![train(1), train(2), evaluation(2), train(3)];
        let (mut file, before) = MetricsFile::open(&path, 0).unwrap();
        assert_eq!(before, []);
        metrics.iter().for_each(|metric| file.append(metric).unwrap());
        (path, metrics)
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, metrics) = filled(folder.path());
        assert_eq!(read(&path).unwrap(), metrics);
        let first = fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        assert!(first.starts_with(r#"{"kind":"train","step":1,"loss":1.0,"#), "{first}");
    }

    #[test]
    fn a_resumed_run_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let (path, metrics) = filled(folder.path());
        let (mut file, kept) = MetricsFile::open(&path, 2).unwrap();
        assert_eq!(kept, metrics[..3]);
        file.append(&train(3)).unwrap();
        assert_eq!(read(&path).unwrap(), metrics);
        MetricsFile::open(&path, 0).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn a_file_torn_anywhere_loses_its_last_line_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, metrics) = filled(folder.path());
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let whole = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(read(&path).unwrap(), metrics[..whole], "{length} bytes");
        }
        // A disk may also give zeros for what it had not written.
        fs::write(&path, [&bytes[..], &[0; 100]].concat()).unwrap();
        let (mut file, kept) = MetricsFile::open(&path, 3).unwrap();
        assert_eq!(kept, metrics);
        file.append(&train(4)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 5);
    }

    #[test]
    fn other_lines_that_are_no_metrics_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = filled(folder.path());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"loss\":0.5", "\"lost\":0.5", 1)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2 of") && error.contains("missing field `loss`"), "{error}");
        assert!(MetricsFile::open(&path, 2).is_err());
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        assert!(matches!(read(&path), Err(MetricsError::Line { line: 1, .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(MetricsError::Read { .. })));
    }

    #[test]
    fn what_is_no_number_is_null() {
        let Metric::Train(mut step) = train(1) else { unreachable!() };
        step.loss = f64::NAN;
        let line = line_of(&Metric::Train(step));
        let Metric::Train(step) = serde_json::from_slice(&line).unwrap() else { panic!("an evaluation") };
        assert!(step.loss.is_nan() && step.grad_norm == 0.1);

        let scores = [("spearman".to_owned(), f64::NAN)].into();
        let line = line_of(&Metric::Evaluation(Evaluation { step: 1, name: "sts".to_owned(), scores }));
        let Metric::Evaluation(found) = serde_json::from_slice(&line).unwrap() else { panic!("a step") };
        assert!(found.scores["spearman"].is_nan());
    }
}
