//! Records as token ids, all of them at once: what batches are made of.

use bouquet_model::{ModelError, Tokenizer};

use crate::data::Record;
use crate::gradient::Batch;

/// Sentences as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentences {
    /// For each record its views: anchor, positive, negatives; first and second; a text twice.
    pub rows: Vec<Vec<Vec<u32>>>,
    /// For each record its score, from 0 to 1, where there are scores.
    pub scores: Vec<f32>,
    /// Sentences that were cut.
    pub cut: u64,
    /// Records without any token in one of their texts, which are left out.
    pub empty: u64,
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
    /// The sentences of records, each cut after `max_tokens`. Scores are divided by `largest_score`.
    ///
    /// # Errors
    /// A text that the tokenizer cannot cut.
    pub fn new(
        records: &[Record],
        tokenizer: &Tokenizer,
        max_tokens: usize,
        largest_score: f32,
    ) -> Result<Sentences, ModelError> {
        let mut sentences = Sentences::default();
        for record in records {
            let texts: Vec<&str> = match record {
                Record::Pair { anchor, positive, negatives } => {
                    [anchor, positive].into_iter().chain(negatives).map(String::as_str).collect()
                }
                Record::Scored { first, second, .. } => vec![first, second],
                Record::Text(text) => vec![text, text],
                Record::Completion { .. } | Record::Chat(_) => continue,
            };
            let mut views = Vec::with_capacity(texts.len());
            for text in texts {
                let mut ids = tokenizer.encode(text, true)?.ids;
                if ids.len() > max_tokens {
                    ids.truncate(max_tokens);
                    sentences.cut += 1;
                }
                views.push(ids);
            }
            if views.iter().any(Vec::is_empty) {
                sentences.empty += 1;
                continue;
            }
            sentences.rows.push(views);
            if let Record::Scored { score, .. } = record {
                sentences.scores.push(score / largest_score);
            }
        }
        Ok(sentences)
    }

    /// The batch of some records.
    pub fn batch(&self, records: &[usize]) -> Batch {
        let views = records.first().map_or(0, |&record| self.rows[record].len());
        let view = |view: usize| records.iter().map(move |&record| self.rows[record][view].clone());
        let scores =
            if self.scores.is_empty() { Vec::new() } else { records.iter().map(|&r| self.scores[r]).collect() };
        Batch::Sentences { sequences: (0..views).flat_map(view).collect(), rows: records.len(), scores }
    }

    /// Tokens of each record.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|views| views.iter().map(Vec::len).sum()).collect()
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
