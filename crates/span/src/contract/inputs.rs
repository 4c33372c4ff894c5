//! What the clauses are made of: random inputs, the passes that each promise is kept under, cutting and comparing.

use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::Matrix;

use super::Subject;
use crate::{
    Adapter, Chain, Dropout, HiddenStates, Keep, Limits, LinearId, LowRank, Pass, PassGrad, Prompts, Result, Returned,
    Rounding, Session, SessionShape, Span, SpanError, Step,
};

/// A small generator of inputs (splitmix64, Steele et al. 2014): the same numbers from the same seed, everywhere.
pub struct Random(u64);

impl Random {
    /// Another sequence for each seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`. Panics when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end as u64) as usize
    }

    /// From -1 to below 1.
    pub fn value(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `[rows, cols]` of [`value`](Self::value).
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        Matrix::from_vec(rows, cols, (0..rows * cols).map(|_| self.value()).collect())
    }

    /// Sequences of these lengths.
    pub fn hidden(&mut self, lengths: &[usize], hidden_size: usize) -> HiddenStates {
        let tokens = lengths.iter().sum();
        HiddenStates::new(self.matrix(tokens, hidden_size), lengths.to_vec()).expect("the lengths add up")
    }

    /// A low-rank pair without zeros.
    pub fn low_rank(&mut self, inputs: usize, outputs: usize, rank: usize) -> LowRank {
        LowRank { a: self.matrix(rank, inputs), b: self.matrix(outputs, rank), scale: 0.5 }
    }

    /// Prompts of so many tokens for each of these blocks.
    pub fn prompts(&mut self, blocks: Range<usize>, tokens: usize, hidden_size: usize) -> Prompts {
        Prompts { blocks: blocks.map(|block| (block, self.matrix(tokens, hidden_size))).collect() }
    }
}

impl Subject<'_> {
    /// A linear of these blocks that the adapter has a pair for.
    pub(super) fn adapted(&self) -> LinearId {
        let blocks = self.whole.range();
        let mut adapted = self.adapter.pairs.keys().filter(|linear| blocks.contains(&linear.block));
        *adapted.next().expect("an adapted linear")
    }

    /// Whether the suite can be run over it at all.
    pub(super) fn check_itself(&self) {
        let range = self.whole.range();
        let chain = self.chain();
        assert!(self.halves.len() >= 2, "{}: the whole has to be cut at least once", self.name);
        assert_eq!(chain.range(), range, "{}: blocks of the halves and of the whole", self.name);
        assert_eq!(chain.hidden_size(), self.whole.hidden_size(), "{}: hidden_size of the halves", self.name);
        let adapted = self.adapter.pairs.keys().any(|linear| range.contains(&linear.block));
        assert!(adapted && self.adapter.dropout == 0.0, "{}: an adapter of these blocks, without dropout", self.name);
        let prompted = self.prompts.blocks.range(range).next().is_some();
        assert!(prompted, "{}: prompts of these blocks", self.name);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        assert!(longest >= 4 && self.lengths.contains(&0), "{}: lengths of 0 and of 4 or more", self.name);
        assert!(self.max_tokens >= 16.max(longest + 4), "{}: 4 tokens more than the longest, and 16", self.name);
    }

    /// Numbers of its own for each clause.
    pub(super) fn random(&self, clause: &str) -> Random {
        Random::new(clause.bytes().fold(self.seed, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)))
    }

    pub(super) fn hidden_size(&self) -> usize {
        self.whole.hidden_size()
    }

    pub(super) fn batch(&self, random: &mut Random) -> HiddenStates {
        random.hidden(&self.lengths, self.hidden_size())
    }

    /// So many sequences of equal length, 4 tokens short of what a session reserves.
    pub(super) fn even_batch(&self, sequences: usize, random: &mut Random) -> HiddenStates {
        random.hidden(&vec![self.max_tokens - 4; sequences], self.hidden_size())
    }

    pub(super) fn chain(&self) -> Chain {
        expect("a chain of the halves", Chain::new(self.halves.clone()))
    }

    /// The two implementations under test: the whole, and a chain of its halves.
    pub(super) fn spans(&self) -> [(&'static str, Arc<dyn Span>); 2] {
        [("the whole", Arc::clone(&self.whole)), ("a chain of the halves", Arc::new(self.chain()))]
    }

    pub(super) fn plain(&self) -> Pass {
        Pass { reserved_tokens: Some(self.max_tokens), ..Pass::default() }
    }

    /// An adapter and prompts on top.
    pub(super) fn rich(&self) -> Pass {
        let (adapter, prompts) = (Some(Arc::clone(&self.adapter)), Some(Arc::clone(&self.prompts)));
        Pass { adapter, prompts, ..self.plain() }
    }

    /// All that inference can bring along.
    pub(super) fn passes(&self) -> Vec<(&'static str, Pass)> {
        vec![
            ("plain", self.plain()),
            ("with an adapter", Pass { prompts: None, ..self.rich() }),
            ("with prompts", Pass { adapter: None, ..self.rich() }),
            ("with both, rounded to bf16", Pass { rounding: Rounding::Bf16, ..self.rich() }),
            ("with both, rounded to int8", Pass { rounding: Rounding::Int8, ..self.rich() }),
        ]
    }

    /// All that training can bring along; everything is kept, and leaves have 2 sequences.
    pub(super) fn training_passes(&self) -> Vec<(&'static str, Pass)> {
        let rich = Pass { keep: Keep::Activations { bytes: u64::MAX }, leaf: 2, ..self.rich() };
        let adapter = Adapter { dropout: 0.25, ..self.adapter.as_ref().clone() };
        let dropout = Some(Dropout { seed: self.seed, step: 3, view: 1, first_sequence: 10 });
        let dropping = Pass { adapter: Some(Arc::new(adapter)), dropout, ..rich.clone() };
        vec![
            ("plain", Pass { adapter: None, prompts: None, ..rich.clone() }),
            ("with an adapter and prompts", rich),
            ("with dropout", dropping.clone()),
            ("with dropout, rounded to bf16", Pass { rounding: Rounding::Bf16, ..dropping.clone() }),
            ("with dropout, rounded to int8", Pass { rounding: Rounding::Int8, ..dropping }),
        ]
    }

    pub(super) fn open(&self, span: &dyn Span, sequences: usize, max_rewind: usize, pass: &Pass) -> Session {
        let shape = SessionShape { sequences, max_tokens: self.max_tokens, max_rewind };
        let session = expect("opening a session", span.open(shape, pass));
        assert_eq!(session.shape(), shape, "the shape of an open session");
        assert_eq!(session.positions(), vec![0; sequences], "the positions of a new session");
        session
    }
}

/// The value, or a panic that names what failed.
#[track_caller]
pub(super) fn expect<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what} failed: {error}"))
}

/// Panics unless the error is the right one.
#[track_caller]
pub(super) fn expect_error<T>(what: &str, result: Result<T>, right: impl Fn(&SpanError) -> bool) {
    match result {
        Ok(_) => panic!("{what} was not refused"),
        Err(error) => assert!(right(&error), "{what} was refused with another error: {error:?}"),
    }
}

/// Whether an error names the token that is not finite.
pub(super) fn not_finite(error: &SpanError, right: usize) -> bool {
    match error {
        SpanError::NotFinite { token, .. } | SpanError::InputNotFinite { token, .. } => *token == right,
        _ => false,
    }
}

/// Panics with the first place where any bit differs.
#[track_caller]
pub(super) fn assert_same(what: &str, found: &HiddenStates, expected: &HiddenStates) {
    assert_eq!(found.lengths(), expected.lengths(), "{what}: lengths");
    assert_same_matrix(what, found.values(), expected.values());
}

#[track_caller]
pub(super) fn assert_same_matrix(what: &str, found: &Matrix, expected: &Matrix) {
    assert_eq!((found.rows(), found.cols()), (expected.rows(), expected.cols()), "{what}: shape");
    let mut pairs = found.data().iter().zip(expected.data());
    if let Some(place) = pairs.position(|(found, expected)| found.to_bits() != expected.to_bits()) {
        let (row, col) = (place / found.cols(), place % found.cols());
        let (found, expected) = (found.data()[place], expected.data()[place]);
        panic!("{what}: bits differ first at row {row}, channel {col}: {found:e}, should be {expected:e}");
    }
}

#[track_caller]
pub(super) fn assert_same_gradients(what: &str, found: &PassGrad, expected: &PassGrad) {
    assert_eq!(found.leaves.len(), expected.leaves.len(), "{what}: leaves");
    for (index, (found, expected)) in found.leaves.iter().zip(&expected.leaves).enumerate() {
        let what = format!("{what}, leaf {index}");
        assert!(found.adapter.keys().eq(expected.adapter.keys()), "{what}: adapted linears");
        for (linear, found) in &found.adapter {
            assert_same_matrix(&format!("{what}, A of {linear}"), &found.a, &expected.adapter[linear].a);
            assert_same_matrix(&format!("{what}, B of {linear}"), &found.b, &expected.adapter[linear].b);
        }
        assert!(found.prompts.keys().eq(expected.prompts.keys()), "{what}: prompted blocks");
        for (block, found) in &found.prompts {
            assert_same_matrix(&format!("{what}, prompts of block {block}"), found, &expected.prompts[block]);
        }
    }
}

/// One sequence out of a batch.
pub(super) fn sequence(hidden: &HiddenStates, sequence: usize) -> HiddenStates {
    let rows = hidden.rows().nth(sequence).expect("a sequence of the batch");
    HiddenStates::single(hidden.values().slice(rows).to_matrix())
}

/// Sequences put together in one batch, in this order.
pub(super) fn pack<'h>(parts: impl IntoIterator<Item = &'h HiddenStates>, hidden_size: usize) -> HiddenStates {
    let (mut values, mut lengths) = (Matrix::zeros(0, hidden_size), Vec::new());
    for part in parts {
        values.push_rows(part.values().view());
        lengths.extend_from_slice(part.lengths());
    }
    HiddenStates::new(values, lengths).expect("the lengths add up")
}

/// Some tokens of each sequence: `lengths` from `starts` on.
pub(super) fn part(hidden: &HiddenStates, starts: &[usize], lengths: &[usize]) -> HiddenStates {
    let mut values = Matrix::zeros(0, hidden.hidden_size());
    for ((rows, &start), &length) in hidden.rows().zip(starts).zip(lengths) {
        assert!(start + length <= rows.len(), "a part of a sequence");
        values.push_rows(hidden.values().slice(rows.start + start..rows.start + start + length));
    }
    HiddenStates::new(values, lengths.to_vec()).expect("the lengths add up")
}

/// One session, one step, nothing that could stop it.
pub(super) fn step(
    span: &dyn Span,
    session: &mut Session,
    hidden: HiddenStates,
    returned: Returned,
) -> Result<HiddenStates> {
    let mut steps = [Step { session, hidden, returned, limits: Limits::default() }];
    let mut results = span.step(&mut steps);
    assert_eq!(results.len(), 1, "results of one step");
    results.remove(0)
}

/// Steps a session by its next tokens out of whole sequences, and compares what comes out with the same tokens out of
/// whole outputs.
#[track_caller]
pub(super) fn follow(
    what: &str,
    span: &dyn Span,
    session: &mut Session,
    inputs: &HiddenStates,
    outputs: &HiddenStates,
    lengths: &[usize],
) {
    let starts = session.positions().to_vec();
    let result = step(span, session, part(inputs, &starts, lengths), Returned::All);
    let output = expect(&format!("{what}: a step of {lengths:?} at {starts:?}"), result);
    let what = format!("{what}: a step of {lengths:?} tokens at {starts:?}");
    assert_same(&what, &output, &part(outputs, &starts, lengths));
    let ends: Vec<usize> = starts.iter().zip(lengths).map(|(start, length)| start + length).collect();
    assert_eq!(session.positions(), ends, "{what}: positions after it");
}

/// Ways to feed sequences of these lengths step by step: each a list of steps, each step the tokens of each sequence.
pub(super) fn cuts(lengths: &[usize], random: &mut Random) -> Vec<(&'static str, Vec<Vec<usize>>)> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let singly = (0..longest).map(|token| lengths.iter().map(|&length| usize::from(token < length)).collect());
    let mut left = lengths.to_vec();
    let mut uneven = Vec::new();
    while left.iter().any(|&left| left > 0) {
        let step: Vec<usize> = left.iter().map(|&left| random.below(5).min(left)).collect();
        left.iter_mut().zip(&step).for_each(|(left, step)| *left -= step);
        uneven.push(step);
    }
    vec![("at once", vec![lengths.to_vec()]), ("token by token", singly.collect()), ("in uneven cuts", uneven)]
}
