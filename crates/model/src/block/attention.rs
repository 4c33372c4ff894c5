//! Attention of a block: queries, keys and values of each token, positions, the cache, the output matrix.

use std::mem::replace;

use bouquet_kernels::ops::alibi::Alibi;
use bouquet_kernels::ops::attention::{self, AttentionShape, Sequence};
use bouquet_kernels::ops::{elementwise, rope};
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_span::Site;
use bouquet_span::adapter::LeafGrad;

use super::batch::{Batch, Call};
use crate::kv_cache::KvCache;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{AttentionSpec, Positions};

/// The weights of attention.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    shape: AttentionShape,
    qkv: Qkv,
    head_norms: Option<HeadNorms>,
    output: Linear,
}

/// Norms over the channels of each head, before it is rotated.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    /// Of the queries.
    pub(crate) query: Norm,
    /// Of the keys.
    pub(crate) key: Norm,
}

/// Where queries, keys and values come from.
#[derive(Clone, Debug)]
pub(crate) enum Qkv {
    /// A matrix each.
    Separate {
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
    },
    /// One matrix, `[kv_heads, heads / kv_heads + 2, head_dim]` by rows.
    Fused(Linear),
}

/// What the backward needs again, besides the caches.
pub(crate) struct AttentionActivations {
    /// Rotated, `[tokens, heads * head_dim]`.
    queries: Matrix,
    /// Queries and keys before their norms, where they have norms.
    unnormed: Option<[Matrix; 2]>,
    /// The weighted values, `[tokens, heads * head_dim]`.
    context: Matrix,
}

impl Attention {
    /// Puts the weights together; `window` is that of this block.
    pub(crate) fn new(
        spec: &AttentionSpec,
        window: Option<usize>,
        qkv: Qkv,
        head_norms: Option<HeadNorms>,
        output: Linear,
    ) -> Self {
        let alibi = match spec.positions {
            Positions::Alibi(kind) => Some(Alibi::new(spec.heads, kind)),
            Positions::Rope(_) | Positions::Learned { .. } => None,
        };
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            alibi,
            window,
        };
        Attention { shape, qkv, head_norms, output }
    }

    /// How many keys a query sees; all before it without a window.
    pub(crate) fn window(&self) -> Option<usize> {
        self.shape.window
    }

    /// Its linears, in the order in which data passes them.
    pub(crate) fn linears(&self) -> Vec<(Site, &Linear)> {
        let output = (Site::O, &self.output);
        match &self.qkv {
            Qkv::Separate { q, k, v } => vec![(Site::Q, q), (Site::K, k), (Site::V, v), output],
            Qkv::Fused(qkv) => vec![(Site::Qkv, qkv), output],
        }
    }

    /// The norms of each head's queries and keys, where there are some.
    pub(crate) fn head_norms(&self) -> Option<&HeadNorms> {
        self.head_norms.as_ref()
    }

    /// Appends the keys and values of `x` to the cache of each sequence and attends over all that they hold.
    /// `[tokens, hidden_size]` to the same shape.
    pub(crate) fn forward(
        &self,
        call: Call<'_>,
        x: MatrixView<'_>,
        caches: &mut [&mut KvCache],
    ) -> (Matrix, AttentionActivations) {
        let Call { cpu, batch, .. } = call;
        let (mut queries, mut keys, values) = self.qkv.forward(call, &self.shape, x);
        let unnormed = self.head_norms.as_ref().map(|norms| {
            let normed = [norms.query.forward_of_heads(cpu, &queries), norms.key.forward_of_heads(cpu, &keys)];
            let [normed_queries, normed_keys] = normed;
            [replace(&mut queries, normed_queries), replace(&mut keys, normed_keys)]
        });
        if let Some(angles) = &batch.angles {
            cpu.timed("positions", || {
                rope::rotate(cpu, angles, self.shape.heads, queries.view_mut());
                rope::rotate(cpu, angles, self.shape.kv_heads, keys.view_mut());
            });
        }
        cpu.timed("cache", || {
            for (sequence, cache) in batch.sequences.iter().zip(caches.iter_mut()) {
                assert_eq!(cache.tokens(), sequence.start, "where the cache ends, and where these tokens begin");
                cache.append(cpu, keys.slice(sequence.rows.clone()), values.slice(sequence.rows.clone()));
            }
        });
        let context = cpu.timed("attention", || {
            let mut context = Matrix::unset(queries.rows(), queries.cols());
            let sequences = sequences(batch, caches.iter().map(|cache| &**cache));
            attention::attention(cpu, &self.shape, queries.view(), &sequences, context.view_mut());
            context
        });
        let output = self.output.forward(call, Site::O, call.tokens(), context.view());
        (output, AttentionActivations { queries, unnormed, context })
    }

    /// Whether [`backward`](Self::backward) needs its input.
    pub(crate) fn needs_input(&self, call: Call<'_>) -> bool {
        match self.qkv {
            Qkv::Separate { .. } => [Site::Q, Site::K, Site::V].into_iter().any(|site| call.adapts(site)),
            Qkv::Fused(_) => call.adapts(Site::Qkv),
        }
    }

    /// The gradient for `x`, which may be left out where it is not [needed](Self::needs_input).
    pub(crate) fn backward(
        &self,
        call: Call<'_>,
        x: Option<MatrixView<'_>>,
        activations: &AttentionActivations,
        caches: &[KvCache],
        d_output: MatrixView<'_>,
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        let AttentionActivations { queries, unnormed, context } = activations;
        let Call { cpu, batch, .. } = call;
        let d_context = self.output.backward(call, Site::O, call.tokens(), Some(context.view()), d_output, leaves);
        let kv_channels = self.shape.kv_heads * self.shape.head_dim;
        let mut d_queries = Matrix::unset(queries.rows(), queries.cols());
        let mut d_keys = Matrix::unset(queries.rows(), kv_channels);
        let mut d_values = Matrix::unset(queries.rows(), kv_channels);
        cpu.timed("attention backward", || {
            attention::attention_backward(
                cpu,
                &self.shape,
                queries.view(),
                &sequences(batch, caches.iter()),
                context.view(),
                d_context.view(),
                d_queries.view_mut(),
                d_keys.view_mut(),
                d_values.view_mut(),
            );
        });
        if let Some(angles) = &batch.angles {
            cpu.timed("positions", || {
                rope::rotate_backward(cpu, angles, self.shape.heads, d_queries.view_mut());
                rope::rotate_backward(cpu, angles, self.shape.kv_heads, d_keys.view_mut());
            });
        }
        if let (Some(norms), Some([queries, keys])) = (&self.head_norms, unnormed) {
            d_queries = norms.query.backward_of_heads(cpu, queries, &d_queries);
            d_keys = norms.key.backward_of_heads(cpu, keys, &d_keys);
        }
        self.qkv.backward(call, &self.shape, x, [&d_queries, &d_keys, &d_values], leaves)
    }
}

impl AttentionActivations {
    /// Memory that they hold.
    pub(crate) fn bytes(&self) -> u64 {
        let unnormed: usize = self.unnormed.iter().flatten().map(|matrix| matrix.data().len()).sum();
        4 * (self.queries.data().len() + unnormed + self.context.data().len()) as u64
    }
}

fn sequences<'c>(batch: &Batch<'_>, caches: impl Iterator<Item = &'c KvCache>) -> Vec<Sequence<'c>> {
    let sequence = |(sequence, cache): (&super::batch::SequenceRows, &'c KvCache)| Sequence {
        rows: sequence.rows.clone(),
        start: sequence.start,
        pieces: cache.pieces(),
    };
    batch.sequences.iter().zip(caches).map(sequence).collect()
}

impl Qkv {
    fn forward(&self, call: Call<'_>, shape: &AttentionShape, x: MatrixView<'_>) -> (Matrix, Matrix, Matrix) {
        let run = |site, linear: &Linear| linear.forward(call, site, call.tokens(), x);
        match self {
            Qkv::Separate { q, k, v } => (run(Site::Q, q), run(Site::K, k), run(Site::V, v)),
            Qkv::Fused(qkv) => {
                let fused = run(Site::Qkv, qkv);
                call.cpu.timed("split qkv", || split(call.cpu, shape, &fused))
            }
        }
    }

    fn backward(
        &self,
        call: Call<'_>,
        shape: &AttentionShape,
        x: Option<MatrixView<'_>>,
        [d_queries, d_keys, d_values]: [&Matrix; 3],
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        let mut run =
            |site, linear: &Linear, dy: &Matrix| linear.backward(call, site, call.tokens(), x, dy.view(), leaves);
        match self {
            Qkv::Separate { q, k, v } => {
                let mut dx = run(Site::Q, q, d_queries);
                elementwise::add(call.cpu, run(Site::K, k, d_keys).view(), dx.view_mut());
                elementwise::add(call.cpu, run(Site::V, v, d_values).view(), dx.view_mut());
                dx
            }
            Qkv::Fused(qkv) => {
                let fused = call.cpu.timed("join qkv", || join(call.cpu, shape, [d_queries, d_keys, d_values]));
                run(Site::Qkv, qkv, &fused)
            }
        }
    }
}

/// A fused row: for each key head its queries, its key, its value.
fn split(cpu: &Cpu, shape: &AttentionShape, fused: &Matrix) -> (Matrix, Matrix, Matrix) {
    let (group, per_head, width) = fused_layout(shape);
    let part = |channels: usize, from: usize| {
        let mut part = Matrix::unset(fused.rows(), shape.kv_heads * channels);
        cpu.for_each_row(part.view_mut(), |row, part| {
            for (part, fused) in part.chunks_exact_mut(channels).zip(fused.row(row).chunks_exact(width)) {
                part.copy_from_slice(&fused[from..from + channels]);
            }
        });
        part
    };
    (part(group, 0), part(per_head, group), part(per_head, group + per_head))
}

/// The inverse of [`split`].
fn join(cpu: &Cpu, shape: &AttentionShape, parts: [&Matrix; 3]) -> Matrix {
    let (group, per_head, width) = fused_layout(shape);
    let mut fused = Matrix::unset(parts[0].rows(), shape.kv_heads * width);
    cpu.for_each_row(fused.view_mut(), |row, fused| {
        for (head, fused) in fused.chunks_exact_mut(width).enumerate() {
            let (queries, rest) = fused.split_at_mut(group);
            let (key, value) = rest.split_at_mut(per_head);
            queries.copy_from_slice(&parts[0].row(row)[head * group..][..group]);
            key.copy_from_slice(&parts[1].row(row)[head * per_head..][..per_head]);
            value.copy_from_slice(&parts[2].row(row)[head * per_head..][..per_head]);
        }
    });
    fused
}

/// Channels of a key head's queries, of its key (and value), and of all three.
fn fused_layout(shape: &AttentionShape) -> (usize, usize, usize) {
    let group = shape.heads / shape.kv_heads * shape.head_dim;
    (group, shape.head_dim, group + 2 * shape.head_dim)
}
