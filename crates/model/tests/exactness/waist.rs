//! The contract of spans over [`LocalSpan`], for every architecture, with and without a window.

use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::attention::KEY_PIECE;
use bouquet_model::block::Block;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families;
use bouquet_model::load::Loader;
use bouquet_model::local::PassBytes;
use bouquet_model::spec::{DynamicRope, Positions, RopeSpec};
use bouquet_model::{LocalSpan, ModelSpec};
use bouquet_span::contract::{self, Random, Subject, gradients, rewinding, sessions};
use bouquet_span::fake::FakeSpan;
use bouquet_span::{
    Adapter, Chain, HiddenStates, Keep, Limits, LinearId, Pass, Prompts, Returned, Saved, Session, SessionShape, Site,
    Span, SpanError, Step,
};

use crate::fixtures::{ARCHITECTURES, bits, folder};

/// More than all passes of a clause keep and work in; a session that reserves as much holds nothing until it is filled.
const CACHE_TOKENS: usize = 1 << 20;

/// All blocks of a fixture, its specification changed before its weights are read.
fn blocks(name: &str, change: impl Fn(&mut ModelSpec)) -> (ModelSpec, Vec<Block>) {
    let folder = folder(name);
    let mut spec = families::load_spec(&folder).unwrap();
    change(&mut spec);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let blocks = Loader { source: &checkpoint, spec: &spec, encoding: None }.blocks(0..spec.num_blocks).unwrap();
    (spec, blocks)
}

/// The same as a span.
fn span(name: &str, change: impl Fn(&mut ModelSpec)) -> (ModelSpec, LocalSpan) {
    let (spec, blocks) = blocks(name, change);
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
    // The slope of ReLU jumps, which finite differences do not like; its own is tested with the kernels.
    let without_bends = |spec: &mut ModelSpec| {
        let activation = &mut spec.block.feed_forward.activation;
        if *activation == Activation::Relu {
            *activation = Activation::Gelu;
        }
    };
    for name in ARCHITECTURES {
        let (spec, local) = span(name, without_bends);
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

/// Beyond the trained length frequencies are others. (They depend on the length that is reserved, so a session that may grow
/// is not one pass: the other clauses do not hold there.)
#[test]
fn dynamic_positions_beyond_the_trained_length_have_the_gradients_that_differences_find() {
    let short = |spec: &mut ModelSpec| {
        let trained = DynamicRope { theta: 10_000.0, factor: 2.5, trained_tokens: 3 };
        spec.block.attention.positions = Positions::Rope(RopeSpec::dynamic(spec.block.attention.head_dim, trained));
    };
    let (spec, local) = span("llama-dynamic-tiny", short);
    gradients::backward_matches_finite_differences(&subject("llama-dynamic-tiny", &spec, local));
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

/// A span of `bytes` of memory, and as many tokens.
fn small(name: &str, bytes: u64) -> (ModelSpec, LocalSpan) {
    let (spec, blocks) = blocks(name, |_| ());
    let local = LocalSpan::new(Arc::new(Cpu::new(2)), spec.block.clone(), blocks, bytes);
    (spec, local)
}

#[test]
fn a_pass_that_does_not_fit_into_memory_is_refused_and_one_that_does_gives_it_back() {
    const MIB: u64 = 1 << 20;
    for name in ARCHITECTURES {
        let (spec, local) = small(name, 4 * MIB);
        let (adapter, prompts) = learned(&spec);
        let pass = Pass {
            adapter: Some(Arc::new(adapter)),
            prompts: Some(Arc::new(prompts)),
            keep: Keep::Activations { bytes: u64::MAX },
            ..Pass::default()
        };
        let hidden = |tokens| Random::new(1).hidden(&[tokens, 1], spec.block.hidden_size);
        let right = |error: &SpanError| matches!(error, SpanError::PassTooLarge { tokens: 20_001, needed, available } if needed > available);
        assert!(right(&local.admit(&[20_000, 1], &pass).unwrap_err()), "{name}");
        // Nothing of it was computed: that would take minutes.
        assert!(right(&local.forward(hidden(20_000), &pass).unwrap_err()), "{name}");
        for _ in 0..20 {
            let (output, saved) = local.forward(hidden(20), &pass).unwrap();
            local.backward(saved, output.clone(), &pass).unwrap();
            let (_, dropped) = local.forward(output, &pass).unwrap();
            drop(dropped);
        }
        // What is saved is held until it is dropped.
        let mut saved = Vec::new();
        let full = loop {
            match local.forward(hidden(20), &pass) {
                Ok((_, kept)) => saved.push(kept),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, SpanError::PassTooLarge { tokens: 21, .. }), "{name}: {full:?}");
        assert!(saved.iter().map(Saved::bytes).sum::<u64>() <= 4 * MIB, "{name}");
        saved.clear();
        let tokens = (4 * MIB / local.cache_bytes_per_token()) as usize;
        local.open(SessionShape { sequences: 1, max_tokens: tokens, max_rewind: 0 }, &Pass::default()).unwrap();
    }
}

#[test]
fn what_is_kept_is_counted_exactly() {
    for name in ARCHITECTURES {
        let (spec, local) = span(name, |_| ());
        let (adapter, _) = learned(&spec);
        // Sequences of one piece of the cache, and of more.
        let lengths = [3, KEY_PIECE + 5, 1, 2 * KEY_PIECE];
        let hidden = Random::new(1).hidden(&lengths, spec.block.hidden_size);
        let adapted = Pass { adapter: Some(Arc::new(adapter)), leaf: 2, ..Pass::default() };
        let counted = PassBytes::new(&spec.block, local.range(), &lengths, &adapted);
        let activations = [0, counted.activations(), u64::MAX].map(|bytes| Keep::Activations { bytes });
        for keep in [Keep::Nothing, Keep::Input, Keep::BlockInputs].into_iter().chain(activations) {
            let pass = Pass { keep, ..adapted.clone() };
            let (_, saved) = local.forward(hidden.clone(), &pass).unwrap();
            assert_eq!(saved.bytes(), counted.kept(keep), "{name}, {keep:?}");
        }
    }
}

#[test]
fn a_step_that_does_not_fit_into_memory_is_refused_and_leaves_its_session_and_the_others() {
    const BYTES: u64 = 1 << 20;
    let (spec, local) = small("bloom-tiny", BYTES);
    let tokens = (BYTES / 2 / local.cache_bytes_per_token()) as usize;
    let open = |max_tokens| local.open(SessionShape { sequences: 1, max_tokens, max_rewind: 0 }, &Pass::default());
    let (mut large, mut other) = (open(tokens).unwrap(), open(1).unwrap());
    let hidden = |tokens| Random::new(1).hidden(&[tokens], spec.block.hidden_size);
    fn step<'a>(session: &'a mut Session, hidden: HiddenStates) -> Step<'a> {
        Step { session, hidden, returned: Returned::Last, limits: Limits::default() }
    }
    let results = local.step(&mut [step(&mut large, hidden(tokens)), step(&mut other, hidden(1))]);
    let refused =
        |error: &SpanError| matches!(error, SpanError::PassTooLarge { needed, available, .. } if needed > available);
    assert!(results[0].as_ref().is_err_and(refused) && results[1].is_ok(), "{results:?}");
    assert_eq!((large.positions(), other.positions()), (&[0][..], &[1][..]));
    assert!(local.step(&mut [step(&mut large, hidden(1))])[0].is_ok(), "what the step had reserved came back");
}

#[test]
fn a_backward_that_does_not_fit_into_memory_is_refused() {
    let (spec, local) = small("bloom-tiny", 1 << 20);
    let (adapter, _) = learned(&spec);
    // A leaf for each of many sequences, each with a gradient for every pair.
    let pass = Pass { adapter: Some(Arc::new(adapter)), leaf: 1, keep: Keep::Input, ..Pass::default() };
    let hidden = Random::new(1).hidden(&[1; 100], spec.block.hidden_size);
    let (output, saved) = local.forward(hidden, &pass).unwrap();
    let refused = local.backward(saved, output, &pass);
    assert!(matches!(refused, Err(SpanError::PassTooLarge { tokens: 100, .. })), "{:?}", refused.err());
}

/// The span in front gives up keys that the window has passed, page by page; the one behind fails each step once. What
/// the first has done is taken back, and its keys must still be there.
#[test]
fn a_step_that_fails_behind_a_window_is_taken_back_across_pages() {
    let window = |spec: &mut ModelSpec| spec.block.attention.window = Some(20);
    let (spec, local) = span("llama-tiny", window);
    for max_rewind in [0, 3] {
        let fake = Arc::new(FakeSpan::new(spec.num_blocks..spec.num_blocks + 1, spec.block.hidden_size));
        let chain = Chain::new(vec![Arc::new(local.clone()), fake.clone()]).unwrap();
        let input = Random::new(5).hidden(&[2 * KEY_PIECE + 60], spec.block.hidden_size);
        let (expected, _) = chain.forward(input.clone(), &Pass::default()).unwrap();
        let shape = SessionShape { sequences: 1, max_tokens: input.tokens(), max_rewind };
        let mut session = chain.open(shape, &Pass::default()).unwrap();
        let step = |session: &mut Session, rows: std::ops::Range<usize>| {
            let hidden = HiddenStates::single(input.values().slice(rows).to_matrix());
            let step = Step { session, hidden, returned: Returned::All, limits: Limits::default() };
            chain.step(&mut [step]).remove(0)
        };
        // Around both page borders, and around where the window leaves a page for good.
        for count in [KEY_PIECE - 6, 1, 10, 15, 3, 1, 1, 1, 200, 20, 2, 2, 30, 1, 1, 1, 1, 16, 8] {
            let start = session.positions()[0];
            fake.fail_session(0);
            let failed = step(&mut session, start..start + count);
            assert!(matches!(failed, Err(SpanError::Failed(_))), "{failed:?}");
            fake.heal();
            assert_eq!(session.positions(), [start]);
            let back = start.saturating_sub(max_rewind);
            session.rewind(0, back).unwrap();
            let output = step(&mut session, back..start + count).unwrap();
            let same = expected.values().slice(back..start + count).to_matrix();
            assert_eq!(bits(output.values()), bits(&same), "{max_rewind}: {count} tokens at {start}");
        }
    }
}

#[test]
fn an_expert_without_tokens_has_gradients_of_zero() {
    let (spec, local) = span("mixtral-tiny", |_| ());
    let (adapter, _) = learned(&spec);
    let pass = Pass { adapter: Some(Arc::new(adapter)), keep: Keep::Input, ..Pass::default() };
    let (output, saved) = local.forward(Random::new(3).hidden(&[1], spec.block.hidden_size), &pass).unwrap();
    let (_, grad) = local.backward(saved, output, &pass).unwrap();
    let experts = spec.block.feed_forward.experts.unwrap();
    for block in 0..spec.num_blocks {
        let used = (0..experts.count as u16).filter(|&expert| {
            let of = |site| &grad.leaves[0].adapter[&LinearId::new(block, site)];
            let zero = [Site::ExpertGate(expert), Site::ExpertUp(expert), Site::ExpertDown(expert)]
                .map(|site| of(site).a.data().iter().chain(of(site).b.data()).all(|&value| value == 0.0));
            assert!(zero == [true; 3] || zero == [false; 3], "block {block}, expert {expert}: {zero:?}");
            zero == [false; 3]
        });
        assert_eq!(used.count(), experts.per_token, "experts of block {block} that one token uses");
    }
}
