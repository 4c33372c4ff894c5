//! Whole sequences: the same bits however blocks and batches are cut.

use std::sync::Arc;
use std::thread;

use super::Subject;
use super::inputs::{assert_same, expect, pack, sequence, step};
use crate::{Adapter, Dropout, HiddenStates, LinearId, LowRank, Pass, Returned, Site, Span};

/// Spans end to end give the bits of one span of all their blocks, by hand and through a [`Chain`](crate::Chain).
pub fn halves_compose_to_the_whole(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("halves"));
    for (name, pass) in subject.passes() {
        let (whole, _) = expect("a forward of the whole", subject.whole.forward(input.clone(), &pass));
        assert_eq!(whole.lengths(), input.lengths(), "{name}: lengths of the output");
        let by_hand = subject.halves.iter().fold(input.clone(), |hidden, half| {
            let (output, _) = expect("a forward of a half", half.forward(hidden, &pass));
            output
        });
        assert_same(&format!("{name}, halves by hand"), &by_hand, &whole);
        let (chained, _) = expect("a forward of the chain", subject.chain().forward(input.clone(), &pass));
        assert_same(&format!("{name}, halves in a chain"), &chained, &whole);
    }
}

/// A sequence gives the same bits alone, and at any place of any batch.
pub fn a_sequence_is_the_same_in_any_batch(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("batch"));
    for (name, pass) in subject.passes() {
        let forward = |hidden| expect("a forward", subject.whole.forward(hidden, &pass)).0;
        let together = forward(input.clone());
        let sequences = input.sequences();
        let alone: Vec<HiddenStates> = (0..sequences).map(|index| forward(sequence(&input, index))).collect();
        assert_same(&format!("{name}, each sequence alone"), &pack(&alone, input.hidden_size()), &together);
        let reversed: Vec<HiddenStates> = (0..sequences).rev().map(|index| sequence(&input, index)).collect();
        let reversed = forward(pack(&reversed, input.hidden_size()));
        for index in 0..sequences {
            let what = format!("{name}, sequence {index} in a batch from back to front");
            assert_same(&what, &sequence(&reversed, sequences - 1 - index), &sequence(&together, index));
        }
    }
}

/// Sequences without tokens, and batches without sequences, are nothing special.
pub fn empty_batches_pass_through(subject: &Subject<'_>) {
    let mut random = subject.random("empty");
    for lengths in [vec![], vec![0], vec![0, 0, 0]] {
        let input = random.hidden(&lengths, subject.hidden_size());
        let (output, _) = expect("a forward of nothing", subject.whole.forward(input.clone(), &subject.rich()));
        assert_same("a forward of nothing", &output, &input);
        let mut session = subject.open(subject.whole.as_ref(), lengths.len(), 0, &subject.rich());
        let output = step(subject.whole.as_ref(), &mut session, input.clone(), Returned::All);
        assert_same("a step of nothing", &expect("a step of nothing", output), &input);
    }
    assert!(subject.whole.step(&mut []).is_empty(), "no steps have no results");
}

/// Forwards and steps from several threads at once give the bits of one after another.
pub fn calls_from_several_threads_agree(subject: &Subject<'_>) {
    let input = subject.batch(&mut subject.random("threads"));
    let (pass, lengths) = (subject.rich(), input.lengths());
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (output, _) = expect("a forward in a thread", subject.whole.forward(input.clone(), &pass));
                assert_same("a forward in a thread", &output, &expected);
                let mut session = subject.open(subject.whole.as_ref(), lengths.len(), 0, &pass);
                let output = step(subject.whole.as_ref(), &mut session, input.clone(), Returned::All);
                assert_same("a step in a thread", &expect("a step in a thread", output), &expected);
            });
        }
    });
}

/// Adapters and prompts of blocks outside the range change nothing, and need not even fit: a chain hands the same pass
/// to all its spans.
pub fn other_blocks_are_none_of_its_business(subject: &Subject<'_>) {
    let mut random = subject.random("other blocks");
    let input = subject.batch(&mut random);
    let (mut pass, block) = (subject.rich(), subject.whole.range().end + 2);
    let (expected, _) = expect("a forward", subject.whole.forward(input.clone(), &pass));
    let misfit = LowRank { a: random.matrix(1, 1), b: random.matrix(2, 3), scale: 1.0 };
    let mut adapter = subject.adapter.as_ref().clone();
    adapter.pairs.insert(LinearId::new(block, Site::ExpertUp(7)), misfit);
    let mut prompts = subject.prompts.as_ref().clone();
    prompts.blocks.insert(block, random.matrix(2, subject.hidden_size() + 1));
    (pass.adapter, pass.prompts) = (Some(Arc::new(adapter)), Some(Arc::new(prompts)));
    let what = "with an adapter and prompts for other blocks";
    let (output, _) = expect(what, subject.whole.forward(input, &pass));
    assert_same(what, &output, &expected);
    subject.open(subject.whole.as_ref(), 1, 0, &pass);
}

/// Dropout needs both a key and a rate, and then depends on every part of the key: it repeats itself for the same one,
/// and a sequence draws the same as the same logical sequence of another pass.
pub fn dropout_is_drawn_by_its_key(subject: &Subject<'_>) {
    // Two times the same sequence: what tells them apart is their place in the logical batch.
    let one = subject.random("dropout").hidden(&[4], subject.hidden_size());
    let input = pack([&one, &one], subject.hidden_size());
    let key = Dropout { seed: 5, step: 6, view: 7, first_sequence: 8 };
    for (name, span) in subject.spans() {
        let forward = |rate: f32, dropout: Option<Dropout>| {
            let adapter = Some(Arc::new(Adapter { dropout: rate, ..subject.adapter.as_ref().clone() }));
            expect("a forward", span.forward(input.clone(), &Pass { adapter, dropout, ..subject.rich() })).0
        };
        let (without, drawn) = (forward(0.0, None), forward(0.5, Some(key)));
        assert_same(&format!("{name}: a rate without a key"), &forward(0.5, None), &without);
        assert_same(&format!("{name}: a key without a rate"), &forward(0.0, Some(key)), &without);
        assert_same(&format!("{name}: the same key"), &forward(0.5, Some(key)), &drawn);
        assert_ne!(drawn, without, "{name}: something is dropped");
        assert_ne!(sequence(&drawn, 0), sequence(&drawn, 1), "{name}: each sequence draws for itself");
        let next = forward(0.5, Some(Dropout { first_sequence: 9, ..key }));
        let what = format!("{name}: the same logical sequence, in a pass that begins there");
        assert_same(&what, &sequence(&next, 0), &sequence(&drawn, 1));
        for other in [Dropout { seed: 6, ..key }, Dropout { step: 7, ..key }, Dropout { view: 8, ..key }] {
            assert_ne!(forward(0.5, Some(other)), drawn, "{name}: {other:?} draws as {key:?} does");
        }
    }
}
