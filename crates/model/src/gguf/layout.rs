//! Where the tensors of a model are in a GGUF file: their names there, and the order of their rows.
//!
//! llama.cpp's converters put the rows of some matrices in another order than transformers, and experts of a block into one
//! tensor. Rows are whole numbers of blocks in every kind, so moving them needs no decoding.

use bouquet_span::{LinearId, Site};

use crate::spec::{AttentionSpec, ModelSpec, NormKind, QkvLayout, TensorNames};

/// A weight of the model with its bias, if it has one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What the family calls it, without prefix, `.weight` and `.bias`.
    pub(super) name: String,
    /// What a file calls it, without these endings; experts of a block have one name together.
    pub(super) in_file: String,
    /// Which of the experts it is of.
    pub(super) expert: Option<usize>,
    /// Rows and columns of the weight; nothing for the vector of a norm.
    pub(super) matrix: Option<[usize; 2]>,
    /// Numbers of a vector, and of the bias.
    pub(super) length: usize,
    pub(super) bias: bool,
    pub(super) order: RowOrder,
}

/// The order of rows in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As transformers has them.
    Same,
    /// In each head, channels that turn together are neighbours: `[heads, head_dim / 2, 2]` for `[heads, 2, head_dim / 2]`.
    Interleaved { heads: usize },
    /// All queries, all keys, all values, for `[kv_heads, heads / kv_heads + 2, head_dim]`.
    PartAfterPart,
}

impl RowOrder {
    /// For each row in the order of transformers, which one it is in the file; `None` where they are the same, or so many
    /// rows cannot be put in order, which is said when shapes are compared.
    pub(super) fn rows(self, attention: &AttentionSpec, rows: usize) -> Option<Vec<usize>> {
        let &AttentionSpec { heads, kv_heads, head_dim, .. } = attention;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        match self {
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

    /// The other way round: for each row in the order of the file, which one it is in transformers.
    pub(super) fn rows_of_file(self, attention: &AttentionSpec, rows: usize) -> Option<Vec<usize>> {
        let order = self.rows(attention, rows)?;
        let mut of_file = vec![0; rows];
        order.into_iter().enumerate().for_each(|(row, in_file)| of_file[in_file] = row);
        Some(of_file)
    }
}

/// All places of a model, in the order of a file: the ends, then each block. `interleaved` says whether channels that turn
/// together are neighbours, as in files of the architecture `llama`.
pub(super) fn places(spec: &ModelSpec, interleaved: bool) -> Vec<Place> {
    let names = &spec.names;
    let norm = |name: String, in_file: String, length, kind: NormKind| {
        let bias = kind == NormKind::LayerNorm;
        Place { name, in_file, expert: None, matrix: None, length, bias, order: RowOrder::Same }
    };
    let (hidden_size, kind) = (spec.block.hidden_size, spec.block.norm.kind);
    let mut places = Vec::new();
    for (name, in_file) in [(names.embedding, "token_embd"), (names.head, "output")] {
        let matrix = Some([spec.vocab_size, spec.embedding_size]);
        let (name, in_file) = (name.to_owned(), in_file.to_owned());
        places.push(Place { name, in_file, expert: None, matrix, length: 0, bias: false, order: RowOrder::Same });
    }
    let ends = [(names.embedding_norm, "token_embd_norm"), (names.final_norm, "output_norm")];
    for (name, in_file) in ends.into_iter().filter(|(name, _)| !name.is_empty()) {
        places.push(norm(name.to_owned(), in_file.to_owned(), hidden_size, kind));
    }
    for block in 0..spec.num_blocks {
        let in_file = |part: &str| format!("blk.{block}.{part}");
        for (name, part) in norms(names) {
            places.push(norm(names.in_block(block, name), in_file(part), hidden_size, kind));
        }
        for (name, part) in [(names.query_norm, "attn_q_norm"), (names.key_norm, "attn_k_norm")] {
            if !name.is_empty() {
                let length = spec.block.attention.head_dim;
                places.push(norm(names.in_block(block, name), in_file(part), length, NormKind::RmsNorm));
            }
        }
        for linear in spec.block.linears() {
            let Some(name) = names.linear(LinearId::new(block, linear.site)) else { continue };
            let (part, expert) = name_in_file(linear.site);
            let matrix = Some([linear.outputs, linear.inputs]);
            let order = order(linear.site, spec, interleaved);
            let (length, bias) = (linear.outputs, linear.bias);
            places.push(Place { name, in_file: in_file(part), expert, matrix, length, bias, order });
        }
    }
    places
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

/// The norms of a block over all channels.
fn norms(names: &TensorNames) -> Vec<(&'static str, &'static str)> {
    match (names.attention_norm, names.feed_forward_norm) {
        // Falcon 40B: the first norm of the file is that of the feed-forward.
        (attention @ "ln_attn", feed_forward) => vec![(attention, "attn_norm_2"), (feed_forward, "attn_norm")],
        (attention, feed_forward) if attention == feed_forward => vec![(attention, "attn_norm")],
        (attention, feed_forward) => vec![(attention, "attn_norm"), (feed_forward, "ffn_norm")],
    }
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
