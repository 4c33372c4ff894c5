//! Tasks that embeddings are measured on: files of examples, which are read before any model is, so that a wrong line is
//! said at once, and what a model makes of each.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use bouquet_embed::retrieval::{Found, ParallelSentences, retrieve};
use bouquet_embed::sts::{Agreement, ScoredPairs};
use bouquet_embed::text_embedder::Counts;
use bouquet_kernels::Matrix;
use serde_json::{Value, json};

use crate::embedding::{Embedding, note_losses};
use crate::errors::wrong;
use crate::interrupt::Work;
use crate::output;

/// Files of a folder at most: a wrong folder is more likely than so many.
const MAX_FILES: usize = 10_000;

/// Pairs of sentences with scores.
pub(crate) struct Sts {
    pub(crate) file: PathBuf,
    examples: ScoredPairs,
}

/// What came out of them.
pub(crate) struct Scored {
    pub(crate) file: PathBuf,
    pub(crate) pairs: usize,
    pub(crate) agreement: Agreement,
}

/// Parallel sentences.
pub(crate) struct Retrieval {
    pub(crate) file: PathBuf,
    examples: ParallelSentences,
}

/// What came out of them.
pub(crate) struct Retrieved {
    pub(crate) file: PathBuf,
    pub(crate) pairs: usize,
    /// Sentences of the first column look for those of the second.
    pub(crate) forward: Found,
    pub(crate) backward: Found,
}

/// A model at work on tasks.
pub(crate) struct Measurement<'a> {
    embedding: &'a Embedding,
    work: Work,
    start: Instant,
    counts: Counts,
}

impl Sts {
    /// Reads the files that were named, and those of the folders that were.
    pub(crate) fn open_all(paths: &[PathBuf]) -> Result<Vec<Sts>> {
        let open = |file: PathBuf| Ok(Sts { examples: ScoredPairs::open(&file)?, file });
        files(paths, &["csv"])?.into_iter().map(open).collect()
    }

    pub(crate) fn score(&self, measurement: &mut Measurement) -> Result<Scored> {
        let vectors = measurement.embed(&file_name(&self.file), &self.examples.sentences)?;
        let agreement = self.examples.agreement(vectors.view());
        Ok(Scored { file: self.file.clone(), pairs: self.examples.scores.len(), agreement })
    }
}

impl Scored {
    pub(crate) fn as_json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "pairs": self.pairs,
            "spearman": figure(self.agreement.spearman),
            "pearson": figure(self.agreement.pearson),
        })
    }
}

impl Retrieval {
    /// Reads the files that were named, and those of the folders that were.
    pub(crate) fn open_all(paths: &[PathBuf]) -> Result<Vec<Retrieval>> {
        let open = |file: PathBuf| Ok(Retrieval { examples: ParallelSentences::open(&file)?, file });
        files(paths, &["tsv"])?.into_iter().map(open).collect()
    }

    pub(crate) fn retrieve(&self, measurement: &mut Measurement) -> Result<Retrieved> {
        let name = file_name(&self.file);
        let sources = measurement.embed(&format!("{name}, first column"), &self.examples.sources)?;
        let targets = measurement.embed(&format!("{name}, second column"), &self.examples.targets)?;
        let cpu = &measurement.embedding.model.cpu;
        Ok(Retrieved {
            file: self.file.clone(),
            pairs: self.examples.sources.len(),
            forward: retrieve(cpu, sources.view(), targets.view()),
            backward: retrieve(cpu, targets.view(), sources.view()),
        })
    }
}

impl Retrieved {
    pub(crate) fn as_json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "pairs": self.pairs,
            "forward": found(self.forward),
            "backward": found(self.backward),
        })
    }

    /// The mean over both directions.
    pub(crate) fn accuracy_at_1(&self) -> f64 {
        (self.forward.accuracy_at_1 + self.backward.accuracy_at_1) / 2.0
    }
}

impl<'a> Measurement<'a> {
    pub(crate) fn begin(embedding: &'a Embedding) -> Self {
        Measurement { embedding, work: Work::begin(), start: Instant::now(), counts: Counts::default() }
    }

    fn embed(&mut self, name: &str, sentences: &[String]) -> Result<Matrix> {
        let (mut progress, all) = (output::Progress::new(), sentences.len());
        let shown = &mut |done| progress.show(&format!("{name}: {done}/{all}"));
        let (vectors, counts) = self.embedding.embed(sentences, &self.work, shown)?;
        self.counts += counts;
        Ok(vectors)
    }

    /// Says how the figures came about, behind `before`.
    pub(crate) fn finish(self, before: &str) {
        let (settled, time) = (&self.embedding.settled, self.start.elapsed());
        note_losses(&self.counts, settled.max_tokens);
        output::note(&format!(
            "{before}{} pooling, {} sentences in {} ({})",
            settled.pooling,
            output::grouped(self.counts.texts as u64),
            output::seconds(time),
            output::speed(Some(self.counts.tokens as f64 / time.as_secs_f64()))
        ));
    }
}

/// The files that were named, and those of the folders that were, which end with one of `endings`, by name.
fn files(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(files_of(path, endings)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn files_of(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let entries = folder.read_dir().with_context(|| format!("cannot read {shown}"))?;
    let mut files = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let path = entry.with_context(|| format!("cannot read {shown}"))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        if endings.contains(&ending.as_str()) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let endings = endings.iter().map(|ending| format!(".{ending}")).collect::<Vec<_>>().join(" or ");
        return Err(wrong(format!("{shown} has no file that ends with {endings}"), "give the files themselves"));
    }
    Ok(files)
}

/// The name of a file without its folders.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A figure for JSON; null where there is none.
pub(crate) fn figure(figure: Option<f64>) -> Value {
    figure.map_or(Value::Null, output::number)
}

/// Shares of the whole for JSON, times 100.
pub(crate) fn found(found: Found) -> Value {
    json!({ "accuracy_at_1": 100.0 * found.accuracy_at_1, "mrr": 100.0 * found.mrr })
}
