//! What is not finite is found, named, and never passed on.

use std::sync::Arc;

use super::Subject;
use super::inputs::{expect, expect_error, not_finite, step};
use crate::{Gradient, HiddenStates, Keep, Pass, Returned, SpanError};

/// NaN and infinities are never passed on: the error names a block of the span and the first token touched, whatever
/// the rounding.
pub fn what_is_not_finite_is_found(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("not finite"));
    for (pass_name, pass) in subject.passes() {
        for (span_name, span) in subject.spans() {
            for token in [0, input.tokens() / 2, input.tokens() - 1] {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut hidden = input.clone();
                    hidden.values_mut().row_mut(token)[0] = value;
                    let what = format!("{span_name}, {pass_name}: {value} in token {token}");
                    let right = |error: &SpanError| match error {
                        SpanError::NotFinite { block, .. } | SpanError::InputNotFinite { block, .. } => {
                            span.range().contains(block) && not_finite(error, token)
                        }
                        _ => false,
                    };
                    expect_error(&what, span.forward(hidden, &pass), right);
                }
            }
        }
    }
}

/// A block whose numbers overflow, though those that went in were finite, is named, by forwards and by steps, and the
/// session stays where it was.
pub fn an_overflow_inside_a_block_is_found(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("overflow"));
    let linear = subject.adapted();
    let mut adapter = subject.adapter.as_ref().clone();
    let pair = adapter.pairs.get_mut(&linear).expect("an adapted linear");
    for matrix in [&mut pair.a, &mut pair.b] {
        matrix.data_mut().iter_mut().for_each(|value| *value *= 1e30);
    }
    let pass = Pass { adapter: Some(Arc::new(adapter)), ..subject.rich() };
    let right = |error: &SpanError| matches!(error, SpanError::NotFinite { block, .. } if *block == linear.block);
    for (name, span) in subject.spans() {
        expect_error(&format!("{name}: a forward that overflows"), span.forward(input.clone(), &pass), right);
        let mut session = subject.open(span.as_ref(), input.sequences(), 0, &pass);
        let result = step(span.as_ref(), &mut session, input.clone(), Returned::Last);
        expect_error(&format!("{name}: a step that overflows"), result, right);
        assert_eq!(session.positions(), vec![0; input.sequences()], "{name}: positions after it");
    }
}

/// A gradient that is not finite is refused as it comes in, and one that becomes so is found at the block that made it:
/// at the same one wherever the blocks are cut.
pub fn gradients_that_are_not_finite_are_found(subject: &Subject<'_>) {
    let mut random = subject.random("gradients not finite");
    let (input, grad) = (subject.batch(&mut random), subject.batch(&mut random));
    let last = subject.whole.range().end - 1;
    for keep in [Keep::Input, Keep::Activations { bytes: u64::MAX }] {
        for pass in [subject.plain(), subject.rich()].map(|pass| Pass { keep, ..pass }) {
            let mut huge = grad.clone();
            huge.values_mut().data_mut().fill(f32::MAX);
            let mut found = Vec::new();
            for (name, span) in subject.spans() {
                let backward = |grad: &HiddenStates| {
                    let (_, saved) = expect("a forward", span.forward(input.clone(), &pass));
                    span.backward(saved, grad.clone(), &pass)
                };
                for value in [f32::NAN, f32::NEG_INFINITY] {
                    let mut wrong = grad.clone();
                    wrong.values_mut().row_mut(2)[0] = value;
                    let handed_in = Gradient::Output { token: 2 };
                    let right = |error: &SpanError| matches!(error, SpanError::GradientNotFinite { block, gradient } if (*block, *gradient) == (last, handed_in));
                    expect_error(&format!("{name}: {value} in a gradient"), backward(&wrong), right);
                }
                let right = |error: &SpanError| match error {
                    SpanError::GradientNotFinite { block, gradient } => {
                        span.range().contains(block) && !matches!(gradient, Gradient::Output { .. })
                    }
                    _ => false,
                };
                let result = backward(&huge);
                found.push(result.as_ref().err().map(ToString::to_string));
                expect_error(&format!("{name}: the largest gradient there is"), result, right);
            }
            assert_eq!(found[0], found[1], "what the whole and the chain say of the largest gradient there is");
        }
    }
}
