//! The first step of a fine-tune for sentence similarity, from text to gradient, is that of PEFT; and the gradient of a soft
//! prompt, which PEFT's goldens have none of, is that of finite differences.

use bouquet_embed::text_embedder::tokens;
use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use bouquet_model::{Encoding, Model, OpenOptions};
use bouquet_tune::data::{ReadOptions, RecordKind, read, sentences};
use bouquet_tune::examples::Sentences;
use bouquet_tune::parameters::{Name, tensors};

use crate::fixtures::{Golden, PLAN, everything, folder, gradient, open};

#[test]
fn from_text_to_gradient_it_is_that_of_peft() {
    let options = OpenOptions::new(Cpu::new(2), 1 << 30, Encoding::F32);
    let model = Model::open(&folder("../../models/bloom-small-trained"), &options).unwrap();
    let (learned, _) = Learned::open(&folder("goldens/embed/bloom-small-sts-adapter-init"), &model.spec).unwrap();
    let pairs = folder("data/contrastive_pairs.head.jsonl");
    let records = read(&[pairs], &ReadOptions::new(RecordKind::Pairs)).unwrap().records;
    let cut = sentences(&records, |texts| tokens(&model.tokenizer, texts, 64, 1)).unwrap();
    let rows: Vec<usize> = (0..cut.rows.len()).collect();
    let batch = Sentences::new(cut, &records, 1.0).batch(&rows);
    let found = gradient(&model, &learned, PLAN, &batch);
    // "first_loss_from_init" of the recorded run.
    assert!((found.loss - 1.482_692_003).abs() < 1e-5, "a loss of {}", found.loss);

    let golden = SafetensorsFile::open(&folder("goldens/embed/first_step.safetensors")).unwrap().unwrap();
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    for ((name, _), found) in tensors(&learned).into_iter().zip(found.gradients.slices()) {
        let (Name::A(linear) | Name::B(linear)) = name else { panic!("{name}") };
        let which = if matches!(name, Name::A(_)) { "A" } else { "B" };
        let module = model.spec.names.linear(linear).unwrap();
        let tensor = golden.tensor(&format!("grad.{}{module}.lora_{which}", model.spec.names.prefix)).unwrap();
        let expected: Vec<f64> =
            tensor.data.chunks(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).collect();
        let difference = norm(&mut found.iter().zip(&expected).map(|(found, expected)| f64::from(*found) - expected));
        let length = norm(&mut expected.iter().copied());
        // B is 0 at first, and so is the gradient of A.
        assert!(difference <= 1e-4 * length, "{name}: {difference} off, of {length}");
    }
}

#[test]
fn the_gradient_of_a_soft_prompt_is_a_finite_difference() {
    for model in ["bloom-tiny", "llama-tiny"] {
        let (network, golden) = (open(model, 2), Golden::open(model));
        for objective in ["clm", "mnrl"] {
            let (batch, learned) = (golden.batch(objective), everything(&network, 0.0));
            let found = gradient(&network, &learned, PLAN, &batch);
            let place = tensors(&learned).iter().position(|(name, _)| *name == Name::SoftPrompt).unwrap();
            let prompt = learned.soft_prompt.clone().unwrap();
            let slope = found.gradients.slices()[place].to_vec();
            // Along the gradient itself, where the difference is largest.
            let length = slope.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            let moved = |by: f64| {
                let step = |(value, slope): (&f32, &f32)| (f64::from(*value) + by * f64::from(*slope) / length) as f32;
                let data = prompt.data().iter().zip(&slope).map(step).collect();
                let soft_prompt = Some(Matrix::from_vec(prompt.rows(), prompt.cols(), data));
                gradient(&network, &Learned { soft_prompt, ..learned.clone() }, PLAN, &batch).loss
            };
            let difference = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            assert!((difference - length).abs() < 0.02 * length, "{model} {objective}: {difference}, not {length}");
        }
    }
}
