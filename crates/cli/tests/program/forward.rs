//! `bouquet forward`: the file that it writes, against transformers.

use crate::harness::*;

/// f32 sums in another order than torch's; the goldens' own distance from float64 is about 1e-5.
const TOLERANCE: f32 = 1e-4;

const ENCODINGS: [&str; 4] = ["f32", "int8", "int4", "nf4"];

/// Runs `forward` and returns the bytes of the file.
fn forward(args: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    stdout(&[["forward"].as_slice(), args, &["-o", arg(&out)]].concat());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside the file");
    std::fs::read(out).unwrap()
}

fn assert_close(ours: &(Vec<usize>, Vec<f32>), theirs: &(Vec<usize>, Vec<f32>), what: &str) {
    // Goldens have a batch axis of 1 in front.
    assert_eq!(ours.0, theirs.0[1..], "{what}");
    let difference = ours.1.iter().zip(&theirs.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < TOLERANCE, "{what} differs by {difference}");
}

#[test]
fn logits_and_hidden_states_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for (model, name) in [
        (tiny("bloom-tiny"), "bloom-tiny"),
        (tiny("bloom-tiny-bf16"), "bloom-tiny-bf16"),
        (tiny("llama-tiny"), "llama-tiny"),
        (tiny("mixtral-tiny"), "mixtral-tiny"),
        (tiny("qwen3-tiny"), "qwen3-tiny"),
        (tiny("falcon-tiny"), "falcon-tiny"),
        (tiny("opt-tiny-postln"), "opt-tiny-postln"),
        // Longer than it was trained for.
        (made("llama-dynamic-tiny"), "llama-dynamic-tiny"),
        (made("falcon-alibi-tiny"), "falcon-alibi-tiny"),
        (small(), "bloom-small-trained"),
    ] {
        let golden = golden(name);
        let input_ids = integers(&golden, "single.input_ids");
        let ids = folder.path().join("ids.json");
        std::fs::write(&ids, format!("[{input_ids:?}]")).unwrap();
        let file = forward(&[arg(&model), "--token-ids", arg(&ids), "--encoding", "f32"]);
        assert_eq!(integers(&file, "lengths"), [input_ids.len() as i64]);
        assert_close(&floats(&file, "logits"), &floats(&golden, "single.logits"), name);
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let hidden = tensors.names().iter().filter(|name| name.starts_with("hidden.")).count();
        for index in 0..hidden {
            let theirs = floats(&golden, &format!("single.hidden.{index}"));
            assert_close(&floats(&file, &format!("hidden.{index}")), &theirs, &format!("{name} hidden.{index}"));
        }
        assert!(
            safetensors::SafeTensors::deserialize(&golden).unwrap().tensor(&format!("single.hidden.{hidden}")).is_err()
        );
        // The text gives the ids, and any number of threads the bits.
        for threads in ["1", "2", "3"] {
            assert!(forward(&[arg(&model), "--text", &prompt(name), "--threads", threads]) == file, "{name}");
        }
    }
}

#[test]
fn sequences_are_packed_one_after_another() {
    let (model, texts) = (tiny("bloom-tiny"), ["Eine Frau spielt Gitarre.", "Il est", "-x"]);
    for encoding in ENCODINGS {
        let flags = [arg(&model), "--encoding", encoding];
        let together =
            forward(&[flags.as_slice(), &["--text", texts[0], "--text", texts[1], "--text", texts[2]]].concat());
        let mut rows = Vec::new();
        let mut lengths = Vec::new();
        for text in texts {
            let alone = forward(&[flags.as_slice(), &["--text", text]].concat());
            rows.extend(floats(&alone, "logits").1);
            lengths.extend(integers(&alone, "lengths"));
        }
        assert_eq!(floats(&together, "logits").1, rows, "{encoding}");
        assert_eq!(integers(&together, "lengths"), lengths);
        assert_eq!(floats(&together, "hidden.0").0, [lengths.iter().sum::<i64>() as usize, 64]);
    }
}

#[test]
fn instruction_sets_and_threads_give_the_same_bits_in_every_encoding() {
    let isas = instruction_sets();
    assert!(isas.contains(&"scalar"));
    for model in [tiny("bloom-tiny"), tiny("mixtral-tiny")] {
        let mut files: Vec<Vec<u8>> = Vec::new();
        for encoding in ENCODINGS {
            let with = |isa, threads| {
                let flags = ["--encoding", encoding, "--isa", isa, "--threads", threads];
                forward(&[[arg(&model), "--text", "The committee approved the plan."].as_slice(), &flags].concat())
            };
            let expected = with("scalar", "1");
            for &isa in &isas {
                for threads in ["1", "3"] {
                    assert!(with(isa, threads) == expected, "{} in {encoding}: {isa}, {threads}", model.display());
                }
            }
            assert!(files.iter().all(|other| *other != expected), "{encoding} is an encoding of its own");
            files.push(expected);
        }
    }
}

#[test]
fn token_ids_need_no_tokenizer() {
    let (model, folder) = (copy("bloom-tiny"), tempfile::tempdir().unwrap());
    let ids = folder.path().join("ids.json");
    std::fs::write(&ids, "[[5, 6, 7]]").unwrap();
    let expected = forward(&[arg(&tiny("bloom-tiny")), "--token-ids", arg(&ids)]);
    for name in ["tokenizer.json", "generation_config.json"] {
        std::fs::remove_file(model.path().join(name)).unwrap();
    }
    assert!(forward(&[arg(model.path()), "--token-ids", arg(&ids)]) == expected);
}

#[test]
fn what_was_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, "what was there before").unwrap();
    let model = tiny("bloom-tiny");
    let object = json(&["forward", arg(&model), "--text", "Hello", "-o", arg(&out), "--json"]);
    let file = std::fs::read(&out).unwrap();
    assert_eq!(object["output"], arg(&out));
    let (shape, _) = floats(&file, "logits");
    assert_eq!(object["tensors"]["logits"], serde_json::json!(shape));
    assert_eq!(object["lengths"], serde_json::json!(integers(&file, "lengths")));
}
