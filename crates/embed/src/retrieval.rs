//! Retrieval among parallel sentences: each has to find its translation among those of all others, by cosine. A file has a
//! pair a line, `source<TAB>target`, as Tatoeba's.
//!
//! All is exact, a block of scores at a time; what is as near as the translation counts as nearer if it comes before it.

use std::path::Path;

use bouquet_kernels::{Cpu, Matrix, MatrixView, product};
use bouquet_model::pooling::unit_rows;

use crate::texts::Lines;
use crate::{EmbedError, Result};

/// Pairs of a file at most.
const MAX_PAIRS: usize = 10_000_000;

/// Rows and columns of a block of scores.
const BLOCK: usize = 1024;

/// Pairs of sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParallelSentences {
    /// One of each pair.
    pub sources: Vec<String>,
    /// The other.
    pub targets: Vec<String>,
}

/// How well sentences find their translations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Share of those whose nearest is their translation, between 0 and 1.
    pub accuracy_at_1: f64,
    /// Mean of one through the rank of the translation (mean reciprocal rank), between 0 and 1.
    pub mrr: f64,
}

impl ParallelSentences {
    /// Reads a file, which may be compressed with gzip.
    ///
    /// # Errors
    /// A file that cannot be read or has no pairs, and a line that is none.
    pub fn open(path: &Path) -> Result<Self> {
        ParallelSentences::read(Lines::open(path)?)
    }

    fn read(mut lines: Lines) -> Result<Self> {
        let mut pairs = ParallelSentences::default();
        while let Some(line) = lines.next().transpose()? {
            let Some((source, target)) = line.split_once('\t').filter(|(_, target)| !target.contains('\t')) else {
                let problem = "it is not a sentence, a tab and its translation";
                return Err(EmbedError::line(lines.origin(), lines.number(), problem));
            };
            if pairs.sources.len() == MAX_PAIRS {
                return Err(EmbedError::file(lines.origin(), format!("has more than {MAX_PAIRS} pairs")));
            }
            pairs.sources.push(source.to_owned());
            pairs.targets.push(target.to_owned());
        }
        match pairs.sources.is_empty() {
            true => Err(EmbedError::file(lines.origin(), "has no pairs of sentences")),
            false => Ok(pairs),
        }
    }
}

/// How well each row of `queries` finds the row of `answers` with its number. Both are `[sentences, hidden_size]`; panics
/// for other shapes.
pub fn retrieve(cpu: &Cpu, queries: MatrixView<'_>, answers: MatrixView<'_>) -> Found {
    assert_eq!((queries.rows(), queries.cols()), (answers.rows(), answers.cols()), "the shape of the answers");
    let (queries, answers) = (unit_rows(queries), unit_rows(answers));
    let count = queries.rows();
    let blocks = || (0..count).step_by(BLOCK).map(|begin| begin..(begin + BLOCK).min(count));
    let (mut first, mut reciprocals) = (0, 0.0);
    for block in blocks() {
        let own = products(cpu, queries.slice(block.clone()), answers.slice(block.clone()));
        let own: Vec<f32> = (0..own.rows()).map(|row| own.row(row)[row]).collect();
        let mut nearer = vec![0usize; own.len()];
        for others in blocks() {
            let scores = products(cpu, queries.slice(block.clone()), answers.slice(others.clone()));
            for (row, nearer) in nearer.iter_mut().enumerate() {
                let own = (own[row], block.start + row);
                let is_nearer = |&(score, other): &(f32, usize)| score > own.0 || (score == own.0 && other < own.1);
                *nearer += scores.row(row).iter().copied().zip(others.clone()).filter(is_nearer).count();
            }
        }
        first += nearer.iter().filter(|&&nearer| nearer == 0).count();
        reciprocals = nearer.iter().fold(reciprocals, |sum, &nearer| sum + 1.0 / (nearer + 1) as f64);
    }
    let count = count.max(1) as f64;
    Found { accuracy_at_1: first as f64 / count, mrr: reciprocals / count }
}

fn products(cpu: &Cpu, x: MatrixView<'_>, w: MatrixView<'_>) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), w.rows());
    product::product(cpu, x, w, y.view_mut());
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_line_is_a_pair() {
        let read = |text: &'static str| {
            ParallelSentences::read(Lines::new(Cursor::new(text), "a.tsv").unwrap()).map_err(|error| error.to_string())
        };
        let pairs = read("Hallo.\tHello.\r\nNein.\tNo.\n").unwrap();
        assert_eq!((pairs.sources.join(" "), pairs.targets.join(" ")), ("Hallo. Nein.".into(), "Hello. No.".into()));
        let problem = "it is not a sentence, a tab and its translation";
        assert_eq!(read("Hallo.\tHello.\nNein.\n").unwrap_err(), format!("a.tsv, line 2: {problem}"));
        assert_eq!(read("a\tb\tc\n").unwrap_err(), format!("a.tsv, line 1: {problem}"));
        assert_eq!(read("").unwrap_err(), "a.tsv has no pairs of sentences");
    }

    #[test]
    fn ranks_are_counted_and_ties_go_to_the_lower_number() {
        // Queries 0 and 1 find their answers; 2 has two answers before its own; 3 is zeros, and all are as near to it.
        let queries = Matrix::from_vec(4, 2, vec![1.0, 0.0, 0.0, 1.0, 1.0, -0.2, 0.0, 0.0]);
        let answers = Matrix::from_vec(4, 2, vec![2.0, 0.0, 0.0, 3.0, 2.0, 0.0, 1.0, -0.3]);
        let found = retrieve(&Cpu::new(1), queries.view(), answers.view());
        assert_eq!(found.accuracy_at_1, 0.5);
        assert!((found.mrr - (1.0 + 1.0 + 1.0 / 3.0 + 1.0 / 4.0) / 4.0).abs() < 1e-15, "{found:?}");
    }

    /// More rows than a block has, compared with all scores at once.
    #[test]
    fn blocks_find_what_a_table_of_all_finds() {
        let rows = 2 * BLOCK + 252;
        let sample = |seed: usize| {
            let numbers = (0..rows * 4).map(|place| ((place * 7919 + seed * 104_729) % 100_003) as f32 / 1e5 - 0.5);
            Matrix::from_vec(rows, 4, numbers.collect())
        };
        let (queries, noise) = (sample(1), sample(2));
        let near = queries.data().iter().zip(noise.data()).map(|(x, noise)| x + 0.02 * noise).collect();
        let answers = Matrix::from_vec(rows, 4, near);
        let found = retrieve(&Cpu::new(2), queries.view(), answers.view());
        let scores = products(&Cpu::new(1), unit_rows(queries.view()).view(), unit_rows(answers.view()).view());
        let rank = |row: usize| {
            let (scores, own) = (scores.row(row), scores.row(row)[row]);
            1 + (0..rows).filter(|&other| scores[other] > own || (scores[other] == own && other < row)).count()
        };
        let ranks: Vec<usize> = (0..rows).map(rank).collect();
        let accuracy = ranks.iter().filter(|&&rank| rank == 1).count() as f64 / rows as f64;
        let mrr = ranks.iter().map(|&rank| 1.0 / rank as f64).sum::<f64>() / rows as f64;
        assert_eq!(found.accuracy_at_1, accuracy);
        assert!((found.mrr - mrr).abs() < 1e-12 && 0.0 < accuracy && accuracy < 1.0, "{found:?} {mrr}");
    }
}
