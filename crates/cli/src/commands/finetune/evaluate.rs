//! What a run is evaluated on, and the score that decides which step was the best: of pairs with scores Spearman's
//! correlation, of pairs without the mean reciprocal rank at which a text finds its partner among those of all pairs, of
//! texts their loss.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use bouquet_embed::correlation::spearman;
use bouquet_embed::retrieval::retrieve;
use bouquet_embed::sts::cosine;
use bouquet_embed::{Dense, Embedder};
use bouquet_kernels::Matrix;
use bouquet_model::adapter::Learned;
use bouquet_model::{ChatTemplate, ModelSpec, Network, Tokenizer};
use bouquet_span::{Limits, Pass};
use bouquet_tune::config::{Config, Objective};
use bouquet_tune::data::{ColumnMap, Record, RecordKind};
use bouquet_tune::examples::{Sentences, Texts};
use bouquet_tune::gradient::{PassPlan, Training};

use super::prepare::{columns, read, sentences, texts};
use crate::errors::wrong;
use crate::output;

/// Tokens of a pass, at most, unless one text has more.
pub(super) const TOKENS_PER_PASS: usize = 1024;

/// Pairs of a file among which partners are looked for, at most: all their vectors are held, and each is compared with
/// each.
const MAX_PAIRS: usize = 2000;

/// What evaluations are made on.
pub(super) enum Held {
    Nothing,
    /// Sentences with scores, file by file.
    Scored(Vec<(String, Sentences)>),
    /// Sentences that belong together, file by file.
    Pairs(Vec<(String, Sentences)>),
    Texts(Texts),
}

/// What was learned so far, on its model.
pub(super) struct Evaluator<'a> {
    pub(super) config: &'a Config,
    pub(super) network: &'a Network,
    pub(super) learned: &'a Learned,
    /// What whitens embeddings.
    pub(super) dense: Option<&'a Dense>,
    pub(super) plan: PassPlan,
    pub(super) limits: &'a Limits,
}

/// What came of an evaluation.
pub(super) struct Evaluated {
    /// By the names of files, scores by theirs.
    pub(super) scores: Vec<(String, BTreeMap<String, f64>)>,
    /// The larger the better: the mean over all files.
    pub(super) score: f64,
    /// The same in words.
    pub(super) shown: String,
}

impl Held {
    /// Reads the files that the settings name.
    pub(super) fn read(
        config: &Config,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        spec: &ModelSpec,
        quiet: bool,
    ) -> Result<Held> {
        if config.eval_data.is_empty() {
            return Ok(Held::Nothing);
        }
        if config.objective == Objective::Causal {
            let data = read(&config.eval_data, columns(config)?, config, RecordKind::Continuations, quiet)?;
            return Ok(Held::Texts(texts(&data.records, config, tokenizer, template, spec)?));
        }
        // Columns that texts alone are read from make no pairs.
        let of_texts = config.objective == Objective::Simcse;
        let (mut scored, mut pairs) = (Vec::new(), Vec::new());
        for path in &config.eval_data {
            let columns = if of_texts { ColumnMap::default() } else { columns(config)? };
            let data = read(std::slice::from_ref(path), columns, config, RecordKind::Compared, quiet)?;
            let name = Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let name = name.unwrap_or_else(|| path.clone());
            let has_scores = matches!(data.records.first(), Some(Record::Scored { .. }));
            let records = if has_scores { data.records } else { spread(data.records, path) };
            let sentences = Sentences::new(sentences(&records, config, tokenizer)?, &records, 1.0);
            let files = if has_scores { &mut scored } else { &mut pairs };
            files.push((name, sentences));
        }
        match (scored.first(), pairs.first()) {
            (Some((scored, _)), Some((pairs, _))) => Err(wrong(
                format!("of the files to evaluate on, {scored} has scores and {pairs} has none"),
                "give --eval-data files of one kind: with scores for Spearman's correlation, without for retrieval",
            )),
            (_, None) => Ok(Held::Scored(scored)),
            (None, _) => Ok(Held::Pairs(pairs)),
        }
    }

    /// All its texts as token ids.
    pub(super) fn sequences(&self) -> Box<dyn Iterator<Item = &Vec<u32>> + '_> {
        match self {
            Held::Nothing => Box::new(std::iter::empty()),
            Held::Scored(files) | Held::Pairs(files) => {
                Box::new(files.iter().flat_map(|(_, file)| file.rows.iter().flatten()))
            }
            Held::Texts(texts) => Box::new(texts.sequences.iter()),
        }
    }

    /// Tokens of the largest pass.
    pub(super) fn tokens(&self) -> usize {
        let all: usize = self.sequences().map(Vec::len).sum();
        let longest = self.sequences().map(Vec::len).max().unwrap_or(0);
        longest.max(all.min(TOKENS_PER_PASS))
    }

    /// Vectors that are held at once.
    pub(super) fn vectors(&self) -> usize {
        let largest = |files: &[(String, Sentences)]| files.iter().map(|(_, file)| file.rows.len()).max().unwrap_or(0);
        match self {
            Held::Nothing | Held::Texts(_) => 0,
            Held::Scored(files) => 2 * largest(files),
            // And the same with a length of 1.
            Held::Pairs(files) => 4 * largest(files),
        }
    }

    /// Evaluates; `None` where there is nothing to do it on.
    pub(super) fn evaluate(&self, evaluator: &Evaluator<'_>) -> bouquet_tune::Result<Option<Evaluated>> {
        let mut scores = Vec::new();
        let mut add = |name: &str, of_file: &[(&str, f64)]| {
            scores.push((name.to_owned(), of_file.iter().map(|&(score, value)| (score.to_owned(), value)).collect()));
        };
        match self {
            Held::Nothing => return Ok(None),
            Held::Scored(files) => {
                for (file, sentences) in files {
                    add(file, &[("spearman", evaluator.spearman(sentences)?)]);
                }
            }
            Held::Pairs(files) => {
                for (file, sentences) in files {
                    let [accuracy, mrr] = evaluator.retrieval(sentences)?;
                    add(file, &[("accuracy@1", accuracy), ("mrr", mrr)]);
                }
            }
            Held::Texts(texts) => add("texts", &[("loss", evaluator.loss(texts)?)]),
        }
        let mean = |score: &str| {
            let of_files = scores.iter().map(|(_, of_file): &(String, BTreeMap<String, f64>)| of_file[score]);
            of_files.sum::<f64>() / scores.len() as f64
        };
        let (score, shown) = match self {
            Held::Texts(_) => (-mean("loss"), format!("loss {:.4}", mean("loss"))),
            Held::Pairs(_) => (mean("mrr"), format!("accuracy@1 {:.2}, MRR {:.2}", mean("accuracy@1"), mean("mrr"))),
            _ => (mean("spearman"), format!("Spearman {:.2}", mean("spearman"))),
        };
        Ok(Some(Evaluated { scores, score, shown }))
    }
}

impl Evaluator<'_> {
    /// Spearman's correlation of sentences' scores and the cosines of their embeddings, times 100.
    fn spearman(&self, sentences: &Sentences) -> bouquet_tune::Result<f64> {
        let [first, second] = self.embed(sentences)?;
        let cosines: Vec<f64> = (0..first.rows()).map(|row| cosine(first.row(row), second.row(row))).collect();
        let scores: Vec<f64> = sentences.scores.iter().map(|&score| f64::from(score)).collect();
        Ok(100.0 * spearman(&cosines, &scores).unwrap_or(0.0))
    }

    /// How well anchors find their positives, times 100: accuracy@1 and the mean reciprocal rank.
    fn retrieval(&self, sentences: &Sentences) -> bouquet_tune::Result<[f64; 2]> {
        let [anchors, positives] = self.embed(sentences)?;
        let found = retrieve(&self.network.cpu, anchors.view(), positives.view());
        Ok([found.accuracy_at_1, found.mrr].map(|share| 100.0 * share))
    }

    /// The vectors of the first and of the second sentence of each pair.
    fn embed(&self, sentences: &Sentences) -> bouquet_tune::Result<[Matrix; 2]> {
        let embedder = Embedder::new(self.network, self.learned, self.config.pooling);
        let embedder = Embedder { dense: self.dense, tokens_per_pass: TOKENS_PER_PASS, ..embedder };
        let pass = Pass { limits: self.limits.clone(), ..Pass::default() };
        let view = |view: usize| -> bouquet_tune::Result<Matrix> {
            let sequences: Vec<Vec<u32>> = sentences.rows.iter().map(|row| row[view].clone()).collect();
            Ok(embedder.embed(&sequences, &pass)?)
        };
        Ok([view(0)?, view(1)?])
    }

    fn loss(&self, texts: &Texts) -> bouquet_tune::Result<f64> {
        let training = Training {
            network: self.network,
            learned: self.learned,
            sentences: (self.config.pooling, self.config.sentence_loss()),
            plan: self.plan,
            draw: (0, 0),
            limits: self.limits,
        };
        Ok(training.loss_of_texts(&texts.sequences, &texts.learned)?)
    }
}

/// As many pairs as are compared, from all over the file.
fn spread(records: Vec<Record>, file: &str) -> Vec<Record> {
    let all = records.len();
    if all > MAX_PAIRS {
        let [kept, of_all] = [MAX_PAIRS, all].map(|count| output::grouped(count as u64));
        output::note(&format!("{file}: evaluated on {kept} of its {of_all} pairs, evenly spread"));
    }
    evenly(records, MAX_PAIRS)
}

/// So many, from all over; all where there are not more.
pub(super) fn evenly<T>(all: Vec<T>, kept: usize) -> Vec<T> {
    let (count, kept) = (all.len().max(1), kept.min(all.len()));
    let due = |index: usize| (index as u128 * kept as u128 / count as u128) as usize;
    let numbered = all.into_iter().enumerate();
    numbered.filter(|(index, _)| due(index + 1) > due(*index)).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pairs_are_thinned_evenly_and_few_are_kept() {
        let texts = |count: usize| (0..count).map(|row| Record::Text(row.to_string())).collect::<Vec<_>>();
        assert_eq!(spread(texts(MAX_PAIRS), "a"), texts(MAX_PAIRS));
        let kept = spread(texts(2 * MAX_PAIRS), "a");
        let odd = (0..MAX_PAIRS).map(|pair| Record::Text((2 * pair + 1).to_string()));
        assert_eq!(kept, odd.collect::<Vec<_>>());
        assert_eq!(spread(texts(MAX_PAIRS + 1), "a").len(), MAX_PAIRS);
    }
}
