//! What a chain refuses, and how it takes back what its spans have done when one of them fails.

use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::contract::Random;
use bouquet_span::fake::FakeSpan;
use bouquet_span::{
    Chain, HiddenStates, Keep, Limits, Pass, Result, Returned, Session, SessionShape, Span, SpanError, Step,
};

const HIDDEN_SIZE: usize = 4;

/// Three fakes, to be told to fail, and the chain of them.
fn three() -> ([Arc<FakeSpan>; 3], Chain) {
    let fakes = [0..2, 2..3, 3..5].map(|range| Arc::new(FakeSpan::new(range, HIDDEN_SIZE)));
    let chain = Chain::new(fakes.iter().map(|fake| Arc::clone(fake) as _).collect()).unwrap();
    (fakes, chain)
}

fn tokens(count: usize, seed: u64) -> HiddenStates {
    HiddenStates::single(Random::new(seed).matrix(count, HIDDEN_SIZE))
}

fn rows(hidden: &HiddenStates, rows: std::ops::Range<usize>) -> Matrix {
    hidden.values().slice(rows).to_matrix()
}

fn open(span: &dyn Span, max_rewind: usize) -> Session {
    span.open(SessionShape { sequences: 1, max_tokens: 32, max_rewind }, &Pass::default()).unwrap()
}

fn step(span: &dyn Span, session: &mut Session, values: Matrix) -> Result<Matrix> {
    let mut steps = [part(session, values)];
    span.step(&mut steps).remove(0).map(HiddenStates::into_values)
}

fn part(session: &mut Session, values: Matrix) -> Step<'_> {
    Step { session, hidden: HiddenStates::single(values), returned: Returned::All, limits: Limits::default() }
}

#[test]
fn a_chain_of_nothing_is_refused() {
    assert!(matches!(Chain::new(vec![]), Err(SpanError::Failed(_))));
}

#[test]
fn a_gap_an_overlap_and_a_wrong_order_are_refused() {
    for (first, second) in [(0..2, 3..4), (0..2, 1..4), (2..4, 0..2)] {
        let spans = [&first, &second].map(|range| Arc::new(FakeSpan::new(range.clone(), HIDDEN_SIZE)) as Arc<dyn Span>);
        match Chain::new(spans.into()) {
            Err(SpanError::Gap { previous, next }) => assert_eq!((previous, next), (first, second)),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn spans_of_other_hidden_sizes_are_refused() {
    let spans: Vec<Arc<dyn Span>> = vec![Arc::new(FakeSpan::new(0..1, 4)), Arc::new(FakeSpan::new(1..2, 5))];
    let refused = Chain::new(spans).err();
    assert!(matches!(refused, Some(SpanError::Shape { expected: 4, found: 5, .. })), "{refused:?}");
}

#[test]
fn a_failing_span_anywhere_is_taken_back() {
    for failing in 0..3 {
        let (fakes, chain) = three();
        let input = tokens(10, 1);
        let (expected, _) = chain.forward(input.clone(), &Pass::default()).unwrap();
        let mut session = open(&chain, 0);
        step(&chain, &mut session, rows(&input, 0..4)).unwrap();
        for _ in 0..2 {
            fakes[failing].fail_after(0);
            let failed = step(&chain, &mut session, rows(&input, 5..8));
            assert!(matches!(failed, Err(SpanError::Failed(_))), "{failed:?}");
            assert_eq!(session.positions(), [4]);
            fakes[failing].heal();
        }
        assert_eq!(step(&chain, &mut session, rows(&input, 4..10)).unwrap(), rows(&expected, 4..10));
    }
}

#[test]
fn a_session_that_fails_in_one_span_leaves_the_others_alone() {
    let (fakes, chain) = three();
    let (first, second) = (tokens(6, 1), tokens(6, 2));
    let [expected_first, expected_second] =
        [&first, &second].map(|input| chain.forward(input.clone(), &Pass::default()).unwrap().0);
    let (mut one, mut other) = (open(&chain, 0), open(&chain, 0));
    fakes[1].fail_session(0);
    let mut steps = [part(&mut one, rows(&first, 0..2)), part(&mut other, rows(&second, 0..3))];
    let results = chain.step(&mut steps);
    assert!(matches!(results[0], Err(SpanError::Failed(_))), "{:?}", results[0]);
    assert_eq!(results[1].as_ref().unwrap().values(), &rows(&expected_second, 0..3));
    fakes[1].heal();
    let mut steps = [part(&mut one, rows(&first, 0..6)), part(&mut other, rows(&second, 3..6))];
    let results: Vec<Matrix> = chain.step(&mut steps).into_iter().map(|result| result.unwrap().into_values()).collect();
    assert_eq!(results, [rows(&expected_first, 0..6), rows(&expected_second, 3..6)]);
}

/// The spans before the one that failed have stepped, and may have given up what lies further back than promised. So
/// the chain no longer offers it, rather than refuse half way.
#[test]
fn after_a_failed_step_a_rewind_goes_as_far_as_promised_and_no_further() {
    let (fakes, chain) = three();
    let input = tokens(10, 1);
    let (expected, _) = chain.forward(input.clone(), &Pass::default()).unwrap();
    let mut session = open(&chain, 2);
    step(&chain, &mut session, rows(&input, 0..6)).unwrap();
    assert_eq!(session.floors(), [0]);
    fakes[2].fail_after(0);
    step(&chain, &mut session, rows(&input, 6..7)).unwrap_err();
    fakes[2].heal();
    assert_eq!(session.floors(), [4]);
    assert!(matches!(session.rewind(0, 3), Err(SpanError::Rewind { .. })));
    session.rewind(0, 4).unwrap();
    assert_eq!(step(&chain, &mut session, rows(&input, 4..10)).unwrap(), rows(&expected, 4..10));
}

#[test]
fn a_session_that_cannot_be_taken_back_is_lost_and_says_so() {
    let (fakes, chain) = three();
    let input = tokens(6, 1);
    let (mut lost, mut other) = (open(&chain, 0), open(&chain, 0));
    for session in [&mut lost, &mut other] {
        step(&chain, session, rows(&input, 0..2)).unwrap();
    }
    // The first span does its part and is gone; the second fails.
    fakes[0].fail_after(1);
    fakes[1].fail_after(0);
    step(&chain, &mut lost, rows(&input, 2..3)).unwrap_err();
    fakes.iter().for_each(|fake| fake.heal());
    assert_eq!(lost.positions(), [2]);
    let (expected, _) = chain.forward(input.clone(), &Pass::default()).unwrap();
    let mut steps = [part(&mut lost, rows(&input, 2..6)), part(&mut other, rows(&input, 2..6))];
    let results = chain.step(&mut steps);
    assert!(matches!(results[0], Err(SpanError::Failed(_))), "{:?}", results[0]);
    assert_eq!(results[1].as_ref().unwrap().values(), &rows(&expected, 2..6));
}

#[test]
fn a_reorder_that_fails_half_way_loses_the_session() {
    let (fakes, chain) = three();
    let mut session = open(&chain, 0);
    step(&chain, &mut session, rows(&tokens(2, 1), 0..2)).unwrap();
    fakes[1].fail_after(0);
    session.reorder(&[0]).unwrap_err();
    fakes[1].heal();
    assert!(matches!(step(&chain, &mut session, rows(&tokens(1, 2), 0..1)), Err(SpanError::Failed(_))));
}

#[test]
fn a_span_that_cannot_open_frees_those_before_it() {
    let (fakes, chain) = three();
    let free = fakes[0].free_tokens();
    fakes[2].fail_after(0);
    let shape = SessionShape { sequences: 2, max_tokens: 8, max_rewind: 0 };
    assert!(chain.open(shape, &Pass::default()).is_err());
    assert_eq!((fakes[0].opened(), fakes[0].free_tokens()), (1, free));
}

#[test]
fn a_span_that_is_gone_fails_whatever_is_asked() {
    let (fakes, chain) = three();
    let pass = Pass { keep: Keep::Input, ..Pass::default() };
    let (output, saved) = chain.forward(tokens(3, 1), &pass).unwrap();
    fakes[1].fail_after(1);
    assert!(chain.forward(tokens(3, 1), &pass).is_ok());
    assert!(matches!(chain.forward(tokens(3, 1), &pass), Err(SpanError::Failed(_))));
    assert!(matches!(chain.backward(saved, output, &pass), Err(SpanError::Failed(_))));
}
