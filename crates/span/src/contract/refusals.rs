//! What is refused is refused politely, and disturbs nothing.

use std::sync::Arc;
use std::time::Instant;

use bouquet_kernels::Matrix;

use super::Subject;
use super::inputs::{assert_same, expect, expect_error, follow, not_finite, part, step};
use crate::{Adapter, Dropout, HiddenStates, Keep, Limits, Pass, Returned, Session, SessionShape, SpanError, Step};

/// Whether an error is the right one.
type Right = fn(&SpanError) -> bool;

/// One step of many that fails, whatever its reason, fails alone: the others give their bits, its session stays where
/// it was, can rewind as far as promised, and goes on with the bits that it would have had.
pub fn one_failing_step_disturbs_nothing(subject: &Subject<'_>) {
    let mut random = subject.random("failing step");
    let (input, pass, hidden_size) = (subject.even_batch(2, &mut random), subject.rich(), subject.hidden_size());
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    let (start, room) = (5, subject.max_tokens - 5);
    let good = part(&input, &[start; 2], &[2; 2]);
    let with_value = |row: usize, value: f32| {
        let mut hidden = good.clone();
        hidden.values_mut().row_mut(row)[hidden_size - 1] = value;
        hidden
    };
    let cancelled = Limits::default();
    cancelled.cancel.cancel();
    let late = Limits { deadline: Some(Instant::now()), ..Limits::default() };
    type Wrong<'a> = (&'a str, HiddenStates, Limits, Right);
    let wrong: Vec<Wrong<'_>> = vec![
        ("a token too many", random.hidden(&[room + 1, 1], hidden_size), Limits::default(), too_many),
        ("too many in the last sequence", random.hidden(&[0, room + 1], hidden_size), Limits::default(), too_many),
        ("another hidden_size", random.hidden(&[2, 2], hidden_size + 1), Limits::default(), shape),
        ("a sequence too many", random.hidden(&[2, 2, 1], hidden_size), Limits::default(), shape),
        ("a sequence too few", random.hidden(&[2], hidden_size), Limits::default(), shape),
        ("NaN", with_value(0, f32::NAN), Limits::default(), |error| not_finite(error, 0)),
        ("an infinity in the last token", with_value(3, f32::INFINITY), Limits::default(), |error| {
            not_finite(error, 3)
        }),
        ("a cancelled step", good.clone(), cancelled, |error| matches!(error, SpanError::Cancelled)),
        ("a late step", good.clone(), late, |error| matches!(error, SpanError::DeadlinePassed)),
    ];
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        // Each that fails stands between two that do not.
        let mut sessions: Vec<Session> = (0..2 * wrong.len() + 1).map(|_| subject.open(span, 2, 2, &pass)).collect();
        for session in &mut sessions {
            follow(name, span, session, &input, &expected, &[start; 2]);
        }
        let steps = sessions.iter_mut().enumerate().map(|(index, session)| {
            let (hidden, limits) = if index % 2 == 0 {
                (good.clone(), Limits::default())
            } else {
                (wrong[index / 2].1.clone(), wrong[index / 2].2.clone())
            };
            Step { session, hidden, returned: Returned::All, limits }
        });
        let results = span.step(&mut steps.collect::<Vec<_>>());
        assert_eq!(results.len(), sessions.len(), "{name}: a result for each step");
        for (index, (result, session)) in results.into_iter().zip(&mut sessions).enumerate() {
            if index % 2 == 0 {
                let what = format!("{name}: a good step among bad ones");
                assert_same(&what, &expect(&what, result), &part(&expected, &[start; 2], &[2; 2]));
                continue;
            }
            let (failure, _, _, right) = &wrong[index / 2];
            expect_error(&format!("{name}: {failure}"), result, right);
            assert_eq!(session.positions(), [start; 2], "{name}: positions after {failure}");
            let what = format!("{name}, after {failure}");
            // One sequence goes on, the other goes back as far as promised.
            expect(&format!("{what}: a rewind"), session.rewind(1, start - 2));
            follow(&what, span, session, &input, &expected, &[1, 5]);
            for sequence in 0..2 {
                expect(&format!("{what}: a rewind"), session.rewind(sequence, start - 2 * sequence));
            }
            follow(&what, span, session, &input, &expected, &[3, 5]);
        }
    }
}

/// Once cancelled or late, forward, backward and step say so.
pub fn limits_are_heard(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("limits"));
    let cancelled = Limits::default();
    cancelled.cancel.cancel();
    let late = Limits { deadline: Some(Instant::now()), ..Limits::default() };
    let cases: [(_, Right); 2] = [
        (cancelled, |error| matches!(error, SpanError::Cancelled)),
        (late, |error| matches!(error, SpanError::DeadlinePassed)),
    ];
    for (name, span) in subject.spans() {
        for (limits, right) in &cases {
            for keep in [Keep::Input, Keep::BlockInputs, Keep::Activations { bytes: u64::MAX }] {
                let pass = Pass { keep, ..subject.rich() };
                let over = Pass { limits: limits.clone(), ..pass.clone() };
                expect_error(&format!("{name}: a forward"), span.forward(input.clone(), &over), right);
                let (output, saved) = expect("a forward", span.forward(input.clone(), &pass));
                expect_error(&format!("{name}: a backward"), span.backward(saved, output, &over), right);
            }
            let mut session = subject.open(span.as_ref(), input.sequences(), 0, &subject.rich());
            let (hidden, returned, limits) = (input.clone(), Returned::All, limits.clone());
            let result = span.step(&mut [Step { session: &mut session, hidden, returned, limits }]).remove(0);
            expect_error(&format!("{name}: a step"), result, right);
        }
    }
}

/// A session takes exactly as many tokens as it reserved, a forward as many as its pass allows; one more is refused.
pub fn too_many_tokens_are_refused(subject: &Subject<'_>) {
    let (mut random, hidden_size) = (subject.random("too many"), subject.hidden_size());
    for (name, span) in subject.spans() {
        let span = span.as_ref();
        let input = random.hidden(&[subject.max_tokens, subject.max_tokens], hidden_size);
        let (expected, _) = expect("a forward of all tokens", span.forward(input.clone(), &subject.plain()));
        let mut session = subject.open(span, 2, 0, &subject.plain());
        follow(name, span, &mut session, &input, &expected, &[subject.max_tokens, subject.max_tokens - 2]);
        for lengths in [[1, 0], [1, 1], [0, 3]] {
            let result = step(span, &mut session, random.hidden(&lengths, hidden_size), Returned::All);
            expect_error(&format!("{name}: {lengths:?} tokens more"), result, too_many);
        }
        follow(name, span, &mut session, &input, &expected, &[0, 2]);
        let pass = Pass { reserved_tokens: Some(3), ..subject.plain() };
        expect("a forward of as many tokens as reserved", span.forward(random.hidden(&[3, 0, 2], hidden_size), &pass));
        let result = span.forward(random.hidden(&[3, 4], hidden_size), &pass);
        expect_error(&format!("{name}: a forward of 4 tokens where 3 are reserved"), result, too_many);
    }
}

/// No shape of a session is so large that it is more than refused: nothing overflows, nothing is allocated for it.
pub fn absurd_shapes_are_refused(subject: &Subject<'_>) {
    let (most, half) = (usize::MAX, usize::MAX / 2 + 1);
    for (name, span) in subject.spans() {
        for (sequences, max_tokens, max_rewind) in [
            (1, most, 0),
            (1, most, most),
            (most, most, most),
            (most, 1, 0),
            (most, 0, 0),
            (most, 1, most),
            (2, half, 0),
            (half, 2, 0),
            (4, half / 2, most),
            (1, 1 << 60, 0),
        ] {
            let shape = SessionShape { sequences, max_tokens, max_rewind };
            // Too much for the cache, or more than the model can be asked for.
            let right =
                |error: &SpanError| matches!(error, SpanError::CacheFull { .. } | SpanError::TooManyTokens { .. });
            let pass = Pass { reserved_tokens: None, ..subject.plain() };
            expect_error(&format!("{name}: {shape:?}"), span.open(shape, &pass), right);
        }
        subject.open(span.as_ref(), 1, 0, &subject.plain());
    }
}

/// A session is stepped only by the span that opened it, and what was saved goes back only to the span that saved it;
/// a stray session is unharmed.
pub fn what_belongs_to_another_span_is_refused(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("foreign"));
    let foreign = |error: &SpanError| matches!(error, SpanError::Foreign(_));
    let pass = Pass { keep: Keep::Input, ..subject.rich() };
    let (chain, again) = (Arc::new(subject.chain()), Arc::new(subject.chain()));
    let half = &subject.halves[0];
    let spans =
        [("the whole", subject.whole.clone()), ("a half", half.clone()), ("a chain", chain), ("its twin", again)];
    for (owner, home) in &spans {
        let (expected, _) = expect("a forward", home.forward(input.clone(), &pass));
        let mut session = subject.open(home.as_ref(), input.sequences(), 0, &pass);
        for (other, stranger) in spans.iter().filter(|(other, _)| other != owner) {
            let (output, saved) = expect("a forward", home.forward(input.clone(), &pass));
            let what = format!("what {owner} saved, given to {other},");
            expect_error(&what, stranger.backward(saved, output, &pass), foreign);
            let mut own = subject.open(stranger.as_ref(), input.sequences(), 0, &pass);
            let [hidden, same] = [input.clone(), input.clone()];
            let limits = Limits::default();
            let mut steps = [
                Step { session: &mut session, hidden, returned: Returned::All, limits: limits.clone() },
                Step { session: &mut own, hidden: same, returned: Returned::All, limits },
            ];
            let mut results = stranger.step(&mut steps).into_iter();
            let stray = results.next().expect("a result for each step");
            expect_error(&format!("a session of {owner}, stepped by {other},"), stray, foreign);
            let beside = results.next().expect("a result for each step");
            expect(&format!("{other}'s own session, beside one of {owner}"), beside);
            assert_eq!(session.positions(), vec![0; input.sequences()], "positions of a stray session");
        }
        let what = format!("a session of {owner} that had strayed");
        follow(&what, home.as_ref(), &mut session, &input, &expected, input.lengths());
    }
}

/// Hidden states, gradients, adapters and prompts that do not fit are refused by what takes them.
pub fn wrong_shapes_are_refused(subject: &Subject<'_>) {
    let (mut random, hidden_size) = (subject.random("shapes"), subject.hidden_size());
    let lengths = &subject.lengths[..];
    let input = random.hidden(lengths, hidden_size);
    let pass = Pass { keep: Keep::Input, ..subject.rich() };
    let blocks = subject.whole.range();
    let mut misfits = Vec::new();
    let linear = subject.adapted();
    type Change = fn(&Matrix, &Matrix) -> (Matrix, Matrix);
    let changes: [(_, Change); 3] = [
        ("inputs", |a, b| (Matrix::zeros(a.rows(), a.cols() + 1), b.clone())),
        ("outputs", |a, b| (a.clone(), Matrix::zeros(b.rows() + 1, b.cols()))),
        ("ranks", |a, b| (a.clone(), Matrix::zeros(b.rows(), b.cols() + 1))),
    ];
    for (name, change) in changes {
        let mut adapter = subject.adapter.as_ref().clone();
        let pair = adapter.pairs.get_mut(&linear).expect("an adapted linear");
        (pair.a, pair.b) = change(&pair.a, &pair.b);
        let pass = Pass { adapter: Some(Arc::new(adapter)), ..pass.clone() };
        let right: Right = |error| matches!(error, SpanError::Adapter { .. });
        misfits.push((format!("an adapter with other {name}"), pass, right));
    }
    let mut prompts = subject.prompts.as_ref().clone();
    let (_, prompt) = prompts.blocks.range_mut(blocks).next().expect("prompts of a block");
    *prompt = Matrix::zeros(prompt.rows(), hidden_size + 1);
    let wide = Pass { prompts: Some(Arc::new(prompts)), ..pass.clone() };
    misfits.push(("prompts of another width".to_owned(), wide, shape));

    for (name, span) in subject.spans() {
        let other = random.hidden(lengths, hidden_size + 1);
        expect_error(&format!("{name}: a forward of another width"), span.forward(other, &pass), shape);
        let fewer: Vec<usize> = lengths.iter().map(|length| length / 2).collect();
        let swapped: Vec<usize> = lengths.iter().rev().copied().collect();
        let wrong = [
            ("of another width", random.hidden(lengths, hidden_size + 1)),
            ("of fewer tokens", random.hidden(&fewer, hidden_size)),
            ("of other lengths", random.hidden(&swapped, hidden_size)),
            ("of no sequences", random.hidden(&[], hidden_size)),
        ];
        for (what, grad) in wrong {
            let (_, saved) = expect("a forward", span.forward(input.clone(), &pass));
            expect_error(&format!("{name}: a gradient {what}"), span.backward(saved, grad, &pass), shape);
        }
        for (what, pass, right) in &misfits {
            expect_error(&format!("{name}: a forward with {what}"), span.forward(input.clone(), pass), right);
            let shape = SessionShape { sequences: 1, max_tokens: subject.max_tokens, max_rewind: 0 };
            expect_error(&format!("{name}: a session with {what}"), span.open(shape, pass), right);
        }
    }
}

/// A rate of dropout that leaves nothing, or that is none, is refused wherever an adapter is handed in.
pub fn dropout_that_drops_everything_is_refused(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("dropout rate"));
    let right: Right = |error| matches!(error, SpanError::Adapter { .. });
    for (name, span) in subject.spans() {
        for dropout in [1.0, -0.1, f32::NAN, f32::INFINITY] {
            let adapter = Adapter { dropout, ..subject.adapter.as_ref().clone() };
            let kept = Pass { keep: Keep::Input, ..subject.rich() };
            let pass = Pass { adapter: Some(Arc::new(adapter)), ..kept.clone() };
            let what = format!("{name}: a dropout of {dropout}");
            expect_error(&format!("{what} in admit"), span.admit(input.lengths(), &pass), right);
            expect_error(&format!("{what} in forward"), span.forward(input.clone(), &pass), right);
            let (output, saved) = expect("a forward", span.forward(input.clone(), &kept));
            expect_error(&format!("{what} in backward"), span.backward(saved, output, &pass), right);
            let shape = SessionShape { sequences: 1, max_tokens: subject.max_tokens, max_rewind: 0 };
            expect_error(&format!("{what} in open"), span.open(shape, &pass), right);
        }
    }
}

/// Dropout numbers its sequences from a first one on; where the numbers would run out, the pass is refused.
pub fn sequences_beyond_counting_are_refused(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("sequence numbers"));
    let with = |first_sequence| {
        let dropout = Some(Dropout { seed: 1, step: 2, view: 3, first_sequence });
        let adapter = Adapter { dropout: 0.5, ..subject.adapter.as_ref().clone() };
        Pass { adapter: Some(Arc::new(adapter)), dropout, ..subject.rich() }
    };
    let right: Right = |error| matches!(error, SpanError::SequenceNumbers { .. });
    for (name, span) in subject.spans() {
        let last = u64::MAX - input.sequences() as u64;
        expect(&format!("{name}: the last numbers that there are"), span.forward(input.clone(), &with(last)));
        let what = format!("{name}: a number too many");
        expect_error(&what, span.forward(input.clone(), &with(last + 1)), right);
        let shape = SessionShape { sequences: 1, max_tokens: subject.max_tokens, max_rewind: 0 };
        expect_error(&what, span.open(shape, &with(u64::MAX)), right);
    }
}

/// [`Span::admit`](crate::Span::admit) says yes to what a forward does, and no, as a forward would, to what it is sure
/// not to; the most absurd lengths are answered without a panic.
pub fn what_is_admitted_is_taken_on(subject: &Subject<'_>) {
    let pass = subject.rich();
    for (name, span) in subject.spans() {
        expect(&format!("{name}: a batch"), span.admit(&subject.lengths, &pass));
        expect(&format!("{name}: nothing"), span.admit(&[], &pass));
        let what = format!("{name}: more tokens than are reserved");
        expect_error(&what, span.admit(&[1, subject.max_tokens + 1], &pass), too_many);
        let free = Pass { reserved_tokens: None, ..pass.clone() };
        let right: Right =
            |error| matches!(error, SpanError::PassTooLarge { needed, available, .. } if needed > available);
        for lengths in [vec![usize::MAX], vec![usize::MAX; 2], vec![usize::MAX / 2, 1, usize::MAX / 2 + 2]] {
            if let Err(error) = span.admit(&lengths, &free) {
                assert!(right(&error), "{name}: {lengths:?} were refused with another error: {error:?}");
            }
        }
    }
}

fn too_many(error: &SpanError) -> bool {
    matches!(error, SpanError::TooManyTokens { needed, limit } if needed > limit)
}

fn shape(error: &SpanError) -> bool {
    matches!(error, SpanError::Shape { expected, found, .. } if expected != found)
}
