//! `bouquet eval retrieval`: parallel sentences, each to be found by its translation.

use anyhow::Result;
use bouquet_embed::retrieval::Found;
use serde_json::{Value, json};

use super::chart::bar;
use super::{TaskArgs, named};
use crate::output;
use crate::tasks::{Measurement, Retrieval, Retrieved, file_name, found};

pub(super) const HELP: &str = "\
A file has a pair a line: a sentence, a tab, its translation. Each sentence of one side looks for the nearest one
of the other side, by cosine; what is as near counts as nearer if it comes first. Told are the share of sentences
that find their own translation (accuracy@1) and the mean of one through the rank of the translation (MRR), both
times 100, in both directions.";

pub(super) fn run(args: TaskArgs) -> Result<()> {
    let tasks = Retrieval::open_all(&args.paths)?;
    let embedding = args.open()?;
    let mut measurement = Measurement::begin(&embedding);
    let retrieved: Vec<Retrieved> = tasks.iter().map(|task| task.retrieve(&mut measurement)).collect::<Result<_>>()?;
    if args.json {
        output::json(&named(as_json(&retrieved), &embedding))?;
    } else {
        output::write(&table(&retrieved))?;
    }
    measurement.finish("");
    Ok(())
}

/// The means over all files, forward and backward.
fn means(retrieved: &[Retrieved]) -> (Found, Found) {
    let mean = |of: fn(&Retrieved) -> Found| {
        let mean = |figure: fn(&Found) -> f64| {
            retrieved.iter().map(|one| figure(&of(one))).sum::<f64>() / retrieved.len() as f64
        };
        Found { accuracy_at_1: mean(|found| found.accuracy_at_1), mrr: mean(|found| found.mrr) }
    };
    (mean(|one| one.forward), mean(|one| one.backward))
}

fn as_json(retrieved: &[Retrieved]) -> Value {
    let (forward, backward) = means(retrieved);
    json!({
        "files": retrieved.iter().map(Retrieved::as_json).collect::<Vec<_>>(),
        "mean": { "forward": found(forward), "backward": found(backward) },
    })
}

/// A row a file, with a bar for the mean accuracy of both directions.
fn table(retrieved: &[Retrieved]) -> String {
    let titles = ["file", "pairs", "accuracy@1", "MRR", "back: accuracy@1", "MRR"];
    let (mut rows, mut bars) = (vec![titles.map(str::to_owned).to_vec()], vec![String::new()]);
    let mut add = |name: String, pairs: String, forward: Found, backward: Found| {
        let figures = [forward.accuracy_at_1, forward.mrr, backward.accuracy_at_1, backward.mrr];
        let figures = figures.map(|figure| format!("{:.1}", 100.0 * figure));
        rows.push([name, pairs].into_iter().chain(figures).collect());
        bars.push(bar((forward.accuracy_at_1 + backward.accuracy_at_1) / 2.0));
    };
    for one in retrieved {
        add(file_name(&one.file), output::grouped(one.pairs as u64), one.forward, one.backward);
    }
    if retrieved.len() > 1 {
        let (forward, backward) = means(retrieved);
        add("mean".to_owned(), String::new(), forward, backward);
    }
    super::with_bars(&output::table(&rows, 1), &bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_both_directions_and_the_mean() {
        let found = |accuracy_at_1, mrr| Found { accuracy_at_1, mrr };
        let one = |file: &str, forward, backward| Retrieved { file: file.into(), pairs: 1000, forward, backward };
        let all = [
            one("x/deu-eng.tsv", found(0.5, 0.75), found(0.25, 0.5)),
            one("fra-eng.tsv", found(0.25, 0.25), found(0.0, 0.125)),
        ];
        let table = table(&all);
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], format!("deu-eng.tsv 1,000 50.0 75.0 25.0 50.0 {}", "█".repeat(15)));
        assert_eq!(lines[3], format!("mean 37.5 50.0 12.5 31.2 {}", "█".repeat(10)));
        let object = as_json(&all);
        assert_eq!(object["mean"]["backward"]["mrr"], 31.25);
        assert_eq!(object["files"][0]["forward"]["accuracy_at_1"], 50.0);
    }
}
