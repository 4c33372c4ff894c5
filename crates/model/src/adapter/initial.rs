//! What training begins with. Every number comes from ChaCha8, keyed by the seed and what the number belongs to, and is
//! made of whole numbers, sums and products alone: the same bits on all machines, whichever linears are learned beside.

use std::collections::BTreeMap;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Adapter, LinearId, LowRank};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Learned, Settings};
use crate::ModelSpec;
use crate::spec::LinearShape;

/// Standard deviation of a soft prompt, as of an embedding in transformers.
const PROMPT_DEVIATION: f32 = 0.02;

/// What numbers are for, besides the seed.
enum Purpose {
    Pair(LinearId),
    SoftPrompt,
}

impl Learned {
    /// New pairs for the targets in every block: `A` uniform between ±1/√inputs, which is Kaiming's with slope √5 as in
    /// PEFT, and `B` zero, so that the model is what it was. No prompts.
    ///
    /// # Errors
    /// In words, a rank of 0 or larger than a target has rows or columns, and a target that the model does not have.
    pub fn initial(settings: &Settings, spec: &ModelSpec, seed: u64) -> Result<Learned, String> {
        let mut pairs = BTreeMap::new();
        for &site in &settings.targets {
            let Some(LinearShape { outputs, inputs, .. }) = spec.block.linear(site) else {
                return Err(format!("the model has no linear {site}"));
            };
            let rank = settings.rank;
            if rank == 0 || rank > inputs.min(outputs) {
                return Err(format!(
                    "the rank should be from 1 to {}, the smaller side of {site}, not {rank}",
                    inputs.min(outputs)
                ));
            }
            for block in 0..spec.num_blocks {
                let linear = LinearId::new(block, site);
                let (a, b) = (uniform(seed, linear, rank, inputs), Matrix::zeros(outputs, rank));
                pairs.insert(linear, LowRank { a, b, scale: settings.scale() });
            }
        }
        let low_rank = Arc::new(Adapter { pairs, dropout: settings.dropout });
        Ok(Learned { low_rank, ..Learned::default() })
    }
}

/// A new soft prompt, `[tokens, hidden_size]`: normal numbers of the size that embeddings begin with. One made of the
/// rows of real tokens ([`Embedding::rows`](crate::ends::Embedding::rows)) often learns faster (arXiv 2104.08691,
/// section 3.2).
pub fn soft_prompt(tokens: usize, spec: &ModelSpec, seed: u64) -> Matrix {
    let mut random = generator(seed, &Purpose::SoftPrompt);
    let hidden_size = spec.block.hidden_size;
    // The sum of 12 uniform numbers has the variance 1.
    let mut normal = || (0..12).map(|_| unit(&mut random)).sum::<f32>() - 6.0;
    let numbers = (0..tokens * hidden_size).map(|_| PROMPT_DEVIATION * normal()).collect();
    Matrix::from_vec(tokens, hidden_size, numbers)
}

fn uniform(seed: u64, linear: LinearId, rank: usize, inputs: usize) -> Matrix {
    let mut random = generator(seed, &Purpose::Pair(linear));
    let bound = 1.0 / (inputs as f32).sqrt();
    let numbers = (0..rank * inputs).map(|_| (2.0 * unit(&mut random) - 1.0) * bound).collect();
    Matrix::from_vec(rank, inputs, numbers)
}

/// From 0 to below 1, in steps that f32 has exactly.
fn unit(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

fn generator(seed: u64, purpose: &Purpose) -> ChaCha8Rng {
    let (kind, number) = match purpose {
        Purpose::Pair(linear) => (0u64, linear.counter()),
        Purpose::SoftPrompt => (1, 0),
    };
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, kind, number]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
