//! A gradient has the same bits on any number of threads, in any passes, whatever they keep.

use bouquet_tune::gradient::{BatchGradient, PassPlan};

use crate::fixtures::{Golden, everything, gradient, open};

fn bits(gradient: &BatchGradient) -> (u64, Vec<Vec<u32>>) {
    let slices = gradient.gradients.slices();
    let bits = slices.into_iter().map(|slice| slice.iter().map(|value| value.to_bits()).collect());
    (gradient.loss.to_bits(), bits.collect())
}

#[test]
fn memory_plans_and_threads_do_not_change_a_bit() {
    for model in ["bloom-tiny", "llama-tiny"] {
        let golden = Golden::open(model);
        for objective in ["clm", "mnrl"] {
            let batch = golden.batch(objective);
            for dropout in [0.0, 0.3] {
                let of = |threads, plan| {
                    let network = open(model, threads);
                    bits(&gradient(&network, &everything(&network, dropout), plan, &batch))
                };
                let first = of(1, PassPlan { leaf: 2, tokens_per_pass: 1 << 20, kept_bytes: Some(u64::MAX) });
                for (threads, tokens_per_pass, kept_bytes) in
                    [(2, 1, Some(u64::MAX)), (3, 60, Some(30_000)), (2, 60, Some(0)), (1, 1, None), (2, 1 << 20, None)]
                {
                    let other = of(threads, PassPlan { leaf: 2, tokens_per_pass, kept_bytes });
                    assert_eq!(first, other, "{model} {objective} {threads} {tokens_per_pass} {kept_bytes:?}");
                }
            }
        }
    }
}

#[test]
fn dropout_and_leaves_do_change_them() {
    let (network, golden) = (open("bloom-tiny", 2), Golden::open("bloom-tiny"));
    let batch = golden.batch("mnrl");
    let of = |leaf, dropout| {
        let plan = PassPlan { leaf, tokens_per_pass: 1024, kept_bytes: None };
        bits(&gradient(&network, &everything(&network, dropout), plan, &batch))
    };
    let first = of(8, 0.0);
    assert_eq!(first.0, of(2, 0.0).0, "a loss knows no leaves");
    assert_ne!(first.1, of(2, 0.0).1);
    assert_ne!(first.0, of(8, 0.3).0);
}
