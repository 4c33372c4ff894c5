//! The ends of a model: token ids become hidden states, hidden states become logits.

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::HiddenStates;

use crate::norm::Norm;
use crate::{ModelError, Result};

/// Bytes of logits that [`LmHead::for_logits`] holds at a time.
pub(crate) const LOGIT_BYTES: usize = 64 << 20;

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
        let ids = sequences.concat();
        let vocab_size = self.weight.rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenId { id: id.into(), vocab_size });
        }
        let mut values = cpu.timed("embedding", || {
            let mut values = Matrix::unset(ids.len(), self.weight.cols());
            self.weight.gather(cpu, &ids, values.view_mut());
            values
        });
        if let Some(norm) = &self.norm {
            values = norm.forward(cpu, values.view());
        }
        if let Some(token) = elementwise::first_row_not_finite(cpu, values.view()) {
            return Err(ModelError::EmbeddingNotFinite { id: ids[token] });
        }
        Ok(HiddenStates::new(values, sequences.iter().map(|ids| ids.len()).collect())?)
    }
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
