//! Gradients of low-rank adapters against PEFT: for both objectives and two families, through one span and through a
//! chain, with everything kept and with the input alone; for every family, of all its linears.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use bouquet_kernels::ops::cross_entropy::{cross_entropy, cross_entropy_backward};
use bouquet_kernels::{Matrix, product};
use bouquet_model::adapter::Learned;
use bouquet_model::{Encoding, Model};
use bouquet_span::{
    Adapter, Chain, HiddenStates, Keep, LinearId, LowRank, LowRankGrad, Pass, PassGrad, Saved, Site, Span,
};
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::fixtures::{Golden, bits, distance, open, open_in, repository, slices};

/// Norm of the difference over norm of the gradient, per tensor. PEFT in f32 is itself about 1e-6 from f64.
const RELATIVE_TOLERANCE: f64 = 1e-4;

const MODELS: [(&str, &[Site]); 2] = [("bloom-tiny", &[Site::Qkv]), ("llama-tiny", &[Site::Q, Site::V])];

/// A model of each family, and of each way in which one is wired, that the goldens of `families` have an adapter for.
const ADAPTED: [&str; 12] = [
    "bloom-tiny-h6-postres",
    "falcon-tiny",
    "falcon-tiny-newarch",
    "falcon-alibi-tiny",
    "llama-tiny-tied",
    "llama-yarn-tiny",
    "mistral-tiny",
    "mixtral-tiny",
    "opt-tiny",
    "opt-tiny-postln",
    "qwen2-tiny",
    "qwen3-tiny",
];

/// Names of the pairs of an adapter in the goldens: `lora.<objective>.<stage>.<prefix><linear>.lora_A`.
fn name(model: &Model, objective: &str, stage: &str, id: LinearId, matrix: &str) -> String {
    let names = &model.spec.names;
    format!("lora.{objective}.{stage}.{}{}.lora_{matrix}", names.prefix, names.linear(id).unwrap())
}

fn linears(model: &Model, sites: &[Site]) -> Vec<LinearId> {
    (0..model.spec.num_blocks).flat_map(|block| sites.iter().map(move |&site| LinearId::new(block, site))).collect()
}

/// The adapter as PEFT made it before its first step: rank 4, alpha 8.
fn initial_adapter(model: &Model, golden: &Golden, objective: &str, sites: &[Site]) -> Adapter {
    let pair = |id: LinearId| {
        let matrix = |which| golden.floats(&name(model, objective, "init", id, which)).clone();
        (id, LowRank { a: matrix("A"), b: matrix("B"), scale: 8.0 / 4.0 })
    };
    Adapter { pairs: linears(model, sites).into_iter().map(pair).collect(), dropout: 0.0 }
}

/// The spans to run through: all blocks at once, and a chain of single blocks.
fn spans(model: &Model) -> [Arc<dyn Span>; 2] {
    [model.blocks.clone(), Arc::new(Chain::new(model.each_block.clone()).unwrap())]
}

const KEEPS: [Keep; 3] = [Keep::Input, Keep::BlockInputs, Keep::Activations { bytes: u64::MAX }];

/// Runs `objective` through every span and every way of keeping, checks that all give the same bits, and compares
/// them with PEFT's.
fn check(objective: &str, run: impl Fn(&Model, &Golden, &dyn Span, &Pass) -> (f64, PassGrad)) {
    for (model_name, sites) in MODELS {
        let (model, golden) = (open(model_name, 2), Golden::load(&format!("lora/{model_name}")));
        let adapter = Arc::new(initial_adapter(&model, &golden, objective, sites));
        let mut first: Option<(f64, PassGrad)> = None;
        for span in spans(&model) {
            for keep in KEEPS {
                let pass = Pass { adapter: Some(adapter.clone()), keep, ..Pass::default() };
                let result = run(&model, &golden, span.as_ref(), &pass);
                let expected = first.get_or_insert_with(|| result.clone());
                assert_eq!(expected.0.to_bits(), result.0.to_bits(), "{model_name} {objective} {keep:?}");
                for (id, gradient) in &result.1.leaves[0].adapter {
                    let same = &expected.1.leaves[0].adapter[id];
                    assert_eq!(bits(&gradient.a), bits(&same.a), "{model_name} {objective} {keep:?} {id}");
                    assert_eq!(bits(&gradient.b), bits(&same.b), "{model_name} {objective} {keep:?} {id}");
                }
            }
        }
        let (loss, gradient) = first.unwrap();
        let expected = golden.manifest[format!("{objective}_losses")][0].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{model_name} {objective}: a loss of {loss}, not {expected}");
        for id in linears(&model, sites) {
            let found = &gradient.leaves[0].adapter[&id];
            for (which, found) in [("A", &found.a), ("B", &found.b)] {
                let expected = golden.floats(&name(&model, objective, "grad", id, which));
                let error = relative_error(found, expected);
                assert!(error < RELATIVE_TOLERANCE, "{model_name} {objective} {id} {which}: {error} off");
            }
        }
    }
}

fn relative_error(found: &Matrix, expected: &Matrix) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let pairs = found.data().iter().zip(expected.data());
    let difference = norm(&mut pairs.map(|(&found, &expected)| f64::from(found) - f64::from(expected)));
    difference / norm(&mut expected.data().iter().map(|&value| f64::from(value))).max(f64::MIN_POSITIVE)
}

#[test]
fn causal_gradients_are_those_of_peft() {
    check("clm", |model, golden, span, pass| {
        let (sequences, _) = golden.unpadded("clm.input_ids", "clm.attention_mask");
        let causal = causal(model, &sequences, span, pass);
        (causal.loss, causal.gradient)
    });
}

/// What a pass of causal language modelling gives.
struct Causal {
    logits: Matrix,
    /// Mean over all tokens that are predicted.
    loss: f64,
    gradient: PassGrad,
}

fn causal(model: &Model, sequences: &[Vec<u32>], span: &dyn Span, pass: &Pass) -> Causal {
    let hidden = model.embedding.embed(&model.cpu, &slices(sequences)).unwrap();
    let (hidden, saved) = span.forward(hidden, pass).unwrap();
    let normalized = model.head.normalize(&model.cpu, hidden.values().view());
    let logits = model.head.project(&model.cpu, normalized.view());

    // The last token of a sequence predicts nothing: its target is any, its weight 0.
    let count = sequences.iter().map(|ids| ids.len() - 1).sum::<usize>() as f32;
    let target = |ids: &Vec<u32>| ids[1..].iter().copied().chain([0]).collect::<Vec<_>>();
    let weight = |ids: &Vec<u32>| std::iter::repeat_n(1.0 / count, ids.len() - 1).chain([0.0]).collect::<Vec<_>>();
    let targets: Vec<u32> = sequences.iter().flat_map(target).collect();
    let weights: Vec<f32> = sequences.iter().flat_map(weight).collect();
    let losses = cross_entropy(&model.cpu, logits.view(), &targets);
    let loss = losses.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0).map(|(loss, _)| loss).sum::<f64>();

    let mut d_logits = Matrix::zeros(logits.rows(), logits.cols());
    cross_entropy_backward(&model.cpu, logits.view(), &targets, &weights, d_logits.view_mut());
    let d_normalized = model.head.project_backward(&model.cpu, d_logits.view());
    let d_hidden = model.head.normalize_backward(&model.cpu, hidden.values().view(), d_normalized.view());
    let d_hidden = HiddenStates::new(d_hidden, hidden.lengths().to_vec()).unwrap();
    let (_, gradient) = span.backward(saved, d_hidden, pass).unwrap();
    Causal { logits, loss: loss / f64::from(count), gradient }
}

/// A model of every family with an adapter on all linears that PEFT reaches: loss, logits and gradients, and how the
/// tensors of an adapter are called.
#[test]
fn adapters_of_every_family_are_those_of_peft() {
    for model_name in ADAPTED {
        let (model, golden) = (open(model_name, 2), Golden::load(&format!("lora/{model_name}/golden")));
        let folder = repository().join("tests/fixtures/families/goldens/lora").join(model_name);
        let (learned, settings) = Learned::open(&folder, &model.spec).unwrap();
        let sequences = [golden.ids("input_ids.0"), golden.ids("input_ids.1")].concat();
        let pass = learned.with(Pass { keep: Keep::Input, ..Pass::default() });
        let Causal { logits, loss, mut gradient } = causal(&model, &sequences, model.blocks.as_ref(), &pass);
        let expected = golden.manifest["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{model_name}: a loss of {loss}, not {expected}");

        // Those of the last tokens of each sequence.
        let expected = golden.floats("logits");
        let (of_each, mut end, mut last) = (expected.rows() / sequences.len(), 0, Matrix::zeros(0, expected.cols()));
        for ids in &sequences {
            end += ids.len();
            last.push_rows(logits.slice(end - of_each..end));
        }
        let distance = distance(&last, expected);
        assert!(distance < 1e-4, "{model_name}: logits are {distance} off");

        // Gradients have the shapes of an adapter, and so its names once they are written.
        let pair = |grad: LowRankGrad| LowRank { a: grad.a, b: grad.b, scale: settings.scale() };
        let pairs = std::mem::take(&mut gradient.leaves[0].adapter).into_iter().map(|(id, grad)| (id, pair(grad)));
        let low_rank = Arc::new(Adapter { pairs: pairs.collect(), dropout: 0.0 });
        let written = TempDir::new().unwrap();
        Learned { low_rank, ..Learned::default() }.write(written.path(), &settings, &model.spec).unwrap();
        let bytes = fs::read(written.path().join("adapter_model.safetensors")).unwrap();
        let written = SafeTensors::deserialize(&bytes).unwrap();
        let names: BTreeSet<String> = written.names().iter().map(|name| format!("grad.{name}")).collect();
        assert_eq!(names, golden.names("grad."), "{model_name}");
        for (name, tensor) in written.tensors() {
            let expected = golden.floats(&format!("grad.{name}"));
            let values = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let error = relative_error(&Matrix::from_vec(expected.rows(), expected.cols(), values), expected);
            assert!(error < RELATIVE_TOLERANCE, "{model_name}: {name} is {error} off");
        }
    }
}

/// One tower's forward, kept for its backward.
struct Tower {
    hidden: HiddenStates,
    saved: Saved,
    /// Means over the tokens of each sequence, `[sequences, hidden_size]`.
    means: Matrix,
    /// The same divided by their norms.
    units: Matrix,
}

fn tower(model: &Model, golden: &Golden, side: &str, span: &dyn Span, pass: &Pass) -> Tower {
    let (ids, mask) = (format!("mnrl.{side}.input_ids"), format!("mnrl.{side}.attention_mask"));
    let (sequences, _) = golden.unpadded(&ids, &mask);
    let hidden = model.embedding.embed(&model.cpu, &slices(&sequences)).unwrap();
    let (hidden, saved) = span.forward(hidden, pass).unwrap();
    let normalized = model.head.normalize(&model.cpu, hidden.values().view());
    let mut means = Matrix::zeros(hidden.sequences(), hidden.hidden_size());
    for (sequence, rows) in hidden.rows().enumerate() {
        let count = rows.len() as f32;
        for row in rows {
            means.row_mut(sequence).iter_mut().zip(normalized.row(row)).for_each(|(sum, x)| *sum += x / count);
        }
    }
    let mut units = means.clone();
    for row in 0..units.rows() {
        let norm = norm(means.row(row));
        units.row_mut(row).iter_mut().for_each(|value| *value /= norm);
    }
    Tower { hidden, saved, means, units }
}

impl Tower {
    fn backward(self, model: &Model, d_units: &Matrix, span: &dyn Span, pass: &Pass) -> PassGrad {
        let mut d_normalized = Matrix::zeros(self.hidden.tokens(), self.hidden.hidden_size());
        for (sequence, rows) in self.hidden.rows().enumerate() {
            let (unit, gradient) = (self.units.row(sequence), d_units.row(sequence));
            let along: f32 = unit.iter().zip(gradient).map(|(unit, gradient)| unit * gradient).sum();
            let factor = 1.0 / (norm(self.means.row(sequence)) * rows.len() as f32);
            for row in rows {
                for (channel, value) in d_normalized.row_mut(row).iter_mut().enumerate() {
                    *value = (gradient[channel] - along * unit[channel]) * factor;
                }
            }
        }
        let values = self.hidden.values().view();
        let d_hidden = model.head.normalize_backward(&model.cpu, values, d_normalized.view());
        let d_hidden = HiddenStates::new(d_hidden, self.hidden.lengths().to_vec()).unwrap();
        span.backward(self.saved, d_hidden, pass).unwrap().1
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[test]
fn contrastive_gradients_are_those_of_peft() {
    const SCALE: f32 = 20.0;
    check("mnrl", |model, golden, span, pass| {
        let anchors = tower(model, golden, "anchor", span, pass);
        let positives = tower(model, golden, "positive", span, pass);
        let pairs = anchors.units.rows();
        let mut scores = Matrix::zeros(pairs, pairs);
        product::product(&model.cpu, anchors.units.view(), positives.units.view(), scores.view_mut());
        scores.data_mut().iter_mut().for_each(|score| *score *= SCALE);

        let targets: Vec<u32> = (0..pairs as u32).collect();
        let loss = cross_entropy(&model.cpu, scores.view(), &targets).iter().sum::<f64>() / pairs as f64;
        let mut d_scores = Matrix::zeros(pairs, pairs);
        let weights = vec![SCALE / pairs as f32; pairs];
        cross_entropy_backward(&model.cpu, scores.view(), &targets, &weights, d_scores.view_mut());
        let mut d_anchors = Matrix::zeros(pairs, anchors.units.cols());
        product::product_backward(&model.cpu, d_scores.view(), positives.units.view(), d_anchors.view_mut());
        let mut d_positives = Matrix::zeros(pairs, anchors.units.cols());
        product::weight_gradient(&model.cpu, d_scores.view(), anchors.units.view(), d_positives.view_mut());

        let mut gradient = anchors.backward(model, &d_anchors, span, pass);
        let more = positives.backward(model, &d_positives, span, pass);
        for (sum, more) in gradient.leaves.iter_mut().zip(more.leaves) {
            for (id, more) in more.adapter {
                let sum = sum.adapter.get_mut(&id).unwrap();
                sum.a.data_mut().iter_mut().zip(more.a.data()).for_each(|(sum, more)| *sum += more);
                sum.b.data_mut().iter_mut().zip(more.b.data()).for_each(|(sum, more)| *sum += more);
            }
        }
        (loss, gradient)
    });
}

#[test]
fn a_trained_adapter_gives_the_logits_of_peft() {
    for (model_name, sites) in MODELS {
        let (model, golden) = (open(model_name, 1), Golden::load(&format!("lora/{model_name}")));
        let mut adapter = initial_adapter(&model, &golden, "clm", sites);
        for (&id, pair) in &mut adapter.pairs {
            pair.a = golden.floats(&name(&model, "clm", "step3", id, "A")).clone();
            pair.b = golden.floats(&name(&model, "clm", "step3", id, "B")).clone();
        }
        let pass = Pass { adapter: Some(Arc::new(adapter)), ..Pass::default() };
        let ids = golden.ids("adapter.input_ids");
        let hidden = model.embedding.embed(&model.cpu, &slices(&ids)).unwrap();
        let (hidden, _) = model.blocks.forward(hidden, &pass).unwrap();
        let logits = model.head.logits(&model.cpu, hidden.values().view());
        let distance = distance(&logits, golden.floats("adapter.logits"));
        assert!(distance < 1e-4, "{model_name}: logits are {distance} off");
    }
}

/// Weights, activations and gradients in int8 against f32, all tensors of an adapter together.
#[test]
fn gradients_in_int8_are_close() {
    const TOLERANCE: f64 = 0.1;
    let gradients = [Encoding::F32, Encoding::Int8].map(|encoding| {
        let model = open_in(encoding, "bloom-small-trained", 2);
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let hidden_size = model.spec.block.hidden_size;
        let matrix = |rows, cols| Matrix::from_vec(rows, cols, (0..rows * cols).map(|i| 0.02 * number(i)).collect());
        let pair = |id| (id, LowRank { a: matrix(4, hidden_size), b: matrix(3 * hidden_size, 4), scale: 2.0 });
        let pairs = linears(&model, &[Site::Qkv]).into_iter().map(pair).collect();
        let adapter = Some(Arc::new(Adapter { pairs, dropout: 0.0 }));
        let pass = Pass { adapter, keep: Keep::BlockInputs, ..Pass::default() };

        let ids: Vec<u32> = (0..96).map(|i| (i * i * 37 + 11) % 8000).collect();
        let hidden = model.embedding.embed(&model.cpu, &[&ids]).unwrap();
        let (hidden, saved) = model.blocks.forward(hidden, &pass).unwrap();
        let normalized = model.head.normalize(&model.cpu, hidden.values().view());
        let logits = model.head.project(&model.cpu, normalized.view());
        let targets: Vec<u32> = ids[1..].iter().copied().chain([0]).collect();
        let mut d_logits = Matrix::zeros(logits.rows(), logits.cols());
        cross_entropy_backward(&model.cpu, logits.view(), &targets, &[1.0; 96], d_logits.view_mut());
        let d_normalized = model.head.project_backward(&model.cpu, d_logits.view());
        let d_hidden = model.head.normalize_backward(&model.cpu, hidden.values().view(), d_normalized.view());
        let d_hidden = HiddenStates::new(d_hidden, vec![96]).unwrap();
        let (_, mut gradient) = model.blocks.backward(saved, d_hidden, &pass).unwrap();
        let tensors = std::mem::take(&mut gradient.leaves[0].adapter).into_values().flat_map(|pair| [pair.a, pair.b]);
        let numbers: Vec<f32> = tensors.flat_map(Matrix::into_vec).collect();
        Matrix::from_vec(1, numbers.len(), numbers)
    });
    let error = relative_error(&gradients[1], &gradients[0]);
    assert!((1e-3..TOLERANCE).contains(&error), "{error} off");
}
