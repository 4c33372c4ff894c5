//! A span without weights, for tests of whatever stands on [`Span`]: chains, swarms, training loops, generation. It
//! keeps the whole contract (memory from token to token, adapters, prompts, dropout, rounding, gradients, limits, a
//! cache that can be full) in a few loops, and fails on demand.
//!
//! ```
//! use bouquet_span::{HiddenStates, Pass, Span, fake::FakeSpan};
//! use bouquet_kernels::Matrix;
//! let span = FakeSpan::new(0..2, 3);
//! let hidden = HiddenStates::single(Matrix::from_vec(1, 3, vec![0.0, 1.0, -1.0]));
//! let (output, _) = span.forward(hidden, &Pass::default()).unwrap();
//! assert_eq!(output.values().row(0)[0], 0.0);
//! ```

mod block;
mod session;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bouquet_kernels::Cpu;

use self::block::Block;
use self::session::{FakeSession, Shared, lock};
use crate::session::SpanKey;
use crate::{HiddenStates, Keep, Pass, PassGrad, Result, Saved, Session, SessionShape, Site, Span, SpanError, Step};

/// Tokens of cache unless [`with_cache_tokens`](FakeSpan::with_cache_tokens) says otherwise.
pub const DEFAULT_CACHE_TOKENS: usize = 1 << 16;

/// Blocks that remember, on a few channels; the formulas are in `fake/block.rs`. The same blocks of any two fakes of
/// one seed and hidden size compute the same bits, so a fake of `0..4` equals a [`Chain`](crate::Chain) of `0..1` and
/// `1..4`.
pub struct FakeSpan {
    key: SpanKey,
    range: Range<usize>,
    hidden_size: usize,
    seed: u64,
    shared: Arc<Mutex<Shared>>,
}

/// What a forward keeps; block inputs and memories are there as far as [`Keep`] asks.
struct Kept {
    input: HiddenStates,
    block_inputs: Vec<HiddenStates>,
    memories: BTreeMap<usize, Vec<Vec<f32>>>,
}

impl FakeSpan {
    /// The blocks of `range`. Panics when there are no channels.
    pub fn new(range: Range<usize>, hidden_size: usize) -> Self {
        assert!(hidden_size > 0, "a span needs at least one channel");
        let free_tokens = DEFAULT_CACHE_TOKENS;
        let shared = Shared { free_tokens, opened: 0, calls_left: None, failing_session: None };
        FakeSpan { key: SpanKey::new(), range, hidden_size, seed: 0, shared: Arc::new(Mutex::new(shared)) }
    }

    /// The blocks of another model: another seed, other weights.
    pub fn with_seed(self, seed: u64) -> Self {
        FakeSpan { seed, ..self }
    }

    /// Room for this many tokens in all sessions together; a session reserves `sequences · max_tokens` of them.
    pub fn with_cache_tokens(self, tokens: usize) -> Self {
        lock(&self.shared).free_tokens = tokens;
        self
    }

    /// The next `calls` calls go well, and all after them fail with [`SpanError::Failed`], until [`heal`](Self::heal):
    /// 0 is a span that is gone. Each forward, backward and open is a call, and each session's part of a step; a step
    /// fails at its end, with its cache already written to. Rewinding and reordering are not counted, but fail as well
    /// once the calls are used up.
    pub fn fail_after(&self, calls: usize) {
        lock(&self.shared).calls_left = Some(calls);
    }

    /// All steps of one session fail with [`SpanError::Failed`], at their end, until [`heal`](Self::heal). Sessions are
    /// numbered from 0 as they are opened; [`opened`](Self::opened) is the number of the next.
    pub fn fail_session(&self, number: usize) {
        lock(&self.shared).failing_session = Some(number);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        let mut shared = lock(&self.shared);
        (shared.calls_left, shared.failing_session) = (None, None);
    }

    /// Sessions opened so far, dropped ones included.
    pub fn opened(&self) -> usize {
        lock(&self.shared).opened
    }

    /// Tokens of cache that no session has reserved.
    pub fn free_tokens(&self) -> usize {
        lock(&self.shared).free_tokens
    }

    fn block<'a>(&self, index: usize, pass: &'a Pass) -> Block<'a> {
        // Some weight between 0.25 and 1.25 that depends on the block and the seed: the golden ratio scatters.
        let scattered = (self.seed ^ (index as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let weight = 0.25 + scattered as f32 / 65536.0;
        Block { index, weight, hidden_size: self.hidden_size, pass }
    }

    /// One block over the next tokens of all sequences; `memories` grow by these tokens, even when it fails.
    fn run_block(&self, index: usize, hidden: &mut HiddenStates, pass: &Pass, memories: &mut [Vec<f32>]) -> Result<()> {
        pass.limits.check()?;
        let block = self.block(index, pass);
        let rows: Vec<Range<usize>> = hidden.rows().collect();
        for (sequence, (rows, memory)) in rows.into_iter().zip(memories).enumerate() {
            block.forward(sequence, hidden.values_mut().slice_mut(rows), memory);
        }
        check_finite(index, hidden)?;
        pass.rounding.apply(&Cpu::new(1), hidden.values_mut());
        check_finite(index, hidden)
    }

    /// All blocks over whole sequences.
    fn run(&self, hidden: HiddenStates, pass: &Pass, keep: Keep) -> Result<(HiddenStates, Kept)> {
        let mut kept = Kept { input: hidden.clone(), block_inputs: Vec::new(), memories: BTreeMap::new() };
        let mut budget = if let Keep::Activations { bytes } = keep { bytes } else { 0 };
        let mut hidden = hidden;
        for index in self.range() {
            if matches!(keep, Keep::BlockInputs | Keep::Activations { .. }) {
                kept.block_inputs.push(hidden.clone());
            }
            let mut memories = vec![Vec::new(); hidden.sequences()];
            self.run_block(index, &mut hidden, pass, &mut memories)?;
            let bytes = bytes_of(&hidden);
            if matches!(keep, Keep::Activations { .. }) && bytes <= budget {
                budget -= bytes;
                kept.memories.insert(index, memories);
            }
        }
        Ok((hidden, kept))
    }

    fn check_pass(&self, sequences: usize, pass: &Pass) -> Result<()> {
        let shape = |site| (site == Site::O).then_some([self.hidden_size; 2]);
        pass.check(self.range(), self.hidden_size, sequences, shape)
    }

    fn check_width(&self, what: &'static str, found: usize) -> Result<()> {
        let expected = self.hidden_size;
        if found == expected { Ok(()) } else { Err(SpanError::Shape { what, expected, found }) }
    }

    fn step_one(&self, step: &mut Step<'_>) -> Result<HiddenStates> {
        step.session.admit(self.key, &step.hidden, self.hidden_size)?;
        let positions = step.session.positions().to_vec();
        let state = step.session.state_mut::<FakeSession>()?;
        let pass = Pass { limits: step.limits.clone(), ..state.pass.clone() };
        let mut hidden = step.hidden.clone();
        let done = self
            .range()
            .zip(&mut state.memories)
            .try_for_each(|(index, memories)| self.run_block(index, &mut hidden, &pass, memories))
            .and_then(|()| lock(&self.shared).call(Some(state.number)));
        if let Err(error) = done {
            (0..positions.len()).for_each(|sequence| state.forget(sequence, positions[sequence]));
            return Err(error);
        }
        step.session.advance(step.hidden.lengths());
        Ok(step.returned.select(hidden))
    }
}

impl Span for FakeSpan {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn admit(&self, lengths: &[usize], pass: &Pass) -> Result<()> {
        self.check_pass(lengths.len(), pass)?;
        pass.check_lengths(lengths)
    }

    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        lock(&self.shared).call(None)?;
        self.check_width("hidden_size", hidden.hidden_size())?;
        self.admit(hidden.lengths(), pass)?;
        let (output, kept) = self.run(hidden, pass, pass.keep)?;
        let kept = (pass.keep != Keep::Nothing).then_some(kept);
        let bytes = kept.as_ref().map_or(0, Kept::bytes);
        Ok((output, Saved::new((self.key, kept), bytes)))
    }

    fn backward(&self, saved: Saved, mut grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        lock(&self.shared).call(None)?;
        let (key, kept) = saved.downcast::<(SpanKey, Option<Kept>)>()?;
        if key != self.key {
            return Err(SpanError::Foreign("what was saved"));
        }
        let mut kept = kept.ok_or(SpanError::NothingSaved)?;
        self.check_width("hidden_size", grad.hidden_size())?;
        grad.check_lengths(kept.input.lengths())?;
        if kept.block_inputs.is_empty() {
            kept.block_inputs = self.run(kept.input, pass, Keep::BlockInputs)?.1.block_inputs;
        }
        self.check_pass(grad.sequences(), pass)?;
        if let Some(token) = first_not_finite(&grad) {
            return Err(SpanError::gradient_of_output(self.range.end.saturating_sub(1), token));
        }
        let rows: Vec<Range<usize>> = grad.rows().collect();
        let mut leaves = pass.zero_leaves(self.range(), rows.len());
        for (index, mut input) in self.range().zip(kept.block_inputs).rev() {
            pass.limits.check()?;
            let mut memories = kept.memories.remove(&index).unwrap_or_default();
            if memories.is_empty() {
                memories.resize(rows.len(), Vec::new());
                self.run_block(index, &mut input, pass, &mut memories)?;
            }
            let block = self.block(index, pass);
            for (leaf, sequences) in leaves.iter_mut().zip(pass.leaves(rows.len())) {
                for sequence in sequences {
                    let rows = rows[sequence].clone();
                    block.backward(sequence, &memories[sequence], grad.values_mut().slice_mut(rows), leaf);
                }
            }
            if let Some(token) = first_not_finite(&grad) {
                return Err(SpanError::gradient_of_input(index, token));
            }
            leaves.iter().try_for_each(|leaf| leaf.check_finite(index))?;
        }
        Ok((grad, PassGrad { leaves }))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        let mut shared = lock(&self.shared);
        shared.call(None)?;
        self.check_pass(shape.sequences, pass)?;
        let pass = pass.in_session(shape)?;
        // A sequence without tokens costs one, so that there cannot be endlessly many of them.
        let reserved_tokens = shape.sequences.saturating_mul(shape.max_tokens.max(1));
        let bytes = |tokens: usize| (tokens as u64).saturating_mul((self.range.len() * self.hidden_size * 4) as u64);
        let Some(free_tokens) = shared.free_tokens.checked_sub(reserved_tokens) else {
            let (needed, available) = (bytes(reserved_tokens), bytes(shared.free_tokens));
            return Err(SpanError::CacheFull { needed, available });
        };
        shared.free_tokens = free_tokens;
        let number = shared.opened;
        shared.opened += 1;
        let state = FakeSession {
            pass,
            number,
            reserved_tokens,
            hidden_size: self.hidden_size,
            memories: vec![vec![Vec::new(); shape.sequences]; self.range.len()],
            shared: Arc::clone(&self.shared),
        };
        Ok(Session::new(self.key, shape, state))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        steps.iter_mut().map(|step| self.step_one(step)).collect()
    }
}

impl Kept {
    fn bytes(&self) -> u64 {
        // Where all block inputs are kept, the first of them is the span's own.
        let inputs = if self.block_inputs.is_empty() { 1 } else { self.block_inputs.len() };
        bytes_of(&self.input) * (inputs + self.memories.len()) as u64
    }
}

fn bytes_of(hidden: &HiddenStates) -> u64 {
    size_of_val(hidden.values().data()) as u64
}

fn check_finite(block: usize, hidden: &HiddenStates) -> Result<()> {
    match first_not_finite(hidden) {
        Some(token) => Err(SpanError::NotFinite { block, token }),
        None => Ok(()),
    }
}

fn first_not_finite(hidden: &HiddenStates) -> Option<usize> {
    let place = hidden.values().data().iter().position(|value| !value.is_finite());
    place.map(|place| place / hidden.hidden_size())
}
