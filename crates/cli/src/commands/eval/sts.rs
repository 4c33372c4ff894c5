//! `bouquet eval sts`: pairs of sentences with scores.

use std::collections::BTreeMap;

use anyhow::Result;
use bouquet_embed::sts::{Agreement, language};
use serde_json::{Value, json};

use super::chart::bar;
use super::{TaskArgs, named, shown, with_bars};
use crate::output;
use crate::tasks::{Measurement, Scored, Sts, figure, file_name};

pub(super) const HELP: &str = "\
A file is CSV with the columns sentence1, sentence2 and score, named in its first row or in this order without
names; de.test.csv is taken for German. Told are the correlations of Spearman (of ranks; equal ones share theirs)
and of Pearson between cosines of embeddings and scores, times 100, and their means over the files.

In f32, weights are used as they are stored. Compare figures of the same pooling only: mean is what
sentence-transformers takes for a folder that says nothing, weightedmean counts later tokens more.";

pub(super) fn run(args: TaskArgs) -> Result<()> {
    let tasks = Sts::open_all(&args.paths)?;
    let embedding = args.open()?;
    let mut measurement = Measurement::begin(&embedding);
    let scored: Vec<Scored> = tasks.iter().map(|task| task.score(&mut measurement)).collect::<Result<_>>()?;
    let mean = Agreement::mean(&scored.iter().map(|one| one.agreement).collect::<Vec<_>>());
    if args.json {
        output::json(&named(as_json(&scored, mean), &embedding))?;
    } else {
        output::write(&table(&scored, mean))?;
    }
    measurement.finish("");
    Ok(())
}

fn as_json(scored: &[Scored], mean: Agreement) -> Value {
    json!({
        "files": scored.iter().map(Scored::as_json).collect::<Vec<_>>(),
        "mean": { "spearman": figure(mean.spearman), "pearson": figure(mean.pearson) },
    })
}

/// A row a file with a bar; means by language where one has several files; the mean of all.
fn table(scored: &[Scored], mean: Agreement) -> String {
    let titles = ["file", "language", "pairs", "Spearman", "Pearson"].map(str::to_owned).to_vec();
    let row = |name: String, language: String, pairs: String, agreement: Agreement| {
        vec![name, language, pairs, shown(agreement.spearman), shown(agreement.pearson)]
    };
    let (mut rows, mut bars) = (vec![titles], vec![String::new()]);
    let mut languages: BTreeMap<String, Vec<Agreement>> = BTreeMap::new();
    for one in scored {
        let language = language(&one.file);
        if let Some(language) = &language {
            languages.entry(language.clone()).or_default().push(one.agreement);
        }
        let pairs = output::grouped(one.pairs as u64);
        rows.push(row(file_name(&one.file), language.unwrap_or_default(), pairs, one.agreement));
        bars.push(bar(one.agreement.spearman.unwrap_or(0.0) / 100.0));
    }
    for (language, all) in languages.iter().filter(|(_, all)| all.len() > 1) {
        let mean = Agreement::mean(all);
        rows.push(row("mean".to_owned(), language.clone(), String::new(), mean));
        bars.push(bar(mean.spearman.unwrap_or(0.0) / 100.0));
    }
    if scored.len() > 1 {
        rows.push(row("mean".to_owned(), String::new(), String::new(), mean));
        bars.push(bar(mean.spearman.unwrap_or(0.0) / 100.0));
    }
    with_bars(&output::table(&rows, 2), &bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(file: &str, spearman: Option<f64>) -> Scored {
        Scored { file: file.into(), pairs: 1234, agreement: Agreement { spearman, pearson: Some(12.34) } }
    }

    #[test]
    fn a_table_has_means_of_languages_and_of_all() {
        let scored = [scored("x/de.dev.csv", Some(50.0)), scored("de.test.csv", Some(25.0)), scored("all.csv", None)];
        let mean = Agreement::mean(&scored.iter().map(|one| one.agreement).collect::<Vec<_>>());
        let half = "█".repeat(20);
        let expected = format!(
            "  file         language  pairs  Spearman  Pearson\n\
             \x20 de.dev.csv   de        1,234      50.0     12.3  {half}\n\
             \x20 de.test.csv  de        1,234      25.0     12.3  {}\n\
             \x20 all.csv                1,234         -     12.3\n\
             \x20 mean         de                   37.5     12.3  {1}\n\
             \x20 mean                              37.5     12.3  {1}\n",
            "█".repeat(10),
            "█".repeat(15)
        );
        assert_eq!(table(&scored, mean), expected);
        let object = as_json(&scored, mean);
        assert_eq!(object["files"][2]["spearman"], Value::Null);
        assert_eq!(object["mean"]["spearman"], 37.5);
    }
}
