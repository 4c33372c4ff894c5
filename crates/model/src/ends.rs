//! The ends of a model: token ids become hidden states, hidden states become logits.

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::HiddenStates;

use crate::norm::Norm;
use crate::{ModelError, Result};

/// Bytes of logits that [`LmHead::for_logits`] holds at a time.
pub const LOGIT_BYTES: usize = 64 << 20;

/// The input end: rows of the embedding, normalized where the family does so.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[vocab_size, hidden_size]`.
    pub weight: Weight,
    /// BLOOM normalizes here.
    pub norm: Option<Norm>,
}

/// The output end: the final norm and the head.
#[derive(Clone, Debug)]
pub struct LmHead {
    /// The norm after the last block.
    pub norm: Norm,
    /// `[vocab_size, hidden_size]`; shares its bytes with the embedding where the head is tied.
    pub weight: Weight,
}

impl Embedding {
    /// The hidden states of packed sequences.
    ///
    /// # Errors
    /// [`ModelError::TokenId`] for an id outside of the vocabulary, [`ModelError::EmbeddingNotFinite`] for one whose
    /// row is damaged.
    pub fn embed(&self, cpu: &Cpu, sequences: &[&[u32]]) -> Result<HiddenStates> {
        self.embed_after(cpu, None, sequences)
    }

    /// The hidden states of packed sequences, each behind the rows of `prompt`, `[prompt tokens, hidden_size]`: they take
    /// part as rows of the embedding would, before its norm.
    ///
    /// # Errors
    /// As [`embed`](Self::embed). Panics when the prompt has another width.
    pub fn embed_after(&self, cpu: &Cpu, prompt: Option<&Matrix>, sequences: &[&[u32]]) -> Result<HiddenStates> {
        let mut values = cpu.timed("embedding", || self.rows(cpu, &sequences.concat()))?;
        let prompt_tokens = prompt.map_or(0, Matrix::rows);
        if let Some(prompt) = prompt {
            values = behind(prompt, &values, sequences);
        }
        if let Some(norm) = &self.norm {
            values = norm.forward(cpu, values.view());
        }
        let lengths: Vec<usize> = sequences.iter().map(|ids| prompt_tokens + ids.len()).collect();
        let hidden = HiddenStates::new(values, lengths)?;
        match elementwise::first_row_not_finite(cpu, hidden.values().view()) {
            None => Ok(hidden),
            Some(row) => {
                let (sequence, rows) =
                    hidden.rows().enumerate().find(|(_, rows)| rows.contains(&row)).expect("its rows");
                let id = (row - rows.start).checked_sub(prompt_tokens).map(|token| sequences[sequence][token]);
                Err(id.map_or(ModelError::PromptNotFinite, |id| ModelError::EmbeddingNotFinite { id }))
            }
        }
    }

    /// The rows of some tokens as they are stored, `[ids, hidden_size]`: what a soft prompt can begin with.
    ///
    /// # Errors
    /// [`ModelError::TokenId`] for an id outside of the vocabulary.
    pub fn rows(&self, cpu: &Cpu, ids: &[u32]) -> Result<Matrix> {
        let vocab_size = self.weight.rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenId { id: id.into(), vocab_size });
        }
        let mut values = Matrix::unset(ids.len(), self.weight.cols());
        self.weight.gather(cpu, ids, values.view_mut());
        Ok(values)
    }

    /// The gradient for `prompt` from that of [`embed_after`](Self::embed_after): for each sequence one, summed over the
    /// sequences of a leaf by the caller. `gradient` are the rows of one sequence, of which the first are the prompt's.
    pub fn prompt_backward(&self, cpu: &Cpu, prompt: &Matrix, gradient: MatrixView<'_>) -> Matrix {
        let gradient = gradient.slice(0..prompt.rows());
        match &self.norm {
            Some(norm) => norm.backward(cpu, prompt.view(), gradient),
            None => gradient.to_matrix(),
        }
    }
}

/// `values`, packed sequences, each behind the rows of `prompt`.
fn behind(prompt: &Matrix, values: &Matrix, sequences: &[&[u32]]) -> Matrix {
    let mut joined = Matrix::zeros(0, values.cols());
    let mut first = 0;
    for ids in sequences {
        joined.push_rows(prompt.view());
        joined.push_rows(values.slice(first..first + ids.len()));
        first += ids.len();
    }
    joined
}

impl LmHead {
    /// The final norm: `[tokens, hidden_size]` to the same shape. Embeddings of sentences are pooled from this.
    pub fn normalize(&self, cpu: &Cpu, hidden: MatrixView<'_>) -> Matrix {
        self.norm.forward(cpu, hidden)
    }

    /// Logits `[tokens, vocab_size]` of hidden states that are normalized already.
    pub fn project(&self, cpu: &Cpu, normalized: MatrixView<'_>) -> Matrix {
        cpu.timed("product head", || {
            let mut logits = Matrix::unset(normalized.rows(), self.weight.rows());
            self.weight.product(cpu, normalized, None, logits.view_mut());
            logits
        })
    }

    /// Calls `work` with the logits of some rows at a time, of hidden states that are normalized already, in order: the
    /// number of the first row, and `[rows, vocab_size]`. Those of many tokens at once would be larger than many a model.
    ///
    /// # Errors
    /// The first of `work`, which is then not called again.
    pub fn for_logits<E>(
        &self,
        cpu: &Cpu,
        normalized: MatrixView<'_>,
        mut work: impl FnMut(usize, MatrixView<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let at_a_time = (LOGIT_BYTES / 4 / self.weight.rows().max(1)).max(1);
        for first in (0..normalized.rows()).step_by(at_a_time) {
            let rows = first..normalized.rows().min(first + at_a_time);
            work(first, self.project(cpu, normalized.slice(rows)).view())?;
        }
        Ok(())
    }

    /// Logits `[tokens, vocab_size]` of the last block's output.
    pub fn logits(&self, cpu: &Cpu, hidden: MatrixView<'_>) -> Matrix {
        self.project(cpu, self.normalize(cpu, hidden).view())
    }

    /// The gradient for `normalized` from that of [`project`](Self::project).
    pub fn project_backward(&self, cpu: &Cpu, d_logits: MatrixView<'_>) -> Matrix {
        let mut gradient = Matrix::unset(d_logits.rows(), self.weight.cols());
        self.weight.product_backward(cpu, d_logits, gradient.view_mut());
        gradient
    }

    /// The gradient for `hidden` from that of [`normalize`](Self::normalize).
    pub fn normalize_backward(&self, cpu: &Cpu, hidden: MatrixView<'_>, gradient: MatrixView<'_>) -> Matrix {
        self.norm.backward(cpu, hidden, gradient)
    }
}
