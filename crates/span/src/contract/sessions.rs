//! Sequences that grow: the same bits however they are stepped.

use std::time::Instant;

use super::Subject;
use super::inputs::{assert_same, cuts, expect, expect_error, follow, pack, part, sequence, step};
use crate::{HiddenStates, Limits, Pass, Returned, Session, SessionShape, SpanError, Step};

/// A prompt at once, token by token, or in uneven cuts where some sequences wait: the bits of one forward.
pub fn stepping_equals_one_pass(subject: &Subject<'_>) {
    let mut random = subject.random("stepping");
    let input = subject.batch(&mut random);
    for (pass_name, pass) in subject.passes() {
        let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
        for (cut_name, cut) in cuts(input.lengths(), &mut random) {
            for (span_name, span) in subject.spans() {
                let what = format!("{span_name} {cut_name}, {pass_name}");
                let mut session = subject.open(span.as_ref(), input.sequences(), 0, &pass);
                for lengths in &cut {
                    follow(&what, span.as_ref(), &mut session, &input, &expected, lengths);
                }
            }
        }
    }
}

/// Sessions of different passes, shapes and positions give the same bits in one call as each in its own.
pub fn stepped_together_equals_stepped_alone(subject: &Subject<'_>) {
    let mut random = subject.random("together");
    for (name, span) in subject.spans() {
        let (mut sessions, mut inputs, mut outputs, mut plans) = (vec![], vec![], vec![], vec![]);
        for (index, (_, pass)) in subject.passes().into_iter().enumerate() {
            let sequences = 1 + index % subject.lengths.len();
            let input = random.hidden(&subject.lengths[..sequences], subject.hidden_size());
            outputs.push(expect("a forward", span.forward(input.clone(), &pass)).0);
            sessions.push(subject.open(span.as_ref(), sequences, index, &pass));
            let (_, plan) = cuts(input.lengths(), &mut random).swap_remove(2);
            plans.push(plan.into_iter());
            inputs.push(input);
        }
        while plans.iter().any(|plan| plan.len() > 0) {
            // Now and then a session waits, and those that step come in another order.
            let chosen: Vec<bool> = plans.iter().map(|plan| plan.len() > 0 && random.below(4) > 0).collect();
            let mut members = Vec::new();
            let mut steps = Vec::new();
            for (index, session) in sessions.iter_mut().enumerate().filter(|(index, _)| chosen[*index]) {
                let lengths = plans[index].next().expect("only sessions with steps left are chosen");
                let hidden = part(&inputs[index], session.positions(), &lengths);
                members.push((index, part(&outputs[index], session.positions(), &lengths)));
                steps.push(Step { session, hidden, returned: Returned::All, limits: Limits::default() });
            }
            if random.below(2) == 0 {
                members.reverse();
                steps.reverse();
            }
            let results = span.step(&mut steps);
            assert_eq!(results.len(), members.len(), "{name}: a result for each step");
            for (result, (index, expected)) in results.into_iter().zip(members) {
                let what = format!("{name}, session {index} among others");
                assert_same(&what, &expect(&what, result), &expected);
            }
        }
        for (session, input) in sessions.iter().zip(&inputs) {
            assert_eq!(session.positions(), input.lengths(), "{name}: positions in the end");
        }
    }
}

/// Sequences in one session give the same bits as each in a session of its own.
pub fn several_sequences_equal_several_sessions(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("several"));
    let span = subject.whole.as_ref();
    for (name, pass) in subject.passes() {
        let mut session = subject.open(span, input.sequences(), 0, &pass);
        let together = step(span, &mut session, input.clone(), Returned::All);
        let mut alone: Vec<Session> = (0..input.sequences()).map(|_| subject.open(span, 1, 0, &pass)).collect();
        let mut steps: Vec<Step<'_>> = alone
            .iter_mut()
            .enumerate()
            .map(|(index, session)| {
                let hidden = sequence(&input, index);
                Step { session, hidden, returned: Returned::All, limits: Limits::default() }
            })
            .collect();
        let alone: Vec<HiddenStates> =
            span.step(&mut steps).into_iter().map(|result| expect("a session of one sequence", result)).collect();
        let what = format!("{name}, a session for each sequence");
        assert_same(&what, &pack(&alone, input.hidden_size()), &expect("a session of all", together));
    }
}

/// [`Returned::All`], [`Last`](Returned::Last) and [`None`](Returned::None) return what they say, also in one call,
/// and fill the cache alike.
pub fn what_returns_is_what_was_asked_for(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("returned"));
    let pass = subject.rich();
    let longest = (0..input.sequences()).max_by_key(|&index| input.lengths()[index]).expect("sequences");
    for (name, span) in subject.spans() {
        let (expected, _) = expect("a forward", span.forward(input.clone(), &pass));
        // All but the last token of the longest sequence, and then that one.
        let (mut first, mut rest) = (input.lengths().to_vec(), vec![0; input.sequences()]);
        (first[longest], rest[longest]) = (first[longest] - 1, 1);
        let asked = [Returned::None, Returned::Last, Returned::All];
        let mut sessions = asked.map(|_| subject.open(span.as_ref(), input.sequences(), 0, &pass));
        for lengths in [first, rest] {
            let starts = sessions[0].positions().to_vec();
            let (hidden, all) = (part(&input, &starts, &lengths), part(&expected, &starts, &lengths));
            let mut steps: Vec<Step<'_>> = sessions
                .iter_mut()
                .zip(asked)
                .map(|(session, returned)| Step {
                    session,
                    hidden: hidden.clone(),
                    returned,
                    limits: Limits::default(),
                })
                .collect();
            let results = span.step(&mut steps).into_iter().map(|result| expect("a step", result));
            for (returned, result) in asked.into_iter().zip(results) {
                let expected = match returned {
                    Returned::All => all.clone(),
                    Returned::Last => all.last_positions(),
                    Returned::None => all.no_positions(),
                };
                assert_same(&format!("{name}, returned {returned:?}"), &result, &expected);
            }
        }
    }
}

/// A session keeps the adapter and all else that it was opened with; its limits belong to that call alone.
pub fn a_session_keeps_its_pass_but_not_its_limits(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("limits of a session"));
    for (name, span) in subject.spans() {
        let pass = Pass { limits: Limits::default(), ..subject.rich() };
        let mut session = subject.open(span.as_ref(), input.sequences(), 0, &pass);
        let (expected, _) = expect("a forward", span.forward(input.clone(), &pass));
        pass.limits.cancel.cancel();
        drop(pass);
        let output = step(span.as_ref(), &mut session, input.clone(), Returned::All);
        let what = format!("{name}: a step of a session whose opening was cancelled when it was done");
        assert_same(&what, &expect(&what, output), &expected);
    }
}

/// The limits of a step are its own: one that is late is refused and moves nothing, and the next goes on from there.
pub fn limits_of_a_step_are_its_own(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("limits of a step"));
    let (first, rest): (Vec<usize>, Vec<usize>) =
        input.lengths().iter().map(|&length| (length / 2, length - length / 2)).unzip();
    for (name, span) in subject.spans() {
        let pass = subject.rich();
        let (expected, _) = expect("a forward", span.forward(input.clone(), &pass));
        let mut session = subject.open(span.as_ref(), input.sequences(), 0, &pass);
        follow(name, span.as_ref(), &mut session, &input, &expected, &first);
        let limits = Limits { deadline: Some(Instant::now()), ..Limits::default() };
        let hidden = part(&input, &first, &rest);
        let result =
            span.step(&mut [Step { session: &mut session, hidden, returned: Returned::All, limits }]).remove(0);
        expect_error(&format!("{name}: a late step"), result, |error| matches!(error, SpanError::DeadlinePassed));
        assert_eq!(session.positions(), first, "{name}: positions after a late step");
        follow(&format!("{name}, after a late step"), span.as_ref(), &mut session, &input, &expected, &rest);
    }
}

/// A session that may grow beyond what its pass reserves is refused; one that may not, and one whose pass reserves
/// nothing, are opened, and give the bits of a forward that reserves as much.
pub fn a_session_reserves_what_its_pass_does(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("reserved"));
    for (name, span) in subject.spans() {
        let (expected, _) = expect("a forward", span.forward(input.clone(), &subject.rich()));
        let free = Pass { reserved_tokens: None, ..subject.rich() };
        let mut session = subject.open(span.as_ref(), input.sequences(), 0, &free);
        let what = format!("{name}, reserved by the session");
        follow(&what, span.as_ref(), &mut session, &input, &expected, input.lengths());
        let max_tokens = subject.max_tokens - 1;
        let shape = SessionShape { sequences: 1, max_tokens, max_rewind: 0 };
        expect(&format!("{name}: a session of less than its pass reserves"), span.open(shape, &subject.rich()));
        let shape = SessionShape { max_tokens: subject.max_tokens + 1, ..shape };
        let right = |error: &SpanError| matches!(error, SpanError::TooManyTokens { needed, limit } if needed > limit);
        expect_error(&format!("{name}: a session of more"), span.open(shape, &subject.rich()), right);
    }
}

/// Sessions can be opened and dropped without end, used or not; and where the size of the cache is known, it is full
/// when it is, and has room again afterwards.
pub fn dropping_a_session_frees_its_cache(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("drop"));
    for (name, span) in subject.spans() {
        for round in 0..200 {
            let mut session = subject.open(span.as_ref(), input.sequences(), 1, &subject.plain());
            if round % 50 == 0 {
                let output = step(span.as_ref(), &mut session, input.clone(), Returned::None);
                expect(&format!("{name}: a step in round {round}"), output);
            }
        }
    }
    let Some(tokens) = subject.cache_tokens else { return };
    let (span, pass) = (&subject.whole, Pass { reserved_tokens: None, ..subject.plain() });
    let shape = SessionShape { sequences: 1, max_tokens: tokens, max_rewind: 0 };
    for round in 0..3 {
        let session = expect(&format!("filling the cache, round {round}"), span.open(shape, &pass));
        let more = SessionShape { max_tokens: 1, ..shape };
        let full =
            |error: &SpanError| matches!(error, SpanError::CacheFull { needed, available } if needed > available);
        expect_error("a session beyond the cache", span.open(more, &pass), full);
        drop(session);
        let both = SessionShape { sequences: 2, max_tokens: tokens, ..shape };
        expect_error("two sequences, each of the size of the cache", span.open(both, &pass), full);
    }
}
