//! From token ids to vectors. Sequences are computed in batches of like length, as many tokens at a time as keep the
//! kernels busy, and come back in the order they were given in; a vector does not depend on its batch.

use bouquet_kernels::Matrix;
use bouquet_model::adapter::Learned;
use bouquet_model::{Network, Pooling, Result};
use bouquet_span::Pass;

use crate::Dense;

/// Tokens of a pass unless said otherwise.
pub const TOKENS_PER_PASS: usize = 2048;

/// A model as a function from sequences to vectors.
#[derive(Clone, Copy)]
pub struct Embedder<'a> {
    /// The model, without its head.
    pub network: &'a Network,
    /// What has been learned on top.
    pub learned: &'a Learned,
    /// How the tokens of a sequence become one vector.
    pub pooling: Pooling,
    /// The linear map behind that, where there is one.
    pub dense: Option<&'a Dense>,
    /// Tokens that are computed together, at least one sequence.
    pub tokens_per_pass: usize,
}

impl<'a> Embedder<'a> {
    /// As pooled, with as many tokens at a time as is usual.
    pub fn new(network: &'a Network, learned: &'a Learned, pooling: Pooling) -> Self {
        Embedder { network, learned, pooling, dense: None, tokens_per_pass: TOKENS_PER_PASS }
    }

    /// Numbers of an embedding.
    pub fn features(&self) -> usize {
        self.dense.map_or(self.network.spec.embedding_size, |dense| dense.bias.len())
    }

    /// The embeddings of sequences, `[sequences, features]`: not of length 1. `pass` brings its limits and
    /// leaf; the adapter is put into it. A soft prompt is not pooled, and a sequence without tokens becomes zeros.
    ///
    /// # Errors
    /// An id outside of the vocabulary, numbers that are not finite, what the blocks refuse.
    pub fn embed(&self, sequences: &[Vec<u32>], pass: &Pass) -> Result<Matrix> {
        let mut order: Vec<usize> = (0..sequences.len()).filter(|&index| !sequences[index].is_empty()).collect();
        order.sort_by_key(|&index| (sequences[index].len(), index));
        let mut vectors = Matrix::zeros(sequences.len(), self.features());
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(self.fitting(rest, sequences));
            rest = later;
            let ids: Vec<&[u32]> = batch.iter().map(|&index| sequences[index].as_slice()).collect();
            let pooled = self.embed_batch(&ids, pass)?;
            for (row, &index) in batch.iter().enumerate() {
                vectors.row_mut(index).copy_from_slice(pooled.row(row));
            }
        }
        Ok(vectors)
    }

    /// How many of `order` fit into one pass.
    fn fitting(&self, order: &[usize], sequences: &[Vec<u32>]) -> usize {
        let mut tokens = 0;
        let fits = |index: &&usize| {
            tokens += sequences[**index].len() + self.learned.prompt_tokens();
            tokens <= self.tokens_per_pass
        };
        order.iter().take_while(fits).count().max(1)
    }

    fn embed_batch(&self, sequences: &[&[u32]], pass: &Pass) -> Result<Matrix> {
        let Network { cpu, embedding, blocks, head, .. } = self.network;
        let hidden = embedding.embed_after(cpu, self.learned.soft_prompt.as_ref(), sequences)?;
        let (hidden, _) = blocks.forward(hidden, &self.learned.with(pass.clone()))?;
        let hidden = self.learned.without_prompt(hidden)?;
        let normalized = head.normalize(cpu, hidden.values().view());
        let pooled = self.pooling.forward(normalized.view(), hidden.lengths());
        Ok(match self.dense {
            Some(dense) => dense.forward(cpu, pooled.view()),
            None => pooled,
        })
    }
}
