//! Forward against transformers.

use bouquet_kernels::Matrix;
use bouquet_kernels::ops::cross_entropy::cross_entropy;
use bouquet_model::Model;
use bouquet_span::{HiddenStates, Limits, Pass, Returned, SessionShape, Span, Step};

use crate::fixtures::{Golden, MODELS, distance, open, slices};

/// Logits and hidden states. transformers in f32 is itself up to 1.1e-5 from f64 on these models (each manifest says
/// how far), and two orders of summation differ by as much; an error in any term is larger by orders of magnitude.
/// The bound is the same for weights stored in f16 and bf16: they are widened exactly and computed in f32, and the
/// recorded outputs are of the rounded weights.
const TOLERANCE: f32 = 1e-4;

/// Mean negative log-likelihoods, which average the above.
const LOSS_TOLERANCE: f64 = 1e-5;

/// Hidden states of one pass: the input of the first block, the output of each, the last after the final norm.
fn hidden_states(model: &Model, sequences: &[&[u32]]) -> Vec<Matrix> {
    let mut hidden = model.embedding.embed(&model.cpu, sequences).unwrap();
    let mut states = vec![hidden.values().clone()];
    for block in &model.each_block {
        hidden = block.forward(hidden, &Pass::default()).unwrap().0;
        states.push(hidden.values().clone());
    }
    let last = states.pop().unwrap();
    states.push(model.head.normalize(&model.cpu, last.view()));
    states
}

fn logits(model: &Model, sequences: &[&[u32]]) -> Matrix {
    let hidden = model.embedding.embed(&model.cpu, sequences).unwrap();
    let (hidden, _) = model.blocks.forward(hidden, &Pass::default()).unwrap();
    model.head.logits(&model.cpu, hidden.values().view())
}

/// Mean loss of the next tokens, over all sequences.
fn mean_loss(model: &Model, sequences: &[Vec<u32>]) -> f64 {
    let mut losses = Vec::new();
    let logits = logits(model, &slices(sequences));
    let mut row = 0;
    for ids in sequences {
        let scored = logits.slice(row..row + ids.len() - 1);
        losses.extend(cross_entropy(&model.cpu, scored, &ids[1..]));
        row += ids.len();
    }
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn hidden_states_and_logits_are_those_of_transformers() {
    for (name, golden) in MODELS {
        let (model, golden) = (open(name, 2), Golden::load(golden));
        let ids = golden.ids("single.input_ids");
        for (layer, hidden) in hidden_states(&model, &slices(&ids)).iter().enumerate() {
            let distance = distance(hidden, golden.floats(&format!("single.hidden.{layer}")));
            assert!(distance < TOLERANCE, "{name}: hidden states {layer} are {distance} off");
        }
        let distance = distance(&logits(&model, &slices(&ids)), golden.floats("single.logits"));
        assert!(distance < TOLERANCE, "{name}: logits are {distance} off");
    }
}

#[test]
fn a_packed_batch_gives_what_a_padded_one_gives() {
    for (name, golden) in MODELS {
        let (model, golden) = (open(name, 2), Golden::load(golden));
        let (sequences, rows) = golden.unpadded("right.input_ids", "right.attention_mask");
        if golden.has("right.logits") {
            let logits = logits(&model, &slices(&sequences));
            let padded = golden.floats("right.logits");
            let mut expected = Matrix::zeros(0, padded.cols());
            rows.iter().for_each(|&row| expected.push_rows(padded.slice(row..row + 1)));
            let distance = distance(&logits, &expected);
            assert!(distance < TOLERANCE, "{name}: logits are {distance} off");
        }
        let (loss, expected) = (mean_loss(&model, &sequences), golden.manifest["right"]["loss_pad_ignored"].as_f64());
        assert!((loss - expected.unwrap()).abs() < LOSS_TOLERANCE, "{name}: a loss of {loss}, not {expected:?}");
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for (name, golden) in MODELS {
        let (model, golden) = (open(name, 2), Golden::load(golden));
        let loss = mean_loss(&model, &golden.ids("single.input_ids"));
        let expected = golden.manifest["loss"]["mean_nll_f64"].as_f64().unwrap();
        assert!((loss - expected).abs() < LOSS_TOLERANCE, "{name}: a loss of {loss}, not {expected}");
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for (name, golden) in MODELS {
        let (model, golden) = (open(name, 2), Golden::load(golden));
        if !golden.has("greedy.single") {
            // Of positions that depend on the length: what was cached before it grew would, too.
            assert_eq!(name, "llama-dynamic-tiny");
            continue;
        }
        let prompt = golden.ids("single.input_ids").remove(0);
        let expected = golden.ids("greedy.single").remove(0);
        let shape = SessionShape { sequences: 1, max_tokens: expected.len(), max_rewind: 0 };
        let mut session = model.blocks.open(shape, &Pass::default()).unwrap();
        let (mut ids, mut next) = (prompt.clone(), prompt);
        while ids.len() < expected.len() {
            let hidden = model.embedding.embed_at(&model.cpu, session.positions(), &[&next]).unwrap();
            let last = step(model.blocks.as_ref(), &mut session, hidden);
            let logits = model.head.logits(&model.cpu, last.values().view());
            next = vec![best(logits.data())];
            ids.extend(&next);
        }
        assert_eq!(ids, expected, "{name}");
    }
}

fn step(span: &dyn Span, session: &mut bouquet_span::Session, hidden: HiddenStates) -> HiddenStates {
    let step = Step { session, hidden, returned: Returned::Last, limits: Limits::default() };
    span.step(&mut [step]).remove(0).unwrap()
}

/// The highest logit; the lower index of equals.
fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}
