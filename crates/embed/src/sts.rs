//! Semantic textual similarity: how well the cosines of pairs of sentences follow the scores that people gave them.
//!
//! A file is CSV: `sentence1,sentence2,score`, with these names in its first row, in any order and beside others, or
//! without names and with just these columns. Higher scores are more alike; their range does not matter.

use std::io::Read;
use std::path::Path;

use bouquet_kernels::MatrixView;
use csv::{ReaderBuilder, StringRecord};

use crate::correlation::{pearson, spearman};
use crate::{EmbedError, Result};

/// Bytes of a file that are read at most.
const MAX_BYTES: u64 = 256 << 20;

/// The columns by their names.
const COLUMNS: [&str; 3] = ["sentence1", "sentence2", "score"];

/// Pairs of sentences with their scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredPairs {
    /// All sentences: those of pair `i` are number `2 i` and the next.
    pub sentences: Vec<String>,
    /// The score of each pair.
    pub scores: Vec<f64>,
}

/// How well cosines follow scores, times 100, as is usual. `None` where all cosines, or all scores, are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// That of the ranks.
    pub spearman: Option<f64>,
    /// That of the numbers.
    pub pearson: Option<f64>,
}

impl ScoredPairs {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, has fewer than two pairs, or a row that is no pair with a score, told by its line.
    pub fn open(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|source| EmbedError::read(&origin, source))?;
        ScoredPairs::read(file, &origin)
    }

    /// Reads what is called `origin`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(source: impl Read, origin: &str) -> Result<Self> {
        // A quote that is never closed makes all that follows one field.
        let mut rest = source.take(MAX_BYTES + 1);
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&mut rest);
        let (mut pairs, mut columns, mut row) = (ScoredPairs::default(), None, StringRecord::new());
        loop {
            let line = reader.position().line();
            if !reader.read_record(&mut row).map_err(|error| refused(origin, line, error))? {
                break;
            }
            let line = row.position().map_or(line, csv::Position::line);
            let named = if columns.is_none() { named_columns(&row) } else { None };
            let place = *columns.get_or_insert(named.unwrap_or([0, 1, 2]));
            if named.is_none() {
                pairs.add(&row, place).map_err(|problem| EmbedError::line(origin, line, problem))?;
            }
        }
        drop(reader);
        if rest.limit() == 0 {
            return Err(EmbedError::file(origin, format!("has more than {} MiB, which is not read", MAX_BYTES >> 20)));
        }
        if pairs.scores.len() < 2 {
            return Err(EmbedError::file(origin, "has fewer than two pairs of sentences"));
        }
        Ok(pairs)
    }

    /// Adds the pair of a row, or says what is wrong with it.
    fn add(&mut self, row: &StringRecord, columns: [usize; 3]) -> std::result::Result<(), String> {
        let [Some(first), Some(second), Some(score)] = columns.map(|column| row.get(column)) else {
            return Err(format!("it has {} columns, not sentence1,sentence2,score", row.len()));
        };
        let number = score.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let Some(number) = number else {
            let shown: String = score.chars().take(40).collect();
            return Err(format!("its score {shown:?} is not a number"));
        };
        self.sentences.extend([first.to_owned(), second.to_owned()]);
        self.scores.push(number);
        Ok(())
    }

    /// How well the vectors of all sentences, `[2 pairs, hidden_size]`, follow the scores. Panics when there are more or
    /// fewer vectors.
    pub fn agreement(&self, vectors: MatrixView<'_>) -> Agreement {
        assert_eq!(vectors.rows(), self.sentences.len(), "vectors of all sentences");
        let cosine = |pair: usize| cosine(vectors.row(2 * pair), vectors.row(2 * pair + 1));
        let cosines: Vec<f64> = (0..self.scores.len()).map(cosine).collect();
        let percent = |correlation: Option<f64>| correlation.map(|correlation| 100.0 * correlation);
        Agreement {
            spearman: percent(spearman(&cosines, &self.scores)),
            pearson: percent(pearson(&cosines, &self.scores)),
        }
    }
}

impl Agreement {
    /// The mean of several, each figure over those that have it.
    pub fn mean(all: &[Agreement]) -> Agreement {
        let mean = |figure: fn(&Agreement) -> Option<f64>| {
            let found: Vec<f64> = all.iter().filter_map(figure).collect();
            (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
        };
        Agreement { spearman: mean(|one| one.spearman), pearson: mean(|one| one.pearson) }
    }
}

/// The cosine of two vectors of one length, in f64; 0 where one of them is zeros.
pub fn cosine(first: &[f32], second: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + f64::from(*x) * f64::from(*y));
    let lengths = dot(first, first).sqrt() * dot(second, second).sqrt();
    if lengths > 0.0 { dot(first, second) / lengths } else { 0.0 }
}

/// The language that a file's name begins or ends with: `de.test.csv` and `stsb-de.csv` are German, and `all.csv` is of none.
pub fn language(path: &Path) -> Option<String> {
    let name = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let is_code = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let first = name.split(['.', '-', '_']).next().filter(is_code);
    first.or_else(|| name.split(['.', '-', '_']).next_back().filter(is_code)).map(str::to_owned)
}

/// Where the columns are, if a row names them.
fn named_columns(row: &StringRecord) -> Option<[usize; 3]> {
    let place =
        |name: &str| row.iter().position(|cell| cell.trim_start_matches('\u{FEFF}').trim().eq_ignore_ascii_case(name));
    let [first, second, score] = COLUMNS.map(place);
    Some([first?, second?, score?])
}

/// What the CSV reader found wrong.
fn refused(origin: &str, line: u64, error: csv::Error) -> EmbedError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) => EmbedError::read(origin, source),
        csv::ErrorKind::Utf8 { pos, .. } => {
            EmbedError::line(origin, pos.map_or(line, |pos| pos.line()), "it is not UTF-8 text")
        }
        other => EmbedError::line(origin, line, format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bouquet_kernels::Matrix;

    fn read(text: &[u8]) -> std::result::Result<ScoredPairs, String> {
        ScoredPairs::read(text, "a.csv").map_err(|error| error.to_string())
    }

    #[test]
    fn files_have_names_of_columns_or_not() {
        let plain = read(b"A cat.,\"A \"\"big\"\"\ncat, there\",2.5\nA dog.,A fish.,0\n").unwrap();
        assert_eq!(plain.sentences, ["A cat.", "A \"big\"\ncat, there", "A dog.", "A fish."]);
        assert_eq!(plain.scores, [2.5, 0.0]);
        let named = read(b"\xef\xbb\xbfid,Score,sentence2,sentence1\n1,2.5,b,a\n2, 3 ,d,c\n").unwrap();
        assert_eq!((named.sentences.join(" "), named.scores), ("a b c d".to_owned(), vec![2.5, 3.0]));
    }

    #[test]
    fn rows_that_are_no_pairs_are_told_by_line() {
        for (text, problem) in [
            (&b"a,b,1\nc,\"d\ne\",2\nf,g\n"[..], "a.csv, line 4: it has 2 columns, not sentence1,sentence2,score"),
            (b"a,b,1\nc,d,high\n", "a.csv, line 2: its score \"high\" is not a number"),
            (b"a,b,1\nc,d,NaN\n", "a.csv, line 2: its score \"NaN\" is not a number"),
            (b"a,b,1\nc,\xff,2\n", "a.csv, line 2: it is not UTF-8 text"),
            (b"first,second,value\na,b,1\n", "a.csv, line 1: its score \"value\" is not a number"),
            (b"a,b,1\n", "a.csv has fewer than two pairs of sentences"),
            (b"", "a.csv has fewer than two pairs of sentences"),
            (b"a,b,1\n\"c,d,2\ne,f,3\n", "a.csv, line 2: it has 1 columns, not sentence1,sentence2,score"),
        ] {
            assert_eq!(read(text).unwrap_err(), problem);
        }
    }

    #[test]
    fn cosines_are_compared_with_scores() {
        let pairs = read(b"a,b,5\nc,d,3\ne,f,1\n").unwrap();
        // Cosines of 1, 0 and -1.
        let vectors = [1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 1.0, 0.0, 1.0, 1.0, -1.0, -1.0];
        let agreement = pairs.agreement(Matrix::from_vec(6, 2, vectors.to_vec()).view());
        assert!((agreement.spearman.unwrap() - 100.0).abs() < 1e-9, "{agreement:?}");
        assert!((agreement.pearson.unwrap() - 100.0).abs() < 1e-9, "{agreement:?}");
        let same = Matrix::zeros(6, 2);
        assert_eq!(pairs.agreement(same.view()), Agreement { spearman: None, pearson: None });
        let none = Agreement { spearman: None, pearson: None };
        assert_eq!(Agreement::mean(&[agreement, none]), agreement);
        assert_eq!(Agreement::mean(&[]), none);
    }

    #[test]
    fn names_of_files_tell_languages() {
        for (name, language_of) in [
            ("de.test.csv", Some("de")),
            ("stsb-multi_mt-fr.csv", Some("fr")),
            ("STSB.csv", None),
            ("all.test.csv", None),
        ] {
            assert_eq!(language(Path::new(name)).as_deref(), language_of, "{name}");
        }
    }
}
