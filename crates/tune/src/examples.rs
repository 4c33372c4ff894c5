//! Records as token ids, all of them at once: what batches are made of.

use crate::data::{self, Record, SentenceRow};
use crate::gradient::Batch;

/// Sentences as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentences {
    /// For each row its views: anchor, positive, negatives; first and second; a text twice.
    pub rows: Vec<Vec<Vec<u32>>>,
    /// For each row its score, where there are scores.
    pub scores: Vec<f32>,
}

/// Texts as token ids, with what of them is learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    /// Token ids.
    pub sequences: Vec<Vec<u32>>,
    /// For each token whether it is learned.
    pub learned: Vec<Vec<bool>>,
}

impl Sentences {
    /// Those of records that were cut into tokens. A text alone is two views, scores are divided by `largest_score`.
    pub fn new(cut: data::Sentences, records: &[Record], largest_score: f32) -> Sentences {
        let mut sentences = Sentences::default();
        for SentenceRow { record, mut sequences } in cut.rows {
            match &records[record] {
                Record::Scored { score, .. } => sentences.scores.push(score / largest_score),
                Record::Text(_) => sequences.push(sequences[0].clone()),
                _ => {}
            }
            sentences.rows.push(sequences);
        }
        sentences
    }

    /// Tokens of all views of a row.
    pub fn tokens(&self, row: usize) -> usize {
        self.rows[row].iter().map(Vec::len).sum()
    }

    /// The batch of some records.
    pub fn batch(&self, records: &[usize]) -> Batch {
        let views = records.first().map_or(0, |&record| self.rows[record].len());
        let view = |view: usize| records.iter().map(move |&record| self.rows[record][view].clone());
        let scores =
            if self.scores.is_empty() { Vec::new() } else { records.iter().map(|&r| self.scores[r]).collect() };
        Batch::Sentences { sequences: (0..views).flat_map(view).collect(), rows: records.len(), scores }
    }
}

impl Texts {
    /// The batch of some texts.
    pub fn batch(&self, texts: &[usize]) -> Batch {
        let sequences = texts.iter().map(|&text| self.sequences[text].clone()).collect();
        Batch::Texts { sequences, learned: texts.iter().map(|&text| self.learned[text].clone()).collect() }
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.sequences.iter().map(Vec::len).collect()
    }
}
