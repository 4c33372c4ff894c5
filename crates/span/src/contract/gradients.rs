//! Backward: right, and the same bits whatever was kept and wherever blocks and batches were cut.

use std::sync::Arc;

use bouquet_kernels::Matrix;

use super::inputs::{assert_same, assert_same_gradients, expect, expect_error, pack, part};
use super::{Random, Subject};
use crate::{Adapter, Dropout, HiddenStates, Keep, Pass, PassGrad, Prompts, Span, SpanError};

/// Elements of each tensor whose derivative is taken one by one.
const SAMPLES: usize = 6;
/// Random directions, through all elements of a tensor at once, whose derivative is taken.
const DIRECTIONS: usize = 2;
/// Gradients below this are measured by it: differences of f32 have noise of their own.
const FLOOR: f32 = 0.01;

/// The gradients for the input, for `A` and `B` of the adapter and for prompts are those that central finite
/// differences find, without dropout and with it (it drops the same in every call).
pub fn backward_matches_finite_differences(subject: &Subject<'_>) {
    let mut random = subject.random("finite differences");
    let (input, output_grad) = (subject.batch(&mut random), subject.batch(&mut random));
    for (name, pass) in subject.training_passes().into_iter().filter(|(_, pass)| pass.rounding == Default::default()) {
        let loss = |hidden: HiddenStates, pass: &Pass| {
            let pass = Pass { keep: Keep::Nothing, ..pass.clone() };
            let (output, _) = expect("a forward", subject.whole.forward(hidden, &pass));
            let terms = output.values().data().iter().zip(output_grad.values().data());
            terms.map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum::<f64>()
        };
        let (input_grad, leaves) = gradients(subject.whole.as_ref(), &input, &output_grad, &pass);
        let mut check = |what: &str, values: &Matrix, grad: &Matrix, loss: &dyn Fn(Matrix) -> f64| {
            check_derivatives(subject, &format!("{name}, {what}"), values, grad, loss, &mut random);
        };
        check("the input", input.values(), input_grad.values(), &|values| {
            loss(HiddenStates::new(values, input.lengths().to_vec()).expect("the lengths of the batch"), &pass)
        });
        let blocks = subject.whole.range();
        let no_pairs = Arc::new(Adapter::default());
        let adapter = pass.adapter.as_ref().unwrap_or(&no_pairs);
        for (&linear, pair) in adapter.pairs.iter().filter(|(linear, _)| blocks.contains(&linear.block)) {
            let with = |change: &dyn Fn(&mut Adapter)| {
                let mut adapter = adapter.as_ref().clone();
                change(&mut adapter);
                loss(input.clone(), &Pass { adapter: Some(Arc::new(adapter)), ..pass.clone() })
            };
            let grad = |pick: fn(&crate::LowRankGrad) -> &Matrix| {
                sum(leaves.leaves.iter().map(|leaf| pick(leaf.adapter.get(&linear).expect("a gradient of each pair"))))
            };
            check(&format!("A of {linear}"), &pair.a, &grad(|pair| &pair.a), &|values| {
                with(&|adapter| adapter.pairs.get_mut(&linear).expect("the pair").a = values.clone())
            });
            check(&format!("B of {linear}"), &pair.b, &grad(|pair| &pair.b), &|values| {
                with(&|adapter| adapter.pairs.get_mut(&linear).expect("the pair").b = values.clone())
            });
        }
        let no_prompts = Arc::new(Prompts::default());
        let prompts = pass.prompts.as_ref().unwrap_or(&no_prompts);
        for (block, values) in prompts.blocks.range(blocks) {
            let grad = sum(leaves.leaves.iter().map(|leaf| &leaf.prompts[block]));
            check(&format!("prompts of block {block}"), values, &grad, &|values| {
                let mut prompts = prompts.as_ref().clone();
                prompts.blocks.insert(*block, values);
                loss(input.clone(), &Pass { prompts: Some(Arc::new(prompts)), ..pass.clone() })
            });
        }
    }
}

/// Each [`Keep`] gives the same output, and the same gradients bit for bit, also when other forwards come between; an
/// equal call repeats its bits.
pub fn whatever_was_kept_gives_the_same_gradients(subject: &Subject<'_>) {
    let mut random = subject.random("keep");
    let (input, output_grad) = (subject.batch(&mut random), subject.batch(&mut random));
    for (pass_name, pass) in subject.training_passes() {
        let (expected_output, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
        let (expected, expected_leaves) = gradients(subject.whole.as_ref(), &input, &output_grad, &pass);
        for (span_name, span) in subject.spans() {
            let some = activation_bytes(span.as_ref(), &input, &pass) / 2;
            let keeps = [Keep::Input, Keep::BlockInputs, activations(0), activations(some), activations(u64::MAX)];
            // All forwards before all backwards: what is saved stands on its own.
            let saved = keeps.map(|keep| {
                let (output, saved) = expect("a forward", span.forward(input.clone(), &Pass { keep, ..pass.clone() }));
                assert_same(&format!("{span_name} keeping {keep:?}, {pass_name}: output"), &output, &expected_output);
                saved
            });
            for (keep, saved) in keeps.into_iter().zip(saved) {
                let what = format!("{span_name} keeping {keep:?}, {pass_name}");
                let backward = span.backward(saved, output_grad.clone(), &Pass { keep, ..pass.clone() });
                let (input_grad, leaves) = expect(&what, backward);
                assert_same(&what, &input_grad, &expected);
                assert_same_gradients(&what, &leaves, &expected_leaves);
            }
        }
    }
}

/// `Keep::Activations { bytes }` holds no more than all block inputs and those bytes; keeping less holds no more.
pub fn what_is_kept_stays_in_its_budget(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("budget"));
    let pass = subject.rich();
    for (name, span) in subject.spans() {
        let block_inputs = kept_bytes(span.as_ref(), &input, &pass, Keep::BlockInputs);
        assert_eq!(kept_bytes(span.as_ref(), &input, &pass, Keep::Nothing), 0, "{name}: bytes of nothing kept");
        assert!(kept_bytes(span.as_ref(), &input, &pass, Keep::Input) <= block_inputs, "{name}: bytes of the input");
        let most = activation_bytes(span.as_ref(), &input, &pass);
        for bytes in [0, 1, most / 3, most / 2, most, u64::MAX] {
            let kept = kept_bytes(span.as_ref(), &input, &pass, activations(bytes));
            let limit = block_inputs.saturating_add(bytes);
            assert!(kept <= limit, "{name}: {kept} bytes are kept where {limit} are allowed");
        }
    }
}

/// A chain gives the gradients of the whole bit for bit, whatever either has kept.
pub fn the_gradients_of_a_chain_equal_those_of_the_whole(subject: &Subject<'_>) {
    let mut random = subject.random("chain");
    let (input, output_grad) = (subject.batch(&mut random), subject.batch(&mut random));
    let chain = subject.chain();
    for (name, pass) in subject.training_passes() {
        for keep in [Keep::Input, activations(u64::MAX)] {
            let pass = Pass { keep, ..pass.clone() };
            let (expected, expected_leaves) = gradients(subject.whole.as_ref(), &input, &output_grad, &pass);
            let (input_grad, leaves) = gradients(&chain, &input, &output_grad, &pass);
            assert_same(&format!("{name} keeping {keep:?}: the input"), &input_grad, &expected);
            assert_same_gradients(&format!("{name} keeping {keep:?}"), &leaves, &expected_leaves);
        }
    }
}

/// There is one gradient for each leaf, with every adapted linear and every prompted block of the span in it (zeros
/// where no token reached them); passes over parts of the batch, cut between leaves, give the same leaves bit for bit.
pub fn leaves_are_the_same_wherever_the_batch_is_cut(subject: &Subject<'_>) {
    let mut random = subject.random("leaves");
    let lengths: Vec<usize> = subject.lengths.iter().copied().cycle().take(7).collect();
    let input = random.hidden(&lengths, subject.hidden_size());
    let output_grad = random.hidden(&lengths, subject.hidden_size());
    for (name, pass) in subject.training_passes() {
        let (expected, expected_leaves) = gradients(subject.whole.as_ref(), &input, &output_grad, &pass);
        assert_eq!(expected_leaves.leaves.len(), 4, "{name}: leaves of 7 sequences, by 2");
        check_leaves(subject, name, &pass, &expected_leaves);
        for borders in [&[0, 2, 7][..], &[0, 4, 6, 7], &[0, 2, 4, 6, 7]] {
            let (mut input_grads, mut leaves) = (Vec::new(), PassGrad::default());
            for border in borders.windows(2) {
                let cut: Vec<usize> = (0..lengths.len())
                    .map(|index| if (border[0]..border[1]).contains(&index) { lengths[index] } else { 0 })
                    .collect();
                let piece = |hidden: &HiddenStates| {
                    let values = part(hidden, &vec![0; lengths.len()], &cut).into_values();
                    HiddenStates::new(values, lengths[border[0]..border[1]].to_vec()).expect("the lengths of a piece")
                };
                let first = |dropout: Dropout| dropout.first_sequence + border[0] as u64;
                let dropout = pass.dropout.map(|dropout| Dropout { first_sequence: first(dropout), ..dropout });
                let pass = Pass { dropout, ..pass.clone() };
                let (input_grad, more) = gradients(subject.whole.as_ref(), &piece(&input), &piece(&output_grad), &pass);
                input_grads.push(input_grad);
                leaves.leaves.extend(more.leaves);
            }
            let what = format!("{name}, cut at {borders:?}");
            assert_same(&format!("{what}: the input"), &pack(&input_grads, input.hidden_size()), &expected);
            assert_same_gradients(&what, &leaves, &expected_leaves);
        }
        // No sequences, no leaves.
        let nothing = random.hidden(&[], subject.hidden_size());
        let (_, leaves) = gradients(subject.whole.as_ref(), &nothing, &nothing, &pass);
        assert!(leaves.leaves.is_empty(), "{name}: leaves of no sequences");
    }
}

/// A backward of [`Keep::Nothing`] gives [`SpanError::NothingSaved`].
pub fn a_backward_of_nothing_kept_is_refused(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("nothing"));
    for (name, span) in subject.spans() {
        let (output, saved) = expect("a forward", span.forward(input.clone(), &subject.rich()));
        let what = format!("{name}: a backward of nothing");
        let refused = |error: &SpanError| matches!(error, SpanError::NothingSaved);
        expect_error(&what, span.backward(saved, output, &subject.rich()), refused);
    }
}

fn activations(bytes: u64) -> Keep {
    Keep::Activations { bytes }
}

/// A forward and its backward.
#[track_caller]
fn gradients(
    span: &dyn Span,
    input: &HiddenStates,
    output_grad: &HiddenStates,
    pass: &Pass,
) -> (HiddenStates, PassGrad) {
    let (_, saved) = expect("a forward", span.forward(input.clone(), pass));
    let (input_grad, leaves) = expect("a backward", span.backward(saved, output_grad.clone(), pass));
    assert_eq!(input_grad.lengths(), input.lengths(), "lengths of the gradient");
    (input_grad, leaves)
}

fn kept_bytes(span: &dyn Span, input: &HiddenStates, pass: &Pass, keep: Keep) -> u64 {
    expect("a forward", span.forward(input.clone(), &Pass { keep, ..pass.clone() })).1.bytes()
}

/// What all activations take beyond block inputs.
fn activation_bytes(span: &dyn Span, input: &HiddenStates, pass: &Pass) -> u64 {
    let all = kept_bytes(span, input, pass, activations(u64::MAX));
    all.saturating_sub(kept_bytes(span, input, pass, Keep::BlockInputs))
}

fn sum<'m>(matrices: impl Iterator<Item = &'m Matrix>) -> Matrix {
    let add = |mut sum: Matrix, more: Matrix| {
        sum.data_mut().iter_mut().zip(more.data()).for_each(|(sum, more)| *sum += more);
        sum
    };
    matrices.cloned().reduce(add).expect("at least one leaf")
}

fn check_leaves(subject: &Subject<'_>, name: &str, pass: &Pass, leaves: &PassGrad) {
    let blocks = subject.whole.range();
    let shape = |matrix: &Matrix| (matrix.rows(), matrix.cols());
    for (index, leaf) in leaves.leaves.iter().enumerate() {
        let pairs = pass.adapter.iter().flat_map(|adapter| &adapter.pairs);
        let pairs = pairs.filter(|(linear, _)| blocks.contains(&linear.block));
        let expected: Vec<_> = pairs.map(|(linear, pair)| (*linear, shape(&pair.a), shape(&pair.b))).collect();
        let found: Vec<_> =
            leaf.adapter.iter().map(|(linear, grad)| (*linear, shape(&grad.a), shape(&grad.b))).collect();
        assert_eq!(found, expected, "{name}: linears in leaf {index}, with the shapes of A and B");
        let prompts = pass.prompts.iter().flat_map(|prompts| prompts.blocks.range(blocks.clone()));
        let expected: Vec<_> = prompts.map(|(block, prompts)| (*block, shape(prompts))).collect();
        let found: Vec<_> = leaf.prompts.iter().map(|(block, grad)| (*block, shape(grad))).collect();
        assert_eq!(found, expected, "{name}: prompted blocks in leaf {index}, with their shapes");
    }
}

/// Compares the gradient at `values` with the slope of the loss, along single elements and along random directions.
fn check_derivatives(
    subject: &Subject<'_>,
    what: &str,
    values: &Matrix,
    grad: &Matrix,
    loss: &dyn Fn(Matrix) -> f64,
    random: &mut Random,
) {
    assert_eq!((grad.rows(), grad.cols()), (values.rows(), values.cols()), "{what}: shape of the gradient");
    let elements = values.data().len();
    let largest = grad.data().iter().fold(FLOOR, |largest, grad| largest.max(grad.abs()));
    let norm = grad.data().iter().map(|grad| grad * grad).sum::<f32>().sqrt().max(FLOOR);
    for sample in 0..SAMPLES + DIRECTIONS {
        let mut direction = vec![0.0; elements];
        let (name, scale) = if sample < SAMPLES {
            let place = random.below(elements);
            direction[place] = 1.0;
            (format!("row {}, channel {}", place / values.cols(), place % values.cols()), largest)
        } else {
            direction.fill_with(|| if random.below(2) == 0 { 1.0 } else { -1.0 });
            (format!("direction {}", sample - SAMPLES), norm)
        };
        let moved = |step: f32| {
            let mut moved = values.clone();
            moved.data_mut().iter_mut().zip(&direction).for_each(|(value, direction)| *value += step * direction);
            moved
        };
        let (ahead, behind) = (moved(subject.finite_difference_step), moved(-subject.finite_difference_step));
        // Steps as they came out after rounding.
        let expected: f64 = (0..elements)
            .map(|k| f64::from(grad.data()[k]) * (f64::from(ahead.data()[k]) - f64::from(behind.data()[k])))
            .sum();
        let difference = loss(ahead) - loss(behind);
        let width = 2.0 * f64::from(subject.finite_difference_step);
        let (slope, expected) = (difference / width, expected / width);
        let allowed = f64::from(subject.finite_difference_tolerance) * f64::from(scale);
        assert!(
            (slope - expected).abs() <= allowed,
            "{what}, {name}: the gradient says {expected}, finite differences {slope}, ± {allowed}"
        );
    }
}
