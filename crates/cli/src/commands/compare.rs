//! `bouquet compare`: the embeddings of several models and adapters on the same files of examples, side by side.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_model::checkpoint::new_file;
use bouquet_model::{Encoding, Model, OpenOptions};
use bouquet_span::Rounding;
use bouquet_tune::report::{self, Comparison, Task};
use serde_json::{Value, json};

use crate::compute::ComputeArgs;
use crate::embedding::{PoolingArgs, Prepared};
use crate::errors::asked_wrongly;
use crate::open::{WireArgs, encoding_names, open, options, or_f32};
use crate::swarm::{self, WaitArgs};
use crate::tasks::{Measurement, Retrieval, Retrieved, Scored, Sts, figure, file_name};
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct CompareArgs {
    /// Two or more of `MODEL[,adapter=DIR][,name=NAME]`
    #[arg(required = true, num_args = 2.., value_name = "CANDIDATE", value_parser = candidate)]
    candidates: Vec<Candidate>,
    /// Files with pairs of sentences and scores, or folders of them, as for eval sts
    #[arg(long, num_args = 1.., value_name = "PATH", required_unless_present = "retrieval")]
    sts: Vec<PathBuf>,
    /// Files with parallel sentences, or folders of them, as for eval retrieval
    #[arg(long, num_args = 1.., value_name = "PATH")]
    retrieval: Vec<PathBuf>,
    /// Write a page with the table and a chart, which needs no other file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    pooling: PoolingArgs,
    /// What weights are held in and computed with [default: f32; of an invite what its swarm does]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    waiting: WaitArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  bouquet compare MODEL MODEL,adapter=ADAPTER --sts stsb
  bouquet compare MODEL,adapter=A,name=old MODEL,adapter=B,name=new --sts stsb -o page.html
  bouquet compare MODEL OTHER --sts stsb --retrieval deu-eng.tsv --json

A candidate is a model: its folder, or its name on the hub; then, if wanted, the folder of an
adapter on top, and what to call both. A comma that begins neither belongs to the path.

A row of the table is a file, a column a candidate. What stands there is Spearman's correlation
times 100 for a file of --sts, and for one of --retrieval accuracy@1 times 100, the mean of both
directions; * marks the best of a row. The mean is that of the rows in which all candidates have a
figure. --json has all figures that eval tells.

All candidates are pooled as --pooling says; without it each as its own folder says, else mean. One
model at a time is in memory; candidates of the same model that follow each other share it.";

/// What the figures are, on a page.
const SCORE_OF_STS: &str = "Spearman × 100";
const SCORE_OF_RETRIEVAL: &str = "accuracy@1 × 100, mean of both directions";

/// What is compared, as it was typed.
#[derive(Clone)]
struct Candidate {
    typed: String,
    /// The model of it, as it was typed; of an invite the name of its model.
    shown: String,
    model: PathBuf,
    adapter: Option<PathBuf>,
    name: Option<String>,
}

/// What came out of a candidate.
struct Outcome {
    name: String,
    candidate: Candidate,
    encoding: Encoding,
    wire: Rounding,
    pooling: &'static str,
    max_tokens: usize,
    scored: Vec<Scored>,
    retrieved: Vec<Retrieved>,
}

/// Reads a candidate, for clap.
fn candidate(typed: &str) -> Result<Candidate, String> {
    let mut parts = typed.split(',');
    let (mut model, mut settings) = (parts.next().unwrap_or_default().to_owned(), Vec::<(&str, String)>::new());
    for part in parts {
        match part.split_once('=').filter(|(key, _)| ["adapter", "name"].contains(key)) {
            Some((key, _)) if settings.iter().any(|(before, _)| *before == key) => {
                return Err(format!("it has {key}= twice"));
            }
            Some((key, value)) => settings.push((key, value.to_owned())),
            None => {
                let before = settings.last_mut().map_or(&mut model, |(_, value)| value);
                before.extend([",", part]);
            }
        }
    }
    if model.is_empty() {
        return Err("it names no model".to_owned());
    }
    if let Some((key, _)) = settings.iter().find(|(_, value)| value.is_empty()) {
        return Err(format!("nothing follows {key}="));
    }
    let mut setting =
        |key| settings.iter_mut().find(|(found, _)| *found == key).map(|(_, value)| std::mem::take(value));
    let (adapter, name) = (setting("adapter").map(PathBuf::from), setting("name"));
    // What is told of a candidate others may read.
    let shown = swarm::shown(&model);
    Ok(Candidate { typed: typed.replacen(&model, &shown, 1), shown, model: model.into(), adapter, name })
}

pub(crate) fn run(args: CompareArgs) -> Result<()> {
    let names = names(&args.candidates)?;
    let (sts, retrieval) = (Sts::open_all(&args.sts)?, Retrieval::open_all(&args.retrieval)?);
    if let Some(page) = &args.output {
        // Shows whether it can be written, and leaves nothing.
        new_file::begin(page)?;
    }
    let prepare = |candidate: &Candidate| {
        let folder = hub::folder_or_ends(candidate.model.clone(), &args.waiting.into())?;
        or_f32(args.encoding, &folder)?;
        Prepared::open(&folder, candidate.adapter.as_deref(), args.pooling)
    };
    let prepared: Vec<Prepared> = args.candidates.iter().map(prepare).collect::<Result<_>>()?;
    let mut outcomes = Vec::new();
    let mut last: Option<(PathBuf, Model)> = None;
    for ((candidate, name), prepared) in args.candidates.into_iter().zip(names).zip(prepared) {
        let folder = prepared.folder.clone();
        // One that is not used again goes before the next comes.
        let how = options(args.compute.cpu()?, or_f32(args.encoding, &folder)?);
        let how = OpenOptions { rounding: WireArgs { wire: None }.of(&folder)?, ..how };
        let model = match last.take().filter(|(before, _)| *before == folder) {
            Some((_, model)) => model,
            None => open(&folder, &how)?.model,
        };
        let embedding = prepared.with(model, &how);
        let mut measurement = Measurement::begin(&embedding);
        outcomes.push(Outcome {
            candidate,
            encoding: embedding.encoding,
            wire: embedding.wire,
            pooling: embedding.settled.pooling.name(),
            max_tokens: embedding.settled.max_tokens,
            scored: sts.iter().map(|task| task.score(&mut measurement)).collect::<Result<_>>()?,
            retrieved: retrieval.iter().map(|task| task.retrieve(&mut measurement)).collect::<Result<_>>()?,
            name: name.clone(),
        });
        measurement.finish(&format!("{name}: "));
        last = Some((folder, embedding.model));
    }
    // A swarm has an encoding of its own.
    let first = outcomes.first().map(|outcome| outcome.encoding);
    let encoding = first.filter(|first| outcomes.iter().all(|outcome| outcome.encoding == *first));
    let comparison = comparison(&outcomes, encoding);
    if let Some(page) = &args.output {
        report::save(page, &report::comparison(&comparison))?;
        output::note(&format!("wrote {}", page.display()));
    }
    if args.json {
        return output::json(&as_json(&outcomes, &comparison, encoding));
    }
    output::write(&table(&comparison))
}

/// What candidates are called: as was asked, or after their folders.
fn names(candidates: &[Candidate]) -> Result<Vec<String>> {
    let named = candidates.iter().map(|candidate| {
        let adapter = candidate.adapter.as_deref().map(|adapter| format!(" + {}", file_name(adapter)));
        let short = file_name(Path::new(&candidate.shown)) + &adapter.unwrap_or_default();
        match &candidate.name {
            Some(name) => (name.clone(), name.clone()),
            None => (short, candidate.typed.clone()),
        }
    });
    let names = distinct(named.collect());
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        None => Ok(names),
        Some((_, name)) => Err(asked_wrongly(
            format!("two candidates are called {name}"),
            "tell them apart with names: MODEL,adapter=DIR,name=NAME",
        )),
    }
}

/// The short ones of pairs of names, and the long ones where several have the same short one.
fn distinct(names: Vec<(String, String)>) -> Vec<String> {
    let is_shared = |short: &String| names.iter().filter(|(other, _)| other == short).count() > 1;
    names.iter().map(|(short, long)| if is_shared(short) { long.clone() } else { short.clone() }).collect()
}

/// The main figure of each file and candidate. All outcomes are of the same files.
fn comparison(outcomes: &[Outcome], encoding: Option<Encoding>) -> Comparison {
    let scores = |outcome: &Outcome| -> Vec<Option<f64>> {
        let scored = outcome.scored.iter().map(|one| one.agreement.spearman);
        scored.chain(outcome.retrieved.iter().map(|one| Some(100.0 * one.accuracy_at_1()))).collect()
    };
    let columns: Vec<Vec<Option<f64>>> = outcomes.iter().map(scores).collect();
    let (scored, retrieved) = (&outcomes[0].scored, &outcomes[0].retrieved);
    let files = scored.iter().map(|one| &one.file).chain(retrieved.iter().map(|one| &one.file));
    let tasks = distinct(files.map(|file| (file_name(file), file.display().to_string())).collect());
    let score = match (scored.is_empty(), retrieved.is_empty()) {
        (false, true) => SCORE_OF_STS.to_owned(),
        (true, false) => SCORE_OF_RETRIEVAL.to_owned(),
        _ => format!("{SCORE_OF_STS} of scored pairs, {SCORE_OF_RETRIEVAL}, of parallel sentences"),
    };
    let told = |outcome: &Outcome| {
        let (pooling, tokens) = (outcome.pooling, output::tokens(outcome.max_tokens));
        (outcome.name.clone(), format!("{}; {pooling} pooling, texts of up to {tokens}", outcome.candidate.typed))
    };
    let weights = match encoding {
        Some(Encoding::F32) => "computed with as they are stored".to_owned(),
        Some(encoding) => encoding.to_string(),
        None => "computed with in the encoding of each".to_owned(),
    };
    Comparison {
        title: "Embeddings side by side".to_owned(),
        score,
        higher_is_better: true,
        models: outcomes.iter().map(|outcome| outcome.name.clone()).collect(),
        tasks: tasks
            .into_iter()
            .enumerate()
            .map(|(row, name)| Task { name, scores: columns.iter().map(|column| column[row]).collect() })
            .collect(),
        notes: outcomes.iter().map(told).chain([("weights".to_owned(), weights)]).collect(),
    }
}

/// A row a file, a column a candidate; the best of a row has a star.
fn table(comparison: &Comparison) -> String {
    let row = |name: &str, scores: &[Option<f64>]| {
        let best = comparison.best(scores);
        let cell = |score: &Option<f64>| match score {
            Some(figure) => format!("{figure:.2} {}", if *score == best { '*' } else { ' ' }),
            None => "-  ".to_owned(),
        };
        [name.to_owned()].into_iter().chain(scores.iter().map(cell)).collect::<Vec<String>>()
    };
    // Names end where figures do, not where stars do.
    let titles = comparison.models.iter().map(|name| format!("{name}  "));
    let mut rows = vec![["task".to_owned()].into_iter().chain(titles).collect()];
    rows.extend(comparison.tasks.iter().map(|task| row(&task.name, &task.scores)));
    if let Some((name, means)) = comparison.foot() {
        rows.push(row(&name, &means.into_iter().map(Some).collect::<Vec<_>>()));
    }
    output::table(&rows, 1)
}

fn as_json(outcomes: &[Outcome], comparison: &Comparison, encoding: Option<Encoding>) -> Value {
    let means = comparison.means();
    let outcome = |(index, outcome): (usize, &Outcome)| {
        json!({
            "name": outcome.name,
            "model": outcome.candidate.shown,
            "adapter": outcome.candidate.adapter.as_ref().map(|adapter| adapter.display().to_string()),
            "encoding": outcome.encoding.name(),
            "wire": outcome.wire.name(),
            "pooling": outcome.pooling,
            "max_tokens": outcome.max_tokens,
            "sts": outcome.scored.iter().map(Scored::as_json).collect::<Vec<_>>(),
            "retrieval": outcome.retrieved.iter().map(Retrieved::as_json).collect::<Vec<_>>(),
            "mean": figure(means.as_ref().map(|means| means[index])),
        })
    };
    let candidates: Vec<Value> = outcomes.iter().enumerate().map(outcome).collect();
    json!({ "encoding": encoding.map(Encoding::name), "candidates": candidates })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_a_model_an_adapter_and_a_name() {
        let read = |typed: &str| {
            let candidate = candidate(typed)?;
            let adapter = candidate.adapter.map(|adapter| adapter.display().to_string());
            Ok::<_, String>((candidate.model.display().to_string(), adapter, candidate.name))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(r"C:\models\a").unwrap(), (r"C:\models\a".to_owned(), None, None));
        assert_eq!(read("org/m@main,name=m, new").unwrap(), ("org/m@main".to_owned(), None, some("m, new")));
        assert_eq!(read("a,b=c,name=n,adapter=x,y").unwrap(), ("a,b=c".to_owned(), some("x,y"), some("n")));
        for (typed, problem) in [
            ("", "it names no model"),
            (",adapter=x", "it names no model"),
            ("m,adapter=", "nothing follows adapter="),
            ("m,name=a,name=b", "it has name= twice"),
        ] {
            assert_eq!(read(typed).unwrap_err(), problem, "{typed}");
        }
    }

    #[test]
    fn names_are_short_and_differ() {
        let names = |typed: &[&str]| {
            let candidates: Vec<Candidate> = typed.iter().map(|typed| candidate(typed).unwrap()).collect();
            super::names(&candidates).map_err(|error| error.to_string())
        };
        assert_eq!(names(&["x/m", "x/m,adapter=y/a", "x/m,name=z"]).unwrap(), ["m", "m + a", "z"]);
        assert_eq!(names(&["x/m", "y/m", "n"]).unwrap(), ["x/m", "y/m", "n"]);
        assert_eq!(names(&["x/m", "x/m"]).unwrap_err(), "two candidates are called x/m");
        assert!(names(&["x/m", "y,name=m", "z,name=m"]).is_err());
    }

    #[test]
    fn the_best_of_a_row_has_a_star() {
        let task = |name: &str, scores: [Option<f64>; 2]| Task { name: name.to_owned(), scores: scores.to_vec() };
        let comparison = Comparison {
            title: String::new(),
            score: String::new(),
            higher_is_better: true,
            models: vec!["base".to_owned(), "tuned".to_owned()],
            tasks: vec![
                task("de.csv", [Some(26.0), Some(39.125)]),
                task("en.csv", [Some(-1.0), Some(-1.0)]),
                task("fr.csv", [Some(3.0), None]),
            ],
            notes: vec![],
        };
        assert_eq!(
            table(&comparison),
            "  task                                base    tuned\n\
             \x20 de.csv                             26.00    39.12 *\n\
             \x20 en.csv                             -1.00 *  -1.00 *\n\
             \x20 fr.csv                              3.00        -\n\
             \x20 mean of the 2 tasks that all have  12.50    19.06 *\n"
        );
    }
}
