//! Packed activations. Sequences of uneven length follow each other without padding: no padded position is ever
//! computed, sent or cached.

use std::ops::Range;

use bouquet_kernels::{Matrix, MatrixViewMut};

use crate::{Result, SpanError};

/// Activations between blocks: `[tokens, hidden_size]`, all sequences one after another, and how many tokens each has.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenStates {
    values: Matrix,
    lengths: Vec<usize>,
}

impl HiddenStates {
    /// Takes `values` as sequences of `lengths`; a length may be 0 (a sequence that does not take part in a step).
    ///
    /// # Errors
    /// [`SpanError::Shape`] when the lengths do not add up to the rows.
    pub fn new(values: Matrix, lengths: Vec<usize>) -> Result<Self> {
        let tokens = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)).unwrap_or(usize::MAX);
        if tokens != values.rows() {
            return Err(SpanError::Shape { what: "the sum of the lengths", expected: values.rows(), found: tokens });
        }
        Ok(HiddenStates { values, lengths })
    }

    /// One sequence.
    pub fn single(values: Matrix) -> Self {
        let lengths = vec![values.rows()];
        HiddenStates { values, lengths }
    }

    /// The activations, `[tokens, hidden_size]`.
    pub fn values(&self) -> &Matrix {
        &self.values
    }

    /// The activations for writing. Their shape stays, as the lengths do.
    pub fn values_mut(&mut self) -> MatrixViewMut<'_> {
        self.values.view_mut()
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.values.rows()
    }

    /// Channels.
    pub fn hidden_size(&self) -> usize {
        self.values.cols()
    }

    /// The rows of each sequence, in order.
    pub fn rows(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut end = 0;
        self.lengths.iter().map(move |&length| {
            end += length;
            end - length..end
        })
    }

    /// For implementations: whether these are sequences of exactly `lengths`, as a gradient has to be.
    ///
    /// # Errors
    /// [`SpanError::Shape`] for the first difference.
    pub fn check_lengths(&self, lengths: &[usize]) -> Result<()> {
        if self.lengths.len() != lengths.len() {
            let (expected, found) = (lengths.len(), self.lengths.len());
            return Err(SpanError::Shape { what: "the number of sequences", expected, found });
        }
        match self.lengths.iter().zip(lengths).find(|(found, expected)| found != expected) {
            Some((&found, &expected)) => Err(SpanError::Shape { what: "the length of a sequence", expected, found }),
            None => Ok(()),
        }
    }

    /// The activations alone.
    pub fn into_values(self) -> Matrix {
        self.values
    }

    /// The last token of each sequence that has any; the lengths become 1 or 0.
    pub fn last_positions(&self) -> HiddenStates {
        let mut values = Matrix::zeros(0, self.hidden_size());
        for rows in self.rows().filter(|rows| !rows.is_empty()) {
            values.push_rows(self.values.slice(rows.end - 1..rows.end));
        }
        HiddenStates { values, lengths: self.lengths.iter().map(|&length| length.min(1)).collect() }
    }

    /// No tokens of as many sequences.
    pub fn no_positions(&self) -> HiddenStates {
        HiddenStates { values: Matrix::zeros(0, self.hidden_size()), lengths: vec![0; self.lengths.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_add_up() {
        assert!(HiddenStates::new(Matrix::zeros(3, 2), vec![2, 1, 0]).is_ok());
        assert!(HiddenStates::new(Matrix::zeros(3, 2), vec![2, 2]).is_err());
        assert!(HiddenStates::new(Matrix::zeros(3, 2), vec![usize::MAX, 4]).is_err());
    }

    #[test]
    fn last_positions_skip_absent_sequences() {
        let values = Matrix::from_vec(3, 1, vec![1.0, 2.0, 3.0]);
        let hidden = HiddenStates::new(values, vec![2, 0, 1]).unwrap();
        let last = hidden.last_positions();
        assert_eq!((last.values().data(), last.lengths()), ([2.0, 3.0].as_slice(), [1, 0, 1].as_slice()));
    }
}
