//! The contract of spans over [`LocalSpan`], for every architecture, with and without a window.

use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::KEY_PIECE;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families;
use bouquet_model::load::Loader;
use bouquet_model::{LocalSpan, ModelSpec};
use bouquet_span::contract::{self, Random, Subject, gradients, rewinding, sessions};
use bouquet_span::{Adapter, LinearId, Pass, Prompts, Span, SpanError};

use crate::fixtures::{ARCHITECTURES, repository};

const CACHE_TOKENS: usize = 16 * 1024;

/// All blocks of a fixture, its specification changed before its weights are read.
fn span(name: &str, change: impl Fn(&mut ModelSpec)) -> (ModelSpec, LocalSpan) {
    let folder = repository().join("tests/fixtures/models").join(name);
    let mut spec = families::load_spec(&folder).unwrap();
    change(&mut spec);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let blocks = Loader { source: &checkpoint, spec: &spec }.blocks(0..spec.num_blocks).unwrap();
    let cpu = Arc::new(Cpu::new(2));
    let per_token = LocalSpan::new(cpu.clone(), spec.block.clone(), blocks.clone(), 0).cache_bytes_per_token();
    let local = LocalSpan::new(cpu, spec.block.clone(), blocks, CACHE_TOKENS as u64 * per_token);
    (spec, local)
}

/// A pair for every linear of every block, and prompts for the second half of them.
fn learned(spec: &ModelSpec) -> (Adapter, Prompts) {
    let mut random = Random::new(11);
    let mut adapter = Adapter::default();
    for block in 0..spec.num_blocks {
        for linear in spec.block.linears() {
            let mut pair = random.low_rank(linear.inputs, linear.outputs, 2);
            pair.scale = 0.1;
            adapter.pairs.insert(LinearId::new(block, linear.site), pair);
        }
    }
    (adapter, random.prompts(spec.num_blocks / 2..spec.num_blocks, 2, spec.block.hidden_size))
}

/// A span, put to the test as one and as two halves.
fn subject(name: &'static str, spec: &ModelSpec, whole: LocalSpan) -> Subject<'static> {
    let half = spec.num_blocks / 2;
    let halves: Vec<Arc<dyn Span>> = vec![Arc::new(whole.slice(0..half)), Arc::new(whole.slice(half..spec.num_blocks))];
    let (adapter, prompts) = learned(spec);
    let mut subject = Subject::new(name, Arc::new(whole), halves, adapter, prompts);
    subject.cache_tokens = Some(CACHE_TOKENS);
    // These blocks bend more than the suite's own fakes.
    subject.finite_difference_step = 1.0 / 512.0;
    subject.finite_difference_tolerance = 0.02;
    subject
}

#[test]
fn local_spans_of_every_architecture_keep_the_contract() {
    for name in ARCHITECTURES {
        let (spec, local) = span(name, |_| ());
        let mut subject = subject(name, &spec, local);
        if spec.block.feed_forward.experts.is_some() {
            // A step that changes a token's choice of experts measures the jump and not the slope: small steps, from a
            // place where no choice is near its border.
            subject.finite_difference_step = 1.0 / 4096.0;
            subject.finite_difference_tolerance = 0.05;
            subject.seed = 4;
        }
        contract::check(&subject);
    }
}

#[test]
fn a_window_keeps_the_contract() {
    for name in ["bloom-tiny", "llama-tiny"] {
        let (spec, local) = span(name, |spec| spec.block.attention.window = Some(3));
        contract::check(&subject(name, &spec, local));
    }
}

#[test]
fn a_window_that_leaves_pieces_behind_keeps_the_contract() {
    let (spec, local) = span("llama-tiny", |spec| spec.block.attention.window = Some(20));
    let mut subject = subject("llama-tiny", &spec, local);
    subject.lengths = vec![2, 0, KEY_PIECE + 30];
    subject.max_tokens = KEY_PIECE + 40;
    // The clauses that reach into pieces of the cache; all of them take long at this length.
    sessions::stepping_equals_one_pass(&subject);
    rewinding::rewind_and_step_repeats_itself(&subject);
    rewinding::the_last_step_can_be_taken_back(&subject);
    gradients::whatever_was_kept_gives_the_same_gradients(&subject);
}

#[test]
fn a_dropout_that_keeps_nothing_is_refused_and_does_not_panic() {
    let (spec, local) = span("bloom-tiny", |_| ());
    for dropout in [1.0, -0.1, f32::NAN] {
        let adapter = Adapter { dropout, ..learned(&spec).0 };
        let pass = Pass { adapter: Some(Arc::new(adapter)), ..Pass::default() };
        let hidden = Random::new(1).hidden(&[3], spec.block.hidden_size);
        assert!(matches!(local.forward(hidden, &pass), Err(SpanError::Adapter { .. })), "{dropout}");
    }
}
