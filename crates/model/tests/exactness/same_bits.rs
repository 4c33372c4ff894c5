//! The same bits whatever the number of threads, and however a prompt is cut, also across the pieces of attention. The
//! contract suite holds the rest (batches, sessions, rewinds) on the same models.

use std::sync::Arc;

use bouquet_kernels::ops::attention::{CacheEncoding, KEY_PIECE};
use bouquet_kernels::{Cpu, Isa, Matrix};
use bouquet_model::spec::LinearShape;
use bouquet_model::{Encoding, Model, OpenOptions};
use bouquet_span::contract::Random;
use bouquet_span::{Adapter, Keep, Limits, LinearId, Pass, Returned, SessionShape, Step};

use crate::fixtures::{ARCHITECTURES, CACHE_BYTES, bits, open};

/// Ids without meaning, all over the vocabulary; no more than the model has positions learned.
fn some_ids(model: &Model, count: usize) -> Vec<u32> {
    let count = if model.embedding.positions.is_some() { count.min(model.spec.max_positions.unwrap()) } else { count };
    (0..count).map(|place| ((place * place * 7 + place * 131 + 11) % model.spec.vocab_size) as u32).collect()
}

fn logits_of_one_pass(model: &Model, ids: &[u32]) -> Matrix {
    let hidden = model.embedding.embed(&model.cpu, &[ids]).unwrap();
    let (hidden, _) = model.blocks.forward(hidden, &Pass::default()).unwrap();
    model.head.logits(&model.cpu, hidden.values().view())
}

fn logits_of_cuts(model: &Model, ids: &[u32], cuts: &[usize]) -> Matrix {
    let shape = SessionShape { sequences: 1, max_tokens: ids.len(), max_rewind: 0 };
    let mut session = model.blocks.open(shape, &Pass::default()).unwrap();
    let mut logits = Matrix::zeros(0, model.spec.vocab_size);
    for piece in cuts.windows(2) {
        let hidden = model.embedding.embed_at(&model.cpu, &piece[..1], &[&ids[piece[0]..piece[1]]]).unwrap();
        let step = Step { session: &mut session, hidden, returned: Returned::All, limits: Limits::default() };
        let hidden = model.blocks.step(&mut [step]).remove(0).unwrap();
        logits.push_rows(model.head.logits(&model.cpu, hidden.values().view()).view());
    }
    logits
}

/// The model on each instruction set that this machine has.
fn on_every_isa(name: &str, threads: usize) -> impl Iterator<Item = (Isa, Model)> {
    opened_on_every_isa(name, threads, |_| ())
}

/// The same, opened in another way.
fn opened_on_every_isa(
    name: &str,
    threads: usize,
    change: impl Fn(&mut OpenOptions),
) -> impl Iterator<Item = (Isa, Model)> {
    let folder = open(name, 1).folder;
    Isa::ALL.into_iter().filter_map(move |isa| {
        let mut options = OpenOptions::new(Cpu::with_isa(isa, threads)?, CACHE_BYTES, Encoding::F32);
        change(&mut options);
        Some((isa, Model::open(&folder, &options).unwrap()))
    })
}

#[test]
fn no_encoding_changes_a_bit_with_instruction_sets_or_cuts() {
    for (name, encoding) in ARCHITECTURES.into_iter().flat_map(|name| {
        Encoding::ALL.into_iter().filter(|encoding| *encoding != Encoding::F32).map(move |encoding| (name, encoding))
    }) {
        let mut expected = None;
        for (isa, model) in opened_on_every_isa(name, 2, |options| options.encoding = encoding) {
            // As many tokens as are streamed, and more.
            let ids = some_ids(&model, 45);
            let found = bits(&logits_of_one_pass(&model, &ids));
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_eq!(&found, expected, "{name}, {encoding}, {isa:?}");
            for cuts in [&[0, 1, 2, 3, 45][..], &[0, 40, 45], &[0, 19, 20, 45]] {
                let found = bits(&logits_of_cuts(&model, &ids, cuts));
                assert_eq!(&found, expected, "{name}, {encoding}, {isa:?}, cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn keys_and_values_in_half_precision_change_little_and_the_same_everywhere() {
    for name in ARCHITECTURES {
        let mut expected = None;
        for (isa, model) in opened_on_every_isa(name, 2, |options| options.cache_encoding = CacheEncoding::F16) {
            let ids = some_ids(&model, KEY_PIECE + 9);
            let at_once = logits_of_cuts(&model, &ids, &[0, ids.len()]);
            let exact = logits_of_one_pass(&model, &ids);
            let error = at_once.data().iter().zip(exact.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let largest = exact.data().iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            // A router may choose another expert.
            let bound = if name.starts_with("mixtral") { f32::INFINITY } else { 0.01 * largest };
            assert!(error > 0.0 && error < bound, "{name}: {error} of {largest}");
            let expected = expected.get_or_insert_with(|| bits(&at_once));
            assert_eq!(&bits(&at_once), expected, "{name}, {isa:?}");
            let cut = logits_of_cuts(&model, &ids, &[0, 1, 100, ids.len() - 8, ids.len()]);
            assert_eq!(&bits(&cut), expected, "{name}, {isa:?}");
        }
    }
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    for name in ARCHITECTURES {
        let mut expected = None;
        for threads in [1, 2, 3] {
            for (isa, model) in on_every_isa(name, threads) {
                let found = bits(&logits_of_one_pass(&model, &some_ids(&model, 37)));
                // The first is scalar code on one thread.
                let expected = expected.get_or_insert_with(|| found.clone());
                assert_eq!(&found, expected, "{name}, {isa:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn gradients_are_the_same_on_every_instruction_set() {
    for name in ARCHITECTURES {
        let mut expected = None;
        for (isa, model) in on_every_isa(name, 2) {
            let (spec, mut random) = (&model.spec.block, Random::new(2));
            let linears = spec.linears();
            let mut pair = |linear: &LinearShape| random.low_rank(linear.inputs, linear.outputs, 2);
            let pairs = linears.iter().map(|linear| (LinearId::new(0, linear.site), pair(linear))).collect();
            let adapter = Some(Arc::new(Adapter { pairs, dropout: 0.0 }));
            let pass = Pass { adapter, keep: Keep::Input, ..Pass::default() };
            let (output, saved) = model.blocks.forward(random.hidden(&[30, 7], spec.hidden_size), &pass).unwrap();
            let found = model.blocks.backward(saved, output, &pass).unwrap();
            let (input_grad, leaves) = expected.get_or_insert_with(|| found.clone());
            assert_eq!(bits(found.0.values()), bits(input_grad.values()), "{name}, {isa:?}");
            for (linear, grad) in &found.1.leaves[0].adapter {
                let same = &leaves.leaves[0].adapter[linear];
                assert_eq!((bits(&grad.a), bits(&grad.b)), (bits(&same.a), bits(&same.b)), "{name}, {isa:?}, {linear}");
            }
        }
    }
}

#[test]
fn cuts_of_a_prompt_do_not_change_a_bit() {
    for name in ARCHITECTURES {
        for (isa, model) in on_every_isa(name, 2) {
            let ids = some_ids(&model, KEY_PIECE + 44);
            let end = ids.len();
            let expected = bits(&logits_of_one_pass(&model, &ids));
            let one_by_one: Vec<usize> = (0..=end).collect();
            let border = KEY_PIECE.min(end - 8);
            for cuts in [&[0, end][..], &[0, 1, 17, 18, 200, end], &[0, border, end], &[0, border - 1, border + 1, end]]
            {
                assert_eq!(bits(&logits_of_cuts(&model, &ids, cuts)), expected, "{name}, {isa:?}, cut at {cuts:?}");
            }
            let found = bits(&logits_of_cuts(&model, &ids, &one_by_one));
            assert_eq!(found, expected, "{name}, {isa:?}, token by token");
        }
    }
}
