//! The tensors of a GGUF file by the names that transformers has for them, and with their rows in its order.
//!
//! llama.cpp's converters put the rows of some matrices in another order, and experts of a block into one tensor. Rows are
//! whole numbers of blocks in every kind, so putting them back needs no decoding; such a matrix is copied when it is asked
//! for, all others stay in the mapped file.

use std::collections::BTreeMap;
use std::path::Path;

use bouquet_gguf::TensorKind;
use bouquet_kernels::weight::BlockFormat;
use bouquet_span::{LinearId, Site};
use bytes::Bytes;

use super::GgufFile;
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::spec::{AttentionSpec, ModelSpec, QkvLayout, TensorNames};
use crate::{ModelError, Result};

/// The tensors of a file that its model needs.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensors {
    file: GgufFile,
    attention: AttentionSpec,
    /// By the names of the family.
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Place {
    /// Its name in the file.
    name: String,
    /// Which of the experts that lie in one tensor.
    expert: Option<usize>,
    order: RowOrder,
}

/// The order of rows in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOrder {
    /// As transformers has them.
    Same,
    /// In each head, channels that turn together are neighbours: `[heads, head_dim / 2, 2]` for `[heads, 2, head_dim / 2]`.
    Interleaved { heads: usize },
    /// All queries, all keys, all values, for `[kv_heads, heads / kv_heads + 2, head_dim]`.
    PartAfterPart,
}

impl GgufTensors {
    /// Finds the tensors of the model that a file describes.
    ///
    /// # Errors
    /// Those of [`GgufFile::open`] and [`GgufFile::spec`].
    pub(crate) fn open(path: &Path) -> Result<GgufTensors> {
        let file = GgufFile::open(path)?;
        let spec = file.spec()?;
        let interleaved = matches!(file.metadata().optional_text("general.architecture"), Ok(Some("llama")));
        let mut tensors = BTreeMap::new();
        let names = &spec.names;
        let mut add = |name: String, in_file: &str, expert, order| {
            for part in ["weight", "bias"] {
                let place = Place { name: format!("{in_file}.{part}"), expert, order };
                if file.has(&place.name) {
                    tensors.insert(names.full_name(&format!("{name}.{part}")), place);
                }
            }
        };
        for (name, in_file) in ends(names) {
            add(name.to_owned(), in_file, None, RowOrder::Same);
        }
        for block in 0..spec.num_blocks {
            for (name, in_file) in norms(names) {
                add(names.in_block(block, name), &format!("blk.{block}.{in_file}"), None, RowOrder::Same);
            }
            for linear in spec.block.linears() {
                let Some(name) = names.linear(LinearId::new(block, linear.site)) else { continue };
                let (in_block, expert) = name_in_file(linear.site);
                let in_file = format!("blk.{block}.{in_block}");
                let order = order(linear.site, &spec, interleaved);
                match expert {
                    // Older files have a tensor for each expert.
                    Some(expert) if !file.has(&format!("{in_file}_exps.weight")) => {
                        add(name, &format!("{in_file}.{expert}"), None, order);
                    }
                    Some(expert) => add(name, &format!("{in_file}_exps"), Some(expert), order),
                    None => add(name, &in_file, None, order),
                }
            }
        }
        Ok(GgufTensors { attention: spec.block.attention.clone(), tensors, file })
    }

    fn read(&self, place: &Place) -> Result<Option<Tensor>> {
        let Some((info, mut data)) = self.file.tensor(&place.name) else { return Ok(None) };
        let mut shape = info.shape.clone();
        if let Some(expert) = place.expert {
            let wrong = || {
                let problem = format!("has shape {shape:?}, of which expert {expert} cannot be taken");
                ModelError::Tensor { name: place.name.clone(), problem }
            };
            let &[experts, rows, cols] = &shape[..] else { return Err(wrong()) };
            if expert >= experts {
                return Err(wrong());
            }
            let bytes = data.len() / experts;
            data = data.slice(expert * bytes..(expert + 1) * bytes);
            shape = vec![rows, cols];
        }
        if let Some(order) = self.rows(place.order, shape.first().copied().unwrap_or(0)) {
            data = reordered(&data, &order);
        }
        Ok(Some(Tensor { dtype: dtype(info.kind), shape, data }))
    }

    /// For each row in the order of transformers, which one it is in the file; `None` where they are the same, or so many
    /// rows cannot be put in order, which is said when shapes are compared.
    fn rows(&self, order: RowOrder, rows: usize) -> Option<Vec<usize>> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = self.attention;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        match order {
            RowOrder::Same => None,
            RowOrder::Interleaved { heads } if rows == heads * head_dim => {
                let half = head_dim / 2;
                let of = |row: usize| row / head_dim * head_dim + row % half * 2 + row % head_dim / half;
                Some((0..rows).map(of).collect())
            }
            RowOrder::PartAfterPart if rows == queries + 2 * keys => {
                let group = heads / kv_heads;
                let of = |row: usize| {
                    let (head, channel) = (row / head_dim, row % head_dim);
                    let (kv_head, place) = (head / (group + 2), head % (group + 2));
                    channel
                        + match place.checked_sub(group) {
                            None => (kv_head * group + place) * head_dim,
                            Some(0) => queries + kv_head * head_dim,
                            Some(_) => queries + keys + kv_head * head_dim,
                        }
                };
                Some((0..rows).map(of).collect())
            }
            RowOrder::Interleaved { .. } | RowOrder::PartAfterPart => None,
        }
    }
}

impl TensorSource for GgufTensors {
    fn location(&self) -> &Path {
        &self.file.path
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        self.tensors.get(name).map_or(Ok(None), |place| self.read(place))
    }

    fn release(&self, data: &[u8]) {
        self.file.parts.iter().for_each(|part| part.mapped.release(data));
    }
}

/// Rows put in order.
fn reordered(data: &Bytes, order: &[usize]) -> Bytes {
    let row_bytes = data.len() / order.len().max(1);
    let mut rows = Vec::with_capacity(data.len());
    for &row in order {
        rows.extend_from_slice(&data[row * row_bytes..(row + 1) * row_bytes]);
    }
    rows.into()
}

fn order(site: Site, spec: &ModelSpec, interleaved: bool) -> RowOrder {
    let AttentionSpec { heads, kv_heads, qkv, .. } = spec.block.attention;
    match (site, qkv) {
        (Site::Qkv, QkvLayout::Fused) => RowOrder::PartAfterPart,
        (Site::Q, _) if interleaved => RowOrder::Interleaved { heads },
        (Site::K, _) if interleaved => RowOrder::Interleaved { heads: kv_heads },
        _ => RowOrder::Same,
    }
}

/// What is in no block: the family's name, and that of the file.
fn ends(names: &TensorNames) -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = [
        (names.embedding, "token_embd"),
        (names.embedding_norm, "token_embd_norm"),
        (names.final_norm, "output_norm"),
        (names.head, "output"),
    ];
    all.into_iter().filter(|(name, _)| !name.is_empty())
}

/// The norms of a block.
fn norms(names: &TensorNames) -> Vec<(&'static str, &'static str)> {
    let two = [(names.query_norm, "attn_q_norm"), (names.key_norm, "attn_k_norm")];
    let mut norms: Vec<_> = two.into_iter().filter(|(name, _)| !name.is_empty()).collect();
    match (names.attention_norm, names.feed_forward_norm) {
        // Falcon 40B: the first norm of the file is that of the feed-forward.
        (attention @ "ln_attn", feed_forward) => {
            norms.extend([(attention, "attn_norm_2"), (feed_forward, "attn_norm")])
        }
        (attention, feed_forward) if attention == feed_forward => norms.push((attention, "attn_norm")),
        (attention, feed_forward) => norms.extend([(attention, "attn_norm"), (feed_forward, "ffn_norm")]),
    }
    norms
}

/// What a file calls a linear in its block, and the expert that it is of.
fn name_in_file(site: Site) -> (&'static str, Option<usize>) {
    match site {
        Site::Qkv => ("attn_qkv", None),
        Site::Q => ("attn_q", None),
        Site::K => ("attn_k", None),
        Site::V => ("attn_v", None),
        Site::O => ("attn_output", None),
        Site::Gate => ("ffn_gate", None),
        Site::Up => ("ffn_up", None),
        Site::Down => ("ffn_down", None),
        Site::Router => ("ffn_gate_inp", None),
        Site::ExpertGate(expert) => ("ffn_gate", Some(expert.into())),
        Site::ExpertUp(expert) => ("ffn_up", Some(expert.into())),
        Site::ExpertDown(expert) => ("ffn_down", Some(expert.into())),
    }
}

fn dtype(kind: TensorKind) -> Dtype {
    match kind {
        TensorKind::F32 => Dtype::F32,
        TensorKind::F16 => Dtype::F16,
        TensorKind::Bf16 => Dtype::Bf16,
        TensorKind::Q4_0 => Dtype::Blocks(BlockFormat::Q4_0),
        TensorKind::Q4_1 => Dtype::Blocks(BlockFormat::Q4_1),
        TensorKind::Q5_0 => Dtype::Blocks(BlockFormat::Q5_0),
        TensorKind::Q5_1 => Dtype::Blocks(BlockFormat::Q5_1),
        TensorKind::Q8_0 => Dtype::Blocks(BlockFormat::Q8_0),
        TensorKind::Q2K => Dtype::Blocks(BlockFormat::Q2K),
        TensorKind::Q3K => Dtype::Blocks(BlockFormat::Q3K),
        TensorKind::Q4K => Dtype::Blocks(BlockFormat::Q4K),
        TensorKind::Q5K => Dtype::Blocks(BlockFormat::Q5K),
        TensorKind::Q6K => Dtype::Blocks(BlockFormat::Q6K),
        TensorKind::Iq4Nl => Dtype::Blocks(BlockFormat::Iq4Nl),
    }
}
