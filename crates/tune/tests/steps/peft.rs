//! Losses, gradients and parameters of three steps are those of PEFT with torch's AdamW.

use bouquet_model::Encoding;
use bouquet_span::Site;
use bouquet_tune::optimizer::{AdamW, AdamWSettings, Optimizer, Rate};
use bouquet_tune::parameters::{tensors, tensors_mut};

use crate::fixtures::{Golden, PLAN, gradient, open};

/// Norm of the difference over norm, per tensor.
const TOLERANCE: f64 = 1e-4;

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference =
        norm(&mut found.iter().zip(expected).map(|(&found, &expected)| f64::from(found) - f64::from(expected)));
    difference / norm(&mut expected.iter().map(|&value| f64::from(value))).max(f64::MIN_POSITIVE)
}

#[test]
fn three_steps_are_those_of_peft() {
    for (model, sites) in [("bloom-tiny", &[Site::Qkv][..]), ("llama-tiny", &[Site::Q, Site::V])] {
        let (network, golden) = (open(model, 2), Golden::open(model));
        for objective in ["clm", "mnrl"] {
            let mut learned = golden.learned(&network, sites, objective, "init");
            let batch = golden.batch(objective);
            let lengths: Vec<usize> = tensors(&learned).iter().map(|(_, matrix)| matrix.data().len()).collect();
            let mut optimizer = AdamW::new(AdamWSettings::default(), &lengths);
            let losses = golden.manifest[format!("{objective}_losses")].as_array().unwrap();
            for (step, loss) in losses.iter().enumerate() {
                let found = gradient(&network, &learned, PLAN, &batch);
                let loss = loss.as_f64().unwrap();
                // What is off by so little in a parameter moves a loss of 9 by more than in the first step.
                let bound = if step == 0 { 1e-5 } else { 2e-4 };
                assert!((found.loss - loss).abs() < bound, "{model} {objective} {step}: {} for {loss}", found.loss);
                if step == 3 {
                    break;
                }
                if step == 0 {
                    let expected = golden.learned(&network, sites, objective, "grad");
                    for (found, (name, expected)) in found.gradients.slices().iter().zip(tensors(&expected)) {
                        let error = relative_error(found, expected.data());
                        assert!(error < TOLERANCE, "{model} {objective} gradient of {name}: {error} off");
                    }
                }
                let rates = vec![Rate { learning_rate: 0.01, weight_decay: 0.01 }; lengths.len()];
                let mut parameters: Vec<&mut [f32]> =
                    tensors_mut(&mut learned).into_iter().map(|(_, slice)| slice).collect();
                optimizer.step(&mut parameters, &found.gradients.slices(), &rates);
                let expected = golden.learned(&network, sites, objective, &format!("step{}", step + 1));
                for ((name, found), (_, expected)) in tensors(&learned).into_iter().zip(tensors(&expected)) {
                    let error = relative_error(found.data(), expected.data());
                    assert!(error < TOLERANCE, "{model} {objective} step {} of {name}: {error} off", step + 1);
                }
            }
        }
        assert_eq!(network.spec.stored.linears, Encoding::F32);
    }
}
