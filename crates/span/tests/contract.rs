//! The contract over all spans of this crate.

use std::sync::Arc;

use bouquet_span::contract::{self, Random, Subject};
use bouquet_span::fake::FakeSpan;
use bouquet_span::{Adapter, Chain, LinearId, Prompts, Rounded, Rounding, Site, Span};

const HIDDEN_SIZE: usize = 6;
const CACHE_TOKENS: usize = 4096;

/// With a cache small enough to be filled.
fn fake(range: std::ops::Range<usize>) -> Arc<dyn Span> {
    Arc::new(FakeSpan::new(range, HIDDEN_SIZE).with_cache_tokens(CACHE_TOKENS))
}

fn chain(spans: Vec<Arc<dyn Span>>) -> Arc<dyn Span> {
    Arc::new(Chain::new(spans).unwrap())
}

/// Every block but one is adapted, and every block but another has prompts.
fn learned() -> (Adapter, Prompts) {
    let mut random = Random::new(7);
    let blocks = (3..7).filter(|&block| block != 5);
    let pairs = blocks.map(|block| (LinearId::new(block, Site::O), random.low_rank(HIDDEN_SIZE, HIDDEN_SIZE, 2)));
    let adapter = Adapter { pairs: pairs.collect(), dropout: 0.0 };
    (adapter, random.prompts(4..7, 2, HIDDEN_SIZE))
}

fn check(name: &str, whole: Arc<dyn Span>, halves: Vec<Arc<dyn Span>>) {
    let (adapter, prompts) = learned();
    for seed in 0..3 {
        let (whole, halves) = (Arc::clone(&whole), halves.clone());
        let (adapter, prompts) = (adapter.clone(), prompts.clone());
        let lengths = [vec![5, 1, 0, 9], vec![0, 4], vec![17, 0, 0, 2, 17]].into_iter().nth(seed).unwrap();
        let cache_tokens = Some(CACHE_TOKENS);
        let seed = seed as u64;
        contract::check(&Subject {
            lengths,
            cache_tokens,
            seed,
            ..Subject::new(name, whole, halves, adapter, prompts)
        });
    }
}

#[test]
fn a_fake_keeps_the_contract() {
    check("a fake", fake(3..7), vec![fake(3..5), fake(5..7)]);
}

#[test]
fn a_chain_keeps_the_contract() {
    check("a chain", chain(vec![fake(3..4), fake(4..7)]), vec![fake(3..6), fake(6..7)]);
}

#[test]
fn a_chain_of_chains_keeps_the_contract() {
    let inner = || chain(vec![fake(4..5), fake(5..6)]);
    let whole = chain(vec![fake(3..4), chain(vec![inner(), fake(6..7)])]);
    check("a chain of chains", whole, vec![fake(3..4), inner(), chain(vec![fake(6..7)])]);
}

#[test]
fn a_chain_of_one_keeps_the_contract() {
    check("a chain of one", chain(vec![fake(3..7)]), vec![chain(vec![fake(3..5)]), fake(5..7)]);
}

#[test]
fn a_span_for_a_wire_keeps_the_contract() {
    for rounding in Rounding::ALL {
        let rounded = |range| Arc::new(Rounded::new(fake(range), rounding)) as Arc<dyn Span>;
        // Rounding has steps that finite differences fall between.
        let tolerance = if rounding == Rounding::None { 0.01 } else { f32::INFINITY };
        let (adapter, prompts) = learned();
        contract::check(&Subject {
            cache_tokens: Some(CACHE_TOKENS),
            finite_difference_tolerance: tolerance,
            ..Subject::new("a rounded fake", rounded(3..7), vec![rounded(3..5), rounded(5..7)], adapter, prompts)
        });
    }
}
