//! Whitening, the last thing of a run: what was learned embeds sentences of the data, and a linear map is fitted that makes
//! all directions of their embeddings count ([`whitening`]). What is learned does not see it.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use bouquet_embed::{Dense, Embedder, whitening};
use bouquet_kernels::Matrix;
use bouquet_model::ModelSpec;
use bouquet_span::Pass;
use bouquet_tune::config::Config;
use serde_json::{Value, json};

use super::evaluate::{Evaluated, Evaluator, TOKENS_PER_PASS, evenly};
use super::prepare::{Examples, Prepared};
use crate::output;

/// Sentences that are embedded between two reports of progress.
const PART_SENTENCES: usize = 512;

/// What whitens, and what came of it.
pub(super) struct Whitened {
    pub(super) dense: Dense,
    sentences: usize,
    /// Without it and with it, where there is something to evaluate on.
    evaluated: Option<[Evaluated; 2]>,
}

/// The sentences that embeddings are whitened by: as many as the settings say, from all over the data, each once.
///
/// # Errors
/// Too few for the model.
pub(super) fn sentences(config: &Config, examples: &Examples, spec: &ModelSpec) -> Result<Vec<Vec<u32>>> {
    let Examples::Sentences(examples) = examples else { return Ok(Vec::new()) };
    if config.whiten == 0 {
        return Ok(Vec::new());
    }
    let mut seen = HashSet::new();
    let distinct: Vec<&Vec<u32>> = examples.rows.iter().flatten().filter(|sentence| seen.insert(*sentence)).collect();
    let sentences = evenly(distinct, config.whiten);
    whitening::check(sentences.len(), spec.embedding_size)?;
    Ok(sentences.into_iter().cloned().collect())
}

/// Tokens of the largest pass.
pub(super) fn tokens(sentences: &[Vec<u32>]) -> usize {
    let all: usize = sentences.iter().map(Vec::len).sum();
    let longest = sentences.iter().map(Vec::len).max().unwrap_or(0);
    longest.max(all.min(TOKENS_PER_PASS))
}

/// Bytes that the fit works in, and those of the embeddings.
pub(super) fn bytes(sentences: &[Vec<u32>], spec: &ModelSpec) -> u64 {
    match sentences.len() {
        0 => 0,
        count => whitening::bytes(spec.embedding_size).saturating_add(4 * (count * spec.embedding_size) as u64),
    }
}

/// Whitens what `result` learned; `None` where nobody asked for it.
pub(super) fn whiten(prepared: &Prepared, result: &Evaluator<'_>, quiet: bool) -> Result<Option<Whitened>> {
    let sentences = &prepared.whitened_by;
    if sentences.is_empty() {
        return Ok(None);
    }
    let embedder = Embedder::new(result.network, result.learned, result.config.pooling);
    let embedder = Embedder { tokens_per_pass: TOKENS_PER_PASS, ..embedder };
    let pass = Pass { limits: result.limits.clone(), ..Pass::default() };
    let mut progress = output::Progress::new();
    let mut embeddings = Matrix::zeros(0, embedder.features());
    for part in sentences.chunks(PART_SENTENCES) {
        embeddings.push_rows(embedder.embed(part, &pass)?.view());
        progress.show(&format!("whitening: {}/{} sentences", embeddings.rows(), sentences.len()));
    }
    let dense = whitening::fit(embeddings.view(), whitening::RATIO, result.limits)?;
    drop((progress, embeddings));
    let without = prepared.held.evaluate(result)?;
    let with = prepared.held.evaluate(&Evaluator { dense: Some(&dense), ..*result })?;
    let evaluated = without.zip(with).map(<[Evaluated; 2]>::from);
    if !quiet {
        let count = output::grouped(sentences.len() as u64);
        let scores = evaluated.as_ref().map(|[before, after]| format!(": {}, from {}", after.shown, before.shown));
        output::note(&format!("whitened by {count} sentences{}", scores.unwrap_or_default()));
    }
    Ok(Some(Whitened { dense, sentences: sentences.len(), evaluated }))
}

impl Whitened {
    /// For the summary: scores by file, without it and with it.
    pub(super) fn as_json(&self) -> Value {
        let scores = |evaluated: &Evaluated| json!(evaluated.scores.iter().cloned().collect::<BTreeMap<_, _>>());
        let scores = self.evaluated.as_ref().map(|both| both.each_ref().map(scores));
        let [before, after] = scores.unwrap_or_default();
        json!({ "sentences": self.sentences, "before": before, "after": after })
    }
}
