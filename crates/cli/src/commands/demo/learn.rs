//! The second half of the demo: the small model learns from pairs of sentences which sentences are alike, is measured
//! before and after, and answers some searches.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_embed::search::Nearest;
use bouquet_embed::sts::ScoredPairs;
use bouquet_embed::vectors::{Label, Rows};
use bouquet_embed::{Embedder, TextEmbedder};
use bouquet_model::adapter::Learned;
use bouquet_model::{Model, Pooling};
use bouquet_span::{Limits, Pass};
use serde_json::{Value, json};

use crate::commands::finetune;
use crate::compute::ComputeArgs;
use crate::interrupt::Work;
use crate::output;

/// Where pairs and scored sentences are, beside the model.
const FOLDER: &str = "demo";

/// What the small model learns with: found on development sets.
const SETTINGS: &str = include_str!("finetune.toml");

/// Searches among all scored sentences; none of them is one.
const QUERIES: [(&str, &str); 3] = [
    ("English", "Someone is playing a musical instrument."),
    ("German", "Ein Hund rennt durch das Wasser."),
    ("French", "Deux personnes font du vélo."),
];

/// Sentences found for each.
const HITS: usize = 2;

/// Languages of the scored sentences, and their files.
const LANGUAGES: [(&str, &str); 5] =
    [("English", "en"), ("German", "de"), ("French", "fr"), ("Spanish", "es"), ("Chinese", "zh")];

/// Tokens after which a sentence is cut, in training as here.
const MAX_TOKENS: usize = 64;

/// What was learned.
pub(super) struct Lesson {
    pairs: usize,
    steps: u64,
    time: Duration,
    /// Language, Spearman before and after.
    scores: Vec<(&'static str, f64, f64)>,
    found: Vec<Answer>,
}

/// A search, and what was found.
struct Answer {
    language: &'static str,
    query: &'static str,
    /// Sentences with their cosines, the nearest first.
    hits: Vec<(String, f32)>,
}

/// Lets the model learn for so many steps.
///
/// # Errors
/// Those of finetune and of embedding; files that are not beside the model.
pub(super) fn learn(model: &Model, steps: u64, compute: &ComputeArgs) -> Result<Lesson> {
    let data = model.folder.parent().unwrap_or(Path::new(".")).join(FOLDER);
    let file = |code: &str| data.join("sts").join(format!("{code}.csv"));
    let scored = LANGUAGES.map(|(_, code)| ScoredPairs::open(&file(code)));
    let scored = scored.into_iter().collect::<Result<Vec<_>, _>>()?;

    let room = tempfile::tempdir()?;
    let adapter = room.path().join("adapter");
    let pairs = data.join("pairs.jsonl");
    let start = Instant::now();
    finetune::quietly(&model.folder, &pairs, SETTINGS, steps, &adapter, compute)?;
    let time = start.elapsed();
    let (learned, _) = Learned::open(&adapter, &model.spec)?;

    let work = Work::begin();
    let pass = Pass { limits: Limits { deadline: None, cancel: work.cancel.clone() }, ..Pass::default() };
    let plain = Learned::default();
    let [before, after] = [&plain, &learned].map(|learned| TextEmbedder {
        tokenizer: &model.tokenizer,
        embedder: Embedder::new(model, learned, Pooling::Mean),
        max_tokens: MAX_TOKENS,
        prefix: "",
        normalize: false,
    });
    let mut scores = Vec::new();
    for ((language, _), pairs) in LANGUAGES.iter().zip(&scored) {
        let spearman = |embedder: &TextEmbedder<'_>| -> Result<f64> {
            let vectors = embedder.embed(&pairs.sentences, &pass)?.vectors;
            Ok(pairs.agreement(vectors.view()).spearman.unwrap_or(0.0))
        };
        scores.push((*language, spearman(&before)?, spearman(&after)?));
    }
    let found = search(model, &after, &scored, &pass)?;
    let pairs = std::fs::read_to_string(&pairs)?.lines().count();
    Ok(Lesson { pairs, steps, time, scores, found })
}

/// Searches among all scored sentences, each once.
fn search(model: &Model, embedder: &TextEmbedder<'_>, scored: &[ScoredPairs], pass: &Pass) -> Result<Vec<Answer>> {
    let sentences: BTreeSet<&String> = scored.iter().flat_map(|pairs| &pairs.sentences).collect();
    let sentences: Vec<&String> = sentences.into_iter().collect();
    let queries = embedder.embed(&QUERIES.map(|(_, query)| query), pass)?.vectors;
    let mut nearest = Nearest::new(queries.view(), HITS);
    let labels = sentences.iter().map(|text| Label { text: Some((*text).clone()), ..Label::default() }).collect();
    nearest.look(&model.cpu, &Rows { vectors: embedder.embed(&sentences, pass)?.vectors, labels });
    let found = nearest.into_hits().into_iter().zip(QUERIES);
    Ok(found
        .map(|(hits, (language, query))| {
            let hits = hits.into_iter().map(|hit| (hit.label.text.unwrap_or_default(), hit.score)).collect();
            Answer { language, query, hits }
        })
        .collect())
}

impl Lesson {
    /// For people.
    pub(super) fn told(&self) -> String {
        let style = output::stdout_style();
        let mut text = format!(
            "\n{}Fine-tuned{} on {} pairs of sentences in nine languages: {} steps in {}.\n\
             How well embeddings follow what people say of the likeness of other sentences (Spearman x 100):\n\n",
            style.strong,
            style.plain,
            output::grouped(self.pairs as u64),
            self.steps,
            output::seconds(self.time)
        );
        let mut rows = vec![["language", "before", "after"].map(str::to_owned).to_vec()];
        for (language, before, after) in &self.scores {
            rows.push(vec![(*language).to_owned(), format!("{before:.1}"), format!("{after:.1}")]);
        }
        text += &output::table(&rows, 1);
        text += "\nWhat it finds among sentences of all five languages:\n";
        for Answer { query, hits, .. } in &self.found {
            text += &format!("\n  {}{query}{}\n", style.good, style.plain);
            for (hit, score) in hits {
                text += &format!("    {score:.2}  {hit}\n");
            }
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let score = |(language, before, after): &(&str, f64, f64)| json!({ "language": language, "spearman_before": before, "spearman_after": after });
        let found = |Answer { language, query, hits }: &Answer| {
            let hits: Vec<Value> = hits.iter().map(|(text, score)| json!({ "text": text, "score": score })).collect();
            json!({ "language": language, "query": query, "found": hits })
        };
        json!({
            "pairs": self.pairs,
            "steps": self.steps,
            "seconds": self.time.as_secs_f64(),
            "scores": self.scores.iter().map(score).collect::<Vec<_>>(),
            "searches": self.found.iter().map(found).collect::<Vec<_>>(),
        })
    }
}
