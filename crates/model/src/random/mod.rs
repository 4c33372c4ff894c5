//! Models with random weights: speed and memory do not depend on what a model has learned, so measuring them needs no
//! checkpoint. Tensors are made when they are asked for, the same for the same seed on every machine.
//!
//! Values are scaled so that activations stay near those of a trained model, but for one thing: what a model learns has
//! outliers, channels that are large in every token, and random weights have none. They can be asked for.

mod folder;
mod numbers;
mod shapes;

use std::collections::BTreeMap;
use std::path::Path;

use bouquet_span::{LinearId, Site};

use self::numbers::Spread;
use crate::Result;
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::spec::{BlockSpec, ModelSpec, NormKind, QkvLayout};

pub use shapes::{SHAPES, Shape, ShapeFamily};

/// Channels that are outliers in the input of each linear, where they are asked for.
pub const OUTLIERS: usize = 8;

/// What the biases before linears add to those channels: well above what counts as an outlier, whatever is added to.
const OUTLIER: f32 = 16.0;

/// The tensors of a specification, in f16, made on demand.
#[derive(Clone, Debug)]
pub struct RandomModel {
    seed: u64,
    threads: usize,
    tensors: BTreeMap<String, Recipe>,
}

/// How a tensor is made.
#[derive(Clone, Debug)]
struct Recipe {
    shape: Vec<usize>,
    spread: Spread,
    /// Numbers at these places are another: norms' weights small, and biases large, in channels of outliers.
    replaced: Vec<(usize, f32)>,
}

impl RandomModel {
    /// The tensors that a specification names, made on up to `threads` threads. With `outliers`, [`OUTLIERS`] channels of
    /// every linear's input are large in every token, where norms and linears have biases, as BLOOM's do; elsewhere there
    /// are none.
    pub fn new(spec: &ModelSpec, seed: u64, outliers: bool, threads: usize) -> Self {
        let mut model = RandomModel { seed, threads: threads.max(1), tensors: BTreeMap::new() };
        let (block, names) = (&spec.block, &spec.names);
        let hidden = block.hidden_size;
        let named = |name: &str| format!("{}{name}", names.prefix);
        let looked_up = |rows, cols| Recipe::new(&[rows, cols], Spread { mean: 0.0, deviation: 0.02 });
        let vocabulary = looked_up(spec.vocab_size, spec.embedding_size);
        if !spec.tied_head {
            model.tensors.insert(format!("{}.weight", names.head), vocabulary.clone());
        }
        model.tensors.insert(named(&format!("{}.weight", names.embedding)), vocabulary);
        if spec.embedding_norm {
            model.add_norm(&named(names.embedding_norm), block, false);
        }
        if let Some(rows) = spec.position_rows() {
            model.tensors.insert(named(&format!("{}.weight", names.positions)), looked_up(rows, hidden));
        }
        if spec.projects() {
            let (narrow, wide) = (spec.embedding_size, hidden);
            for (name, outputs, inputs) in [(names.project_in, wide, narrow), (names.project_out, narrow, wide)] {
                let spread = Spread { mean: 0.0, deviation: 1.0 / (inputs as f32).sqrt() };
                model.tensors.insert(named(&format!("{name}.weight")), Recipe::new(&[outputs, inputs], spread));
            }
        }
        if spec.final_norm {
            model.add_norm(&named(names.final_norm), block, outliers);
        }
        for index in 0..spec.num_blocks {
            for norm in [names.attention_norm, names.feed_forward_norm] {
                model.add_norm(&named(&names.in_block(index, norm)), block, outliers);
            }
            if block.attention.query_key_norm {
                for norm in [names.query_norm, names.key_norm] {
                    let weight = Recipe::new(&[block.attention.head_dim], Spread { mean: 1.0, deviation: 0.05 });
                    model.tensors.insert(named(&format!("{}.weight", names.in_block(index, norm))), weight);
                }
            }
            for linear in block.linears() {
                let Some(name) = names.linear(LinearId::new(index, linear.site)) else { continue };
                // Outputs near 1 for inputs near 1; those that are added up over all blocks are smaller.
                let adds_up = matches!(linear.site, Site::O | Site::Down | Site::ExpertDown(_));
                let blocks = if adds_up { (2 * spec.num_blocks) as f32 } else { 1.0 };
                let deviation = 0.6 / (linear.inputs as f32 * blocks).sqrt();
                let recipe = Recipe::new(&[linear.outputs, linear.inputs], Spread { mean: 0.0, deviation });
                model.tensors.insert(named(&format!("{name}.weight")), recipe);
                if linear.bias {
                    let mut recipe = Recipe::new(&[linear.outputs], Spread { mean: 0.0, deviation: 0.02 });
                    if outliers {
                        recipe.replaced = outlier_outputs(block, linear.site).map(|row| (row, OUTLIER)).collect();
                    }
                    model.tensors.insert(named(&format!("{name}.bias")), recipe);
                }
            }
        }
        model
    }

    fn add_norm(&mut self, name: &str, block: &BlockSpec, outliers: bool) {
        if !block.norm.learned {
            return;
        }
        let size = block.hidden_size;
        let mut weight = Recipe::new(&[size], Spread { mean: 1.0, deviation: 0.05 });
        if block.norm.kind == NormKind::LayerNorm {
            let mut bias = Recipe::new(&[size], Spread { mean: 0.0, deviation: 0.02 });
            if outliers {
                // What comes in adds next to nothing: the largest that a norm can make of it is √size.
                weight.replaced = spread_out(size).map(|channel| (channel, 0.01)).collect();
                bias.replaced = spread_out(size).map(|channel| (channel, OUTLIER)).collect();
            }
            self.tensors.insert(format!("{name}.bias"), bias);
        }
        self.tensors.insert(format!("{name}.weight"), weight);
    }
}

impl Recipe {
    fn new(shape: &[usize], spread: Spread) -> Self {
        Recipe { shape: shape.to_vec(), spread, replaced: Vec::new() }
    }
}

impl TensorSource for RandomModel {
    fn location(&self) -> &Path {
        Path::new("random weights")
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(Recipe { shape, spread, replaced }) = self.tensors.get(name) else { return Ok(None) };
        let count = shape.iter().product();
        let data = numbers::make(self.seed, name, *spread, count, replaced, self.threads);
        Ok(Some(Tensor { dtype: Dtype::F16, shape: shape.clone(), data: data.into() }))
    }
}

/// Channels of outliers, evenly spread.
fn spread_out(size: usize) -> impl Iterator<Item = usize> {
    let count = OUTLIERS.min(size);
    (0..count).map(move |index| (2 * index + 1) * size / (2 * count))
}

/// Outputs of a linear that become inputs of the next one, with nothing but attention or a nonlinearity between, both of
/// which leave what is large in all tokens large: values, and the inside of the feed-forward.
fn outlier_outputs(block: &BlockSpec, site: Site) -> impl Iterator<Item = usize> {
    let attention = &block.attention;
    let (group, head_dim) = (attention.heads / attention.kv_heads * attention.head_dim, attention.head_dim);
    let value_row = move |channel: usize| match attention.qkv {
        QkvLayout::Separate => channel,
        // For each key head its queries, its key, its value.
        QkvLayout::Fused => channel / head_dim * (group + 2 * head_dim) + group + head_dim + channel % head_dim,
    };
    let (size, row): (usize, Box<dyn Fn(usize) -> usize>) = match site {
        Site::Qkv | Site::V => (attention.kv_heads * head_dim, Box::new(value_row)),
        Site::Up | Site::ExpertUp(_) => (block.feed_forward.intermediate_size, Box::new(|row| row)),
        _ => (0, Box::new(|row| row)),
    };
    let rows: Vec<usize> = spread_out(size).map(row).collect();
    rows.into_iter()
}

#[cfg(test)]
mod tests;
