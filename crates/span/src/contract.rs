//! The suite that every implementation of [`Span`] passes. No test framework is needed: a clause is a function that
//! panics where its promise is broken.
//!
//! An implementation's tests build a [`Subject`] (the same blocks as one span and cut into several) and call [`check`]:
//!
//! ```
//! use std::sync::Arc;
//! use bouquet_span::contract::{self, Random, Subject};
//! use bouquet_span::fake::FakeSpan;
//! use bouquet_span::{Adapter, LinearId, Site};
//! let mut random = Random::new(1);
//! let pairs = (4..7).map(|block| (LinearId::new(block, Site::O), random.low_rank(8, 8, 2))).collect();
//! let adapter = Adapter { pairs, dropout: 0.0 };
//! let prompts = random.prompts(4..7, 2, 8);
//! let whole = Arc::new(FakeSpan::new(4..7, 8));
//! let halves: [Arc<FakeSpan>; 2] = [Arc::new(FakeSpan::new(4..5, 8)), Arc::new(FakeSpan::new(5..7, 8))];
//! contract::check(&Subject::new("a fake", whole, halves.map(|half| half as _).into(), adapter, prompts));
//! ```
//!
//! Results are compared for equality of bits, never for closeness, but for finite differences. The clauses by theme:
//!
//! | module | promises |
//! |---|---|
//! | [`composition`] | whole sequences: the same bits however blocks and batches are cut |
//! | [`sessions`] | sequences that grow: the same bits however they are stepped |
//! | [`rewinding`] | going back, and beams |
//! | [`gradients`] | backward: right, and the same bits whatever was kept and wherever it was cut |
//! | [`refusals`] | what is refused is refused politely, and disturbs nothing |
//! | [`numbers`] | what is not finite is found and named |

pub mod composition;
pub mod gradients;
mod inputs;
pub mod numbers;
pub mod refusals;
pub mod rewinding;
pub mod sessions;

use std::sync::Arc;

pub use self::inputs::Random;
use crate::{Adapter, Prompts, Span};

/// What is put to the test. Build it with [`new`](Self::new) and change what does not suit.
pub struct Subject<'a> {
    /// Named when a clause fails.
    pub name: &'a str,
    /// Blocks as one span.
    pub whole: Arc<dyn Span>,
    /// The same blocks cut into two spans or more.
    pub halves: Vec<Arc<dyn Span>>,
    /// Fits linears of these blocks, with dropout 0 and no matrix of zeros: most gradients would vanish.
    pub adapter: Arc<Adapter>,
    /// For at least one of these blocks.
    pub prompts: Arc<Prompts>,
    /// Of the sequences in a batch: uneven, one of them 0, the longest at least 4. Longer ones reach further into an
    /// implementation (windows, tiles), and take longer.
    pub lengths: Vec<usize>,
    /// What sessions reserve for each sequence: at least 16, and 4 more than the longest.
    pub max_tokens: usize,
    /// Tokens that the cache of `whole` has room for in all, where a test can fill it.
    pub cache_tokens: Option<usize>,
    /// Of all random inputs, which are uniform in -1..1.
    pub seed: u64,
    /// How far finite differences go to each side.
    pub finite_difference_step: f32,
    /// How far they may be from the gradient, as a share of its magnitude. Infinite where the arithmetic has steps of
    /// its own (8-bit activations).
    pub finite_difference_tolerance: f32,
}

/// A promise: its name, and the function that panics where it is broken.
pub type Clause = (&'static str, fn(&Subject<'_>));

macro_rules! clauses {
    ($($theme:ident::$clause:ident),* $(,)?) => {
        /// All promises, the simplest first.
        pub const CLAUSES: &[Clause] = &[$((stringify!($clause), $theme::$clause)),*];
    };
}

clauses![
    composition::halves_compose_to_the_whole,
    composition::a_sequence_is_the_same_in_any_batch,
    composition::empty_batches_pass_through,
    composition::calls_from_several_threads_agree,
    composition::other_blocks_are_none_of_its_business,
    composition::dropout_is_drawn_by_its_key,
    sessions::stepping_equals_one_pass,
    sessions::stepped_together_equals_stepped_alone,
    sessions::several_sequences_equal_several_sessions,
    sessions::what_returns_is_what_was_asked_for,
    sessions::a_session_keeps_its_pass_but_not_its_limits,
    sessions::limits_of_a_step_are_its_own,
    sessions::a_session_reserves_what_its_pass_does,
    sessions::dropping_a_session_frees_its_cache,
    rewinding::rewind_and_step_repeats_itself,
    rewinding::the_last_step_can_be_taken_back,
    rewinding::rewind_refuses_beyond_its_promise,
    rewinding::an_unlimited_rewind_reaches_the_start,
    rewinding::reorder_copies_sequences,
    gradients::backward_matches_finite_differences,
    gradients::whatever_was_kept_gives_the_same_gradients,
    gradients::what_is_kept_stays_in_its_budget,
    gradients::the_gradients_of_a_chain_equal_those_of_the_whole,
    gradients::leaves_are_the_same_wherever_the_batch_is_cut,
    gradients::a_backward_of_nothing_kept_is_refused,
    refusals::one_failing_step_disturbs_nothing,
    refusals::limits_are_heard,
    refusals::too_many_tokens_are_refused,
    refusals::absurd_shapes_are_refused,
    refusals::what_belongs_to_another_span_is_refused,
    refusals::wrong_shapes_are_refused,
    refusals::dropout_that_drops_everything_is_refused,
    refusals::sequences_beyond_counting_are_refused,
    refusals::what_is_admitted_is_taken_on,
    numbers::what_is_not_finite_is_found,
    numbers::an_overflow_inside_a_block_is_found,
    numbers::gradients_that_are_not_finite_are_found,
];

impl<'a> Subject<'a> {
    /// With lengths `[5, 1, 0, 9]` and up to 24 tokens.
    pub fn new(
        name: &'a str,
        whole: Arc<dyn Span>,
        halves: Vec<Arc<dyn Span>>,
        adapter: Adapter,
        prompts: Prompts,
    ) -> Self {
        Subject {
            name,
            whole,
            halves,
            adapter: Arc::new(adapter),
            prompts: Arc::new(prompts),
            lengths: vec![5, 1, 0, 9],
            max_tokens: 24,
            cache_tokens: None,
            seed: 0,
            finite_difference_step: 1.0 / 128.0,
            finite_difference_tolerance: 0.01,
        }
    }
}

/// All clauses, one after another. Panics at the first promise that is broken, with its name on stderr.
pub fn check(subject: &Subject<'_>) {
    subject.check_itself();
    for &(clause, check) in CLAUSES {
        let _named = Named { subject: subject.name, clause };
        check(subject);
    }
}

/// Says which clause it was that panicked.
struct Named<'a> {
    subject: &'a str,
    clause: &'a str,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} breaks the contract of spans: {}", self.subject, self.clause);
        }
    }
}
