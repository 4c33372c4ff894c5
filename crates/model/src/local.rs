//! Blocks in this process: [`LocalSpan`] runs them, over weights that rest in memory or in mapped files, and keeps the
//! caches of its sessions within a budget.

mod cache_budget;
mod session;

use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_span::adapter::{LeafGrad, LowRankGrad};
use bouquet_span::session::SpanKey;
use bouquet_span::{HiddenStates, Keep, Pass, PassGrad, Result, Saved, Session, SessionShape, Span, SpanError, Step};

use self::cache_budget::{CacheBudget, Reservation};
use self::session::LocalSession;
use crate::block::batch::Batch;
use crate::block::{Activations, Block};
use crate::kv_cache::KvCache;
use crate::spec::BlockSpec;

/// A span of blocks of this process.
#[derive(Clone)]
pub struct LocalSpan {
    key: SpanKey,
    cpu: Arc<Cpu>,
    spec: Arc<BlockSpec>,
    /// In order; a block knows its number.
    blocks: Vec<Arc<Block>>,
    cache: Arc<CacheBudget>,
}

/// What a forward keeps for its backward.
struct LocalSaved {
    key: SpanKey,
    lengths: Vec<usize>,
    /// Of each block.
    kept: Vec<Kept>,
}

/// What is kept of one block.
enum Kept {
    Nothing,
    /// Its input, without prompts.
    Input(Matrix),
    Activations(Box<Activations>, Vec<KvCache>),
}

impl LocalSpan {
    /// A span over `blocks`, which follow each other and are at least one; sessions may reserve `cache_bytes` in all.
    pub fn new(cpu: Arc<Cpu>, spec: BlockSpec, blocks: Vec<Block>, cache_bytes: u64) -> Self {
        assert!(!blocks.is_empty(), "a span has at least one block");
        LocalSpan {
            key: SpanKey::new(),
            cpu,
            spec: Arc::new(spec),
            blocks: blocks.into_iter().map(Arc::new).collect(),
            cache: Arc::new(CacheBudget::new(cache_bytes)),
        }
    }

    /// Some of the blocks as a span of their own, sharing weights and budget. Panics outside of [`range`](Span::range).
    pub fn slice(&self, range: Range<usize>) -> LocalSpan {
        let first = self.blocks[0].index;
        let blocks = self.blocks[range.start - first..range.end - first].to_vec();
        assert!(!blocks.is_empty(), "a span has at least one block");
        LocalSpan { key: SpanKey::new(), blocks, ..self.clone() }
    }

    /// Bytes of cache that a token of a sequence takes in this span.
    pub fn cache_bytes_per_token(&self) -> u64 {
        let attention = &self.spec.attention;
        KvCache::bytes_per_token(attention.kv_heads, attention.head_dim) * self.blocks.len() as u64
    }

    fn new_cache(&self, max_tokens: usize) -> KvCache {
        KvCache::new(self.spec.attention.kv_heads, self.spec.attention.head_dim, max_tokens)
    }

    /// Runs one block over whole sequences.
    fn run_block(&self, block: &Block, batch: &Batch<'_>, input: Matrix) -> (Matrix, Activations, Vec<KvCache>) {
        let mut caches: Vec<_> = batch.sequences.iter().map(|sequence| self.new_cache(sequence.rows.len())).collect();
        let (output, activations) = block.forward(&self.cpu, batch, input, &mut caches.iter_mut().collect::<Vec<_>>());
        (output, activations, caches)
    }

    /// Runs one block over whole sequences and checks what came out.
    fn run_block_checked(
        &self,
        block: &Block,
        batch: &Batch<'_>,
        pass: &Pass,
        input: Matrix,
    ) -> Result<(Matrix, Activations, Vec<KvCache>)> {
        pass.limits.check()?;
        let ran = self.run_block(block, batch, input);
        match elementwise::first_row_not_finite(&self.cpu, ran.0.view()) {
            Some(token) => Err(SpanError::NotFinite { block: block.index, token }),
            None => Ok(ran),
        }
    }

    fn batch<'a>(&self, lengths: &'a [usize], starts: &'a [usize], pass: &'a Pass) -> Batch<'a> {
        Batch::new(&[(pass, lengths, starts)], &self.spec.attention.positions)
    }

    fn check_input(&self, block: usize, hidden: MatrixView<'_>) -> Result<()> {
        if hidden.cols() != self.spec.hidden_size {
            let (expected, found) = (self.spec.hidden_size, hidden.cols());
            return Err(SpanError::Shape { what: "hidden_size", expected, found });
        }
        match elementwise::first_row_not_finite(&self.cpu, hidden) {
            Some(token) => Err(SpanError::InputNotFinite { block, token }),
            None => Ok(()),
        }
    }

    /// Whether what a pass brings fits these blocks.
    fn check_pass(&self, pass: &Pass) -> Result<()> {
        let range = self.range();
        for (&id, pair) in pass.adapter.iter().flat_map(|adapter| &adapter.pairs) {
            if !range.contains(&id.block) {
                continue;
            }
            let refuse = |problem| Err(SpanError::Adapter { linear: id, problem });
            let Some(linear) = self.spec.linears().into_iter().find(|linear| linear.site == id.site) else {
                return refuse("the model has no such linear".into());
            };
            if !pass.adapter.as_ref().is_some_and(|adapter| (0.0..1.0).contains(&adapter.dropout)) {
                return refuse("dropout should be from 0 to below 1".into());
            }
            let rank = pair.rank();
            if pair.a.cols() != linear.inputs || pair.b.rows() != linear.outputs || pair.b.cols() != rank || rank == 0 {
                return refuse(format!(
                    "A is [{rank}, {}] and B is [{}, {}], but the weight is [{}, {}]",
                    pair.a.cols(),
                    pair.b.rows(),
                    pair.b.cols(),
                    linear.outputs,
                    linear.inputs
                ));
            }
        }
        for (block, prompt) in pass.prompts.iter().flat_map(|prompts| &prompts.blocks) {
            if range.contains(block) && prompt.cols() != self.spec.hidden_size {
                let (expected, found) = (self.spec.hidden_size, prompt.cols());
                return Err(SpanError::Shape { what: "the width of the prompts", expected, found });
            }
        }
        Ok(())
    }

    /// Zero gradients, for each leaf, of all that a pass brings for these blocks.
    fn zero_leaves(&self, pass: &Pass, sequences: usize) -> Vec<LeafGrad> {
        let (range, mut zero) = (self.range(), LeafGrad::default());
        for (&id, pair) in pass.adapter.iter().flat_map(|adapter| &adapter.pairs) {
            if range.contains(&id.block) {
                zero.adapter.insert(id, LowRankGrad { a: zeros_like(&pair.a), b: zeros_like(&pair.b) });
            }
        }
        for (&block, prompt) in pass.prompts.iter().flat_map(|prompts| &prompts.blocks) {
            if range.contains(&block) {
                zero.prompts.insert(block, zeros_like(prompt));
            }
        }
        pass.leaves(sequences).map(|_| zero.clone()).collect()
    }
}

impl Span for LocalSpan {
    fn range(&self) -> Range<usize> {
        self.blocks[0].index..self.blocks[self.blocks.len() - 1].index + 1
    }

    fn hidden_size(&self) -> usize {
        self.spec.hidden_size
    }

    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        self.check_pass(pass)?;
        self.check_input(self.blocks[0].index, hidden.values().view())?;
        if let (Some(limit), Some(&needed)) = (pass.reserved_tokens, hidden.lengths().iter().max())
            && needed > limit
        {
            return Err(SpanError::TooManyTokens { needed, limit });
        }
        let (lengths, starts) = (hidden.lengths().to_vec(), vec![0; hidden.sequences()]);
        let batch = self.batch(&lengths, &starts, pass);
        let mut values = hidden.into_values();
        let (mut kept, mut bytes, mut activation_bytes) = (Vec::with_capacity(self.blocks.len()), 0, 0);
        for (place, block) in self.blocks.iter().enumerate() {
            let keep_input = match pass.keep {
                Keep::Nothing => false,
                Keep::Input => place == 0,
                Keep::BlockInputs | Keep::Activations { .. } => true,
            };
            let input = keep_input.then(|| values.clone());
            let (output, activations, caches) = self.run_block_checked(block, &batch, pass, values)?;
            values = output;
            let needed = activations.bytes() + caches.iter().map(KvCache::bytes).sum::<u64>();
            kept.push(match (pass.keep, input) {
                (Keep::Activations { bytes: budget }, _) if activation_bytes + needed <= budget => {
                    activation_bytes += needed;
                    bytes += needed;
                    Kept::Activations(Box::new(activations), caches)
                }
                (_, Some(input)) => {
                    bytes += 4 * input.data().len() as u64;
                    Kept::Input(input)
                }
                (_, None) => Kept::Nothing,
            });
        }
        drop(batch);
        let output = HiddenStates::new(values, lengths.clone())?;
        Ok((output, Saved::new(LocalSaved { key: self.key, lengths, kept }, bytes)))
    }

    fn backward(&self, saved: Saved, grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        let LocalSaved { key, lengths, mut kept } = saved.downcast()?;
        if key != self.key {
            return Err(SpanError::Foreign("what was saved"));
        }
        if matches!(kept[0], Kept::Nothing) {
            return Err(SpanError::NothingSaved);
        }
        grad.check_lengths(&lengths)?;
        self.check_pass(pass)?;
        self.check_input(self.range().end - 1, grad.values().view())?;
        let starts = vec![0; lengths.len()];
        let batch = self.batch(&lengths, &starts, pass);

        // Inputs that were not kept are made again from the one before.
        for place in 1..self.blocks.len() {
            if let (Kept::Input(input), Kept::Nothing) = (&kept[place - 1], &kept[place]) {
                let input = input.clone();
                let (output, ..) = self.run_block_checked(&self.blocks[place - 1], &batch, pass, input)?;
                kept[place] = Kept::Input(output);
            }
        }

        let mut leaves = self.zero_leaves(pass, lengths.len());
        let mut gradient = grad.into_values();
        for (block, kept) in self.blocks.iter().zip(kept).rev() {
            pass.limits.check()?;
            let (activations, caches) = match kept {
                Kept::Activations(activations, caches) => (activations, caches),
                Kept::Input(input) => {
                    let (_, activations, caches) = self.run_block(block, &batch, input);
                    (Box::new(activations), caches)
                }
                Kept::Nothing => return Err(SpanError::NothingSaved),
            };
            gradient = block.backward(&self.cpu, &batch, &activations, &caches, gradient, &mut leaves);
        }
        Ok((HiddenStates::new(gradient, lengths.clone())?, PassGrad { leaves }))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        self.check_pass(pass)?;
        let bytes = (shape.sequences as u64)
            .checked_mul(shape.max_tokens.max(1) as u64)
            .and_then(|tokens| tokens.checked_mul(self.cache_bytes_per_token()))
            .unwrap_or(u64::MAX);
        let reservation = Reservation::take(&self.cache, bytes)?;
        let caches = self.blocks.iter().map(|_| vec![self.new_cache(shape.max_tokens); shape.sequences]).collect();
        let state = LocalSession { pass: Arc::new(pass.clone()), caches, _reservation: reservation };
        Ok(Session::new(self.key, shape, state))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        let admitted: Vec<Result<()>> = steps
            .iter()
            .map(|step| {
                step.session.admit(self.key, &step.hidden, self.spec.hidden_size)?;
                self.check_input(self.blocks[0].index, step.hidden.values().view())
            })
            .collect();
        let admitted_steps = steps.iter_mut().zip(&admitted).filter(|(_, admitted)| admitted.is_ok());
        let mut results = self.step_admitted(admitted_steps.map(|(step, _)| step).collect()).into_iter();
        let result = |admitted: Result<()>| admitted.and_then(|()| results.next().expect("one for each admitted"));
        admitted.into_iter().map(result).collect()
    }
}

fn zeros_like(matrix: &Matrix) -> Matrix {
    Matrix::zeros(matrix.rows(), matrix.cols())
}
