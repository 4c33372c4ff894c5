//! The same bits whatever the number of threads, and however a prompt is cut, also across the pieces of attention. The
//! contract suite holds the rest (batches, sessions, rewinds) on the same models.

use bouquet_kernels::ops::attention::KEY_PIECE;
use bouquet_kernels::{Cpu, Isa, Matrix};
use bouquet_model::Model;
use bouquet_span::{Limits, Pass, Returned, SessionShape, Step};

use crate::fixtures::{ARCHITECTURES, bits, open};

/// Ids without meaning, all over the vocabulary.
fn some_ids(model: &Model, count: usize) -> Vec<u32> {
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
        let hidden = model.embedding.embed(&model.cpu, &[&ids[piece[0]..piece[1]]]).unwrap();
        let step = Step { session: &mut session, hidden, returned: Returned::All, limits: Limits::default() };
        let hidden = model.blocks.step(&mut [step]).remove(0).unwrap();
        logits.push_rows(model.head.logits(&model.cpu, hidden.values().view()).view());
    }
    logits
}

#[test]
fn threads_do_not_change_a_bit() {
    for name in ARCHITECTURES {
        let model = open(name, 1);
        let ids = some_ids(&model, 37);
        let expected = bits(&logits_of_one_pass(&model, &ids));
        for threads in [2, 3] {
            assert_eq!(bits(&logits_of_one_pass(&open(name, threads), &ids)), expected, "{name}, {threads} threads");
        }
    }
}

#[test]
fn instruction_sets_do_not_change_a_bit() {
    for name in ARCHITECTURES {
        let mut model = open(name, 2);
        let ids = some_ids(&model, 37);
        let expected = bits(&logits_of_one_pass(&model, &ids));
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon] {
            let Some(cpu) = Cpu::with_isa(isa, 2) else { continue };
            model = bouquet_model::Model::open(&model.folder, cpu.into(), crate::fixtures::CACHE_BYTES).unwrap();
            assert_eq!(bits(&logits_of_one_pass(&model, &ids)), expected, "{name}, {isa:?}");
        }
    }
}

#[test]
fn cuts_of_a_prompt_do_not_change_a_bit() {
    for name in ARCHITECTURES {
        let model = open(name, 2);
        let ids = some_ids(&model, KEY_PIECE + 44);
        let end = ids.len();
        let expected = bits(&logits_of_one_pass(&model, &ids));
        let one_by_one: Vec<usize> = (0..=end).collect();
        let border = KEY_PIECE;
        for cuts in [&[0, end][..], &[0, 1, 17, 18, 200, end], &[0, border, end], &[0, border - 1, border + 1, end]] {
            assert_eq!(bits(&logits_of_cuts(&model, &ids, cuts)), expected, "{name}, cut at {cuts:?}");
        }
        assert_eq!(bits(&logits_of_cuts(&model, &ids, &one_by_one)), expected, "{name}, token by token");
    }
}
