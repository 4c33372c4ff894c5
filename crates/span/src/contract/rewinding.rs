//! Going back, and beams.

use super::Subject;
use super::inputs::{expect, expect_error, follow, pack, part, sequence, step};
use crate::{HiddenStates, Returned, Session, SpanError};

/// After a rewind, over steps or into one, other tokens can follow, and be taken back again; and the same tokens give
/// the same bits as if nothing had happened.
pub fn rewind_and_step_repeats_itself(subject: &Subject<'_>) {
    let mut random = subject.random("rewind");
    let input = subject.even_batch(3, &mut random);
    let (tokens, other) = (input.lengths()[0], subject.even_batch(3, &mut random));
    for (pass_name, pass) in subject.passes() {
        let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
        for (span_name, span) in subject.spans() {
            let (what, span) = (format!("{span_name}, {pass_name}"), span.as_ref());
            let mut session = subject.open(span, 3, 4, &pass);
            for count in [tokens - 6, 3, 1] {
                follow(&what, span, &mut session, &input, &expected, &[count; 3]);
            }
            // As far as promised: 4 tokens before the last step; then less far; and not at all.
            let places = [tokens - 7, tokens - 4, tokens - 2];
            rewind_to(&mut session, &places);
            follow(&format!("{what}, rewound"), span, &mut session, &input, &expected, &[2, 1, 0]);
            rewind_to(&mut session, &places);
            let disturbed = step(span, &mut session, part(&other, &places, &[3, 0, 2]), Returned::All);
            expect(&format!("{what}: a step of other tokens"), disturbed);
            rewind_to(&mut session, &places);
            let what = format!("{what}, rewound from other tokens");
            follow(&what, span, &mut session, &input, &expected, &[1, 4, 0]);
            follow(&what, span, &mut session, &input, &expected, &[6, 0, 2]);
        }
    }
}

/// The last step can always be taken back, all of it or in part, also by sessions that promise no rewind.
pub fn the_last_step_can_be_taken_back(subject: &Subject<'_>) {
    let mut random = subject.random("last step");
    let (input, pass) = (subject.even_batch(2, &mut random), subject.rich());
    let (tokens, other) = (input.lengths()[0], subject.even_batch(2, &mut random));
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        let mut session = subject.open(span, 2, 0, &pass);
        for (start, count) in [(0, 2), (2, 5), (7, tokens - 7)] {
            for attempt in 0..2 {
                let disturbed = step(span, &mut session, part(&other, &[start; 2], &[count; 2]), Returned::All);
                expect(&format!("{name}: attempt {attempt} with other tokens"), disturbed);
                rewind_to(&mut session, &[start; 2]);
            }
            follow(name, span, &mut session, &input, &expected, &[count; 2]);
            rewind_to(&mut session, &[start + 1; 2]);
            let what = format!("{name}, taken back but for one token");
            follow(&what, span, &mut session, &input, &expected, &[count - 1; 2]);
        }
    }
}

/// Further back than promised, ahead, or in a sequence that is not there, a rewind is refused and changes nothing.
pub fn rewind_refuses_beyond_its_promise(subject: &Subject<'_>) {
    let input = subject.even_batch(2, &mut subject.random("refused rewind"));
    let (pass, tokens) = (subject.rich(), input.lengths()[0]);
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        let mut session = subject.open(span, 2, 2, &pass);
        for count in [tokens - 5, 2, 1] {
            follow(name, span, &mut session, &input, &expected, &[count; 2]);
        }
        let refused = |error: &SpanError| matches!(error, SpanError::Rewind { .. });
        for place in [0, tokens - 6, tokens - 1, usize::MAX] {
            expect_error(&format!("{name}: a rewind to {place}"), session.rewind(1, place), refused);
        }
        let missing = |error: &SpanError| matches!(error, SpanError::Shape { .. });
        expect_error(&format!("{name}: a rewind of sequence 2 of 2"), session.rewind(2, tokens - 2), missing);
        expect_error(&format!("{name}: a rewind of no sequence"), session.rewind(usize::MAX, 0), missing);
        let what = format!("{name}, after refused rewinds");
        follow(&what, span, &mut session, &input, &expected, &[2, 0]);
        rewind_to(&mut session, &[tokens - 3, tokens - 5]);
        follow(&what, span, &mut session, &input, &expected, &[3, 5]);
    }
}

/// `max_rewind` may be more than all tokens: every position is then in reach.
pub fn an_unlimited_rewind_reaches_the_start(subject: &Subject<'_>) {
    let input = subject.even_batch(2, &mut subject.random("unlimited rewind"));
    let (pass, tokens) = (subject.rich(), input.lengths()[0]);
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        let mut session = subject.open(span, 2, usize::MAX, &pass);
        for places in [[0, 3], [1, 0], [0, 0]] {
            while session.positions()[0] < tokens {
                let left = session.positions().iter().map(|&position| (tokens - position).min(4)).collect::<Vec<_>>();
                follow(name, span, &mut session, &input, &expected, &left);
            }
            rewind_to(&mut session, &places);
        }
        follow(name, span, &mut session, &input, &expected, &[tokens; 2]);
    }
}

/// [`Session::reorder`] makes copies that then go their own ways; a wrong one is refused and changes nothing.
pub fn reorder_copies_sequences(subject: &Subject<'_>) {
    let mut random = subject.random("reorder");
    let (input, pass) = (subject.even_batch(4, &mut random), subject.rich());
    let (tokens, other) = (input.lengths()[0], subject.even_batch(4, &mut random));
    let from = [2, 2, 0, 3];
    let prefixes = [3, 1, tokens - 6, 0];
    // After the reordering, sequence `i` has the prefix of `from[i]`, and then tokens of its own.
    let reordered = from.iter().enumerate().map(|(index, &from)| {
        let prefix = part(&sequence(&input, from), &[0], &[prefixes[from]]);
        let rest = part(&sequence(&other, index), &[0], &[tokens - prefixes[from]]);
        let mut values = prefix.into_values();
        values.push_rows(rest.values().view());
        HiddenStates::single(values)
    });
    let reordered = pack(&reordered.collect::<Vec<_>>(), input.hidden_size());
    let (expected, _) = expect("a forward", subject.whole.forward(reordered.clone(), &pass));
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        let mut session = subject.open(span, 4, 0, &pass);
        expect(name, step(span, &mut session, part(&input, &[0; 4], &prefixes), Returned::None));
        let wrong = |error: &SpanError| matches!(error, SpanError::Shape { .. });
        for order in [vec![], vec![0, 1, 2], vec![0, 1, 2, 4], vec![0, 1, 2, usize::MAX], vec![0; 5]] {
            expect_error(&format!("{name}: the order {order:?} of 4"), session.reorder(&order), wrong);
        }
        assert_eq!(session.positions(), prefixes, "{name}: positions after refused orders");
        expect(&format!("{name}: reordering"), session.reorder(&from));
        assert_eq!(session.positions(), from.map(|from| prefixes[from]), "{name}: positions of a new order");
        let what = format!("{name}, reordered");
        follow(&what, span, &mut session, &reordered, &expected, &[2, 3, 1, 4]);
        // A copy that goes back does not take the other with it.
        let place = session.positions()[0] - 1;
        expect(&format!("{name}: rewinding a copy"), session.rewind(0, place));
        follow(&what, span, &mut session, &reordered, &expected, &[0, 2, 0, 0]);
        let left: Vec<usize> = session.positions().iter().map(|position| tokens - position).collect();
        follow(&what, span, &mut session, &reordered, &expected, &left);
    }
}

#[track_caller]
fn rewind_to(session: &mut Session, places: &[usize]) {
    for (index, &place) in places.iter().enumerate() {
        let from = session.positions()[index];
        expect(&format!("rewinding sequence {index} from {from} to {place}"), session.rewind(index, place));
    }
    assert_eq!(session.positions(), places, "positions after a rewind");
}
