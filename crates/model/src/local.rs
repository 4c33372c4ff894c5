//! Blocks in this process: [`LocalSpan`] runs them, over weights that rest in memory or in mapped files, and keeps the
//! caches of its sessions, and what passes work in, within a budget.

mod memory_budget;
mod pass_bytes;
mod session;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::session::SpanKey;
use bouquet_span::{HiddenStates, Keep, Pass, PassGrad, Result, Saved, Session, SessionShape, Span, SpanError, Step};

use self::memory_budget::{MemoryBudget, Reservation};
pub use self::pass_bytes::PassBytes;
use self::session::LocalSession;
use crate::block::batch::Batch;
use crate::block::{Activations, Block};
use crate::checkpoint::{Checkpoint, TensorSource};
use crate::form::Form;
use crate::kv_cache::{CacheShape, KvCache};
use crate::load::Loader;
use crate::spec::{BlockSpec, ModelSpec};
use crate::{Hash, OpenOptions, families, hash};

/// A span of blocks of this process.
#[derive(Clone)]
pub struct LocalSpan {
    key: SpanKey,
    cpu: Arc<Cpu>,
    spec: Arc<BlockSpec>,
    /// In order; a block knows its number.
    blocks: Vec<Arc<Block>>,
    memory: Arc<MemoryBudget>,
    /// Of sessions.
    cache_encoding: CacheEncoding,
}

/// What a forward keeps for its backward.
struct LocalSaved {
    key: SpanKey,
    lengths: Vec<usize>,
    /// Of each block.
    kept: Vec<Kept>,
    /// Its memory.
    reservation: Reservation,
}

/// What is kept of one block.
enum Kept {
    Nothing,
    /// Its input, without prompts.
    Input(Matrix),
    Activations(Box<Activations>, Vec<KvCache>),
}

impl LocalSpan {
    /// A span over `blocks`, which follow each other and are at least one. The caches of sessions, and what forwards and
    /// backwards work in and keep, take `memory_bytes` in all; what does not fit is refused.
    pub fn new(cpu: Arc<Cpu>, spec: BlockSpec, blocks: Vec<Block>, memory_bytes: u64) -> Self {
        assert!(!blocks.is_empty(), "a span has at least one block");
        LocalSpan {
            key: SpanKey::new(),
            cpu,
            spec: Arc::new(spec),
            blocks: blocks.into_iter().map(Arc::new).collect(),
            memory: Arc::new(MemoryBudget::new(memory_bytes)),
            cache_encoding: CacheEncoding::F32,
        }
    }

    /// Opens some blocks of a folder, and loads no others.
    ///
    /// # Errors
    /// [`NoSuchBlock`](crate::ModelError::NoSuchBlock); whatever is missing, damaged or unknown, by name;
    /// [`TooLarge`](crate::ModelError::TooLarge).
    pub fn open(folder: &Path, range: Range<usize>, options: &OpenOptions) -> crate::Result<LocalSpan> {
        let form = Form::open(folder)?;
        let spec = families::spec_of(&form)?;
        let checkpoint = Checkpoint::of(form)?;
        spec.check_blocks(&range)?;
        options.check_memory(&checkpoint, &spec, false, range.clone(), 0)?;
        LocalSpan::from_source(&checkpoint, &spec, range, options)
    }

    /// Some blocks of a specification, from tensors wherever they are.
    ///
    /// # Errors
    /// As [`Network::from_source`](crate::Network::from_source), of these tensors alone.
    pub fn from_source(
        source: &dyn TensorSource,
        spec: &ModelSpec,
        range: Range<usize>,
        options: &OpenOptions,
    ) -> crate::Result<LocalSpan> {
        let OpenOptions { cpu, encoding, .. } = options;
        spec.stored.check(*encoding)?;
        spec.check_blocks(&range)?;
        let blocks = Loader { source, spec, encoding: Some((cpu, *encoding)) }.blocks(range)?;
        let span = LocalSpan::new(cpu.clone(), spec.block.clone(), blocks, options.budget());
        Ok(span.with_cache_encoding(options.cache_encoding))
    }

    /// The same, with sessions that keep keys and values so. Passes without a session keep them as they are.
    pub fn with_cache_encoding(self, cache_encoding: CacheEncoding) -> Self {
        LocalSpan { cache_encoding, ..self }
    }

    /// Some of the blocks as a span of their own, sharing weights and budget. Panics outside of [`range`](Span::range).
    pub fn slice(&self, range: Range<usize>) -> LocalSpan {
        let first = self.blocks[0].index;
        let blocks = self.blocks[range.start - first..range.end - first].to_vec();
        assert!(!blocks.is_empty(), "a span has at least one block");
        LocalSpan { key: SpanKey::new(), blocks, ..self.clone() }
    }

    /// The hash of each block, computed from its weights as they are held here.
    pub fn hashes(&self) -> Vec<Hash> {
        self.blocks.iter().map(|block| hash::of_block(&self.cpu, block, &|_| ())).collect()
    }

    /// The weights of the linears of all blocks, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Weight> {
        self.blocks.iter().flat_map(|block| block.weights())
    }

    /// Bytes of cache that a token of a sequence takes in this span.
    pub fn cache_bytes_per_token(&self) -> u64 {
        CacheShape::new(&self.spec, self.cache_encoding).bytes_per_token() * self.blocks.len() as u64
    }

    /// Runs one block over whole sequences.
    fn run_block(&self, block: &Block, batch: &Batch<'_>, input: Matrix) -> (Matrix, Activations, Vec<KvCache>) {
        let mut caches = self.new_caches(batch);
        let (output, activations) = block.forward(&self.cpu, batch, input, &mut caches.iter_mut().collect::<Vec<_>>());
        (output, activations, caches)
    }

    /// Runs one block over whole sequences as far as its backward needs it.
    fn activations(&self, block: &Block, batch: &Batch<'_>, input: Matrix) -> (Activations, Vec<KvCache>) {
        let mut caches = self.new_caches(batch);
        let activations = block.activations(&self.cpu, batch, input, &mut caches.iter_mut().collect::<Vec<_>>());
        (activations, caches)
    }

    /// An empty cache for each whole sequence.
    fn new_caches(&self, batch: &Batch<'_>) -> Vec<KvCache> {
        let shape = CacheShape::new(&self.spec, CacheEncoding::F32);
        batch.sequences.iter().map(|sequence| KvCache::new(shape, sequence.rows.len())).collect()
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

    fn check_width(&self, hidden: MatrixView<'_>) -> Result<()> {
        let (expected, found) = (self.spec.hidden_size, hidden.cols());
        if expected == found { Ok(()) } else { Err(SpanError::Shape { what: "hidden_size", expected, found }) }
    }

    fn check_input(&self, block: usize, hidden: MatrixView<'_>) -> Result<()> {
        self.check_width(hidden)?;
        match elementwise::first_row_not_finite(&self.cpu, hidden) {
            Some(token) => Err(SpanError::InputNotFinite { block, token }),
            None => Ok(()),
        }
    }

    /// Whether what a pass brings fits these blocks.
    fn check_pass(&self, sequences: usize, pass: &Pass) -> Result<()> {
        let shape = |site| self.spec.linear(site).map(|linear| [linear.outputs, linear.inputs]);
        pass.check(self.range(), self.spec.hidden_size, sequences, shape)
    }

    fn pass_bytes(&self, lengths: &[usize], pass: &Pass) -> PassBytes {
        PassBytes::new(&self.spec, self.range(), lengths, pass)
    }

    /// Memory for a pass over sequences of these lengths.
    fn reserve(&self, lengths: &[usize], needed: u64) -> Result<Reservation> {
        Reservation::take(&self.memory, needed).map_err(|available| too_large(lengths, needed, available))
    }
}

impl Span for LocalSpan {
    fn range(&self) -> Range<usize> {
        self.blocks[0].index..self.blocks[self.blocks.len() - 1].index + 1
    }

    fn hidden_size(&self) -> usize {
        self.spec.hidden_size
    }

    fn admit(&self, lengths: &[usize], pass: &Pass) -> Result<()> {
        self.check_pass(lengths.len(), pass)?;
        pass.check_lengths(lengths)?;
        let (needed, available) = (self.pass_bytes(lengths, pass).forward(pass.keep), self.memory.left());
        if needed > available { Err(too_large(lengths, needed, available)) } else { Ok(()) }
    }

    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        self.admit(hidden.lengths(), pass)?;
        self.check_input(self.blocks[0].index, hidden.values().view())?;
        let (lengths, starts) = (hidden.lengths().to_vec(), vec![0; hidden.sequences()]);
        let mut reservation = self.reserve(&lengths, self.pass_bytes(&lengths, pass).forward(pass.keep))?;
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
        reservation.shrink_to(bytes);
        Ok((output, Saved::new(LocalSaved { key: self.key, lengths, kept, reservation }, bytes)))
    }

    fn backward(&self, saved: Saved, grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        let LocalSaved { key, lengths, mut kept, reservation: _kept } = saved.downcast()?;
        if key != self.key {
            return Err(SpanError::Foreign("what was saved"));
        }
        if matches!(kept[0], Kept::Nothing) {
            return Err(SpanError::NothingSaved);
        }
        grad.check_lengths(&lengths)?;
        self.check_pass(lengths.len(), pass)?;
        self.check_width(grad.values().view())?;
        if let Some(token) = elementwise::first_row_not_finite(&self.cpu, grad.values().view()) {
            return Err(SpanError::gradient_of_output(self.range().end - 1, token));
        }
        let _working = self.reserve(&lengths, self.pass_bytes(&lengths, pass).backward(what_is_kept(&kept)))?;
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

        let mut leaves = pass.zero_leaves(self.range(), lengths.len());
        let mut gradient = grad.into_values();
        for (block, kept) in self.blocks.iter().zip(kept).rev() {
            pass.limits.check()?;
            let (activations, caches) = match kept {
                Kept::Activations(activations, caches) => (activations, caches),
                Kept::Input(input) => {
                    let (activations, caches) = self.activations(block, &batch, input);
                    (Box::new(activations), caches)
                }
                Kept::Nothing => return Err(SpanError::NothingSaved),
            };
            gradient = block.backward(&self.cpu, &batch, &activations, &caches, gradient, &mut leaves);
            if let Some(token) = elementwise::first_row_not_finite(&self.cpu, gradient.view()) {
                return Err(SpanError::gradient_of_input(block.index, token));
            }
            leaves.iter().try_for_each(|leaf| leaf.check_finite(block.index))?;
        }
        Ok((HiddenStates::new(gradient, lengths.clone())?, PassGrad { leaves }))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        self.check_pass(shape.sequences, pass)?;
        let pass = Arc::new(pass.in_session(shape)?);
        let bytes = (shape.sequences as u64)
            .checked_mul(shape.max_tokens.max(1) as u64)
            .and_then(|tokens| tokens.checked_mul(self.cache_bytes_per_token()))
            .unwrap_or(u64::MAX);
        let reservation = Reservation::take(&self.memory, bytes)
            .map_err(|available| SpanError::CacheFull { needed: bytes, available })?;
        let caches = CacheShape::new(&self.spec, self.cache_encoding);
        let caches =
            self.blocks.iter().map(|_| vec![KvCache::new(caches, shape.max_tokens); shape.sequences]).collect();
        let state = LocalSession { pass, caches, _reservation: reservation };
        Ok(Session::new(self.key, shape, state))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        // What each works in is held until all are done.
        let admitted: Vec<Result<Reservation>> = steps
            .iter()
            .map(|step| {
                step.session.admit(self.key, &step.hidden, self.spec.hidden_size)?;
                step.limits.check()?;
                self.check_input(self.blocks[0].index, step.hidden.values().view())?;
                let lengths = step.hidden.lengths();
                self.reserve(lengths, PassBytes::of_step(&self.spec, lengths))
            })
            .collect();
        let admitted_steps = steps.iter_mut().zip(&admitted).filter(|(_, admitted)| admitted.is_ok());
        let mut results = self.step_admitted(admitted_steps.map(|(step, _)| step).collect()).into_iter();
        let result =
            |admitted: Result<Reservation>| admitted.and_then(|_| results.next().expect("one for each admitted"));
        admitted.into_iter().map(result).collect()
    }
}

/// What a forward was asked to keep, by what it kept.
fn what_is_kept(kept: &[Kept]) -> Keep {
    if kept.iter().any(|kept| matches!(kept, Kept::Nothing)) {
        Keep::Input
    } else if kept.iter().any(|kept| matches!(kept, Kept::Input(_))) {
        Keep::BlockInputs
    } else {
        Keep::Activations { bytes: u64::MAX }
    }
}

/// [`SpanError::PassTooLarge`].
fn too_large(lengths: &[usize], needed: u64, available: u64) -> SpanError {
    let tokens = lengths.iter().fold(0usize, |sum, &length| sum.saturating_add(length));
    SpanError::PassTooLarge { tokens, needed, available }
}
