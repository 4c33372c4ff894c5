//! `bouquet bench`: what it tells, not how fast this machine is.

use serde_json::json;

use crate::harness::*;

fn keys(value: &serde_json::Value) -> Vec<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn json_tells_every_test_beside_the_limits() {
    let model = tiny("bloom-tiny");
    let args = ["bench", arg(&model), "-p", "8,16", "-n", "4", "-r", "3", "--batch", "2", "--json"];
    let object = json(&args);
    assert_eq!(
        keys(&object),
        [
            "model",
            "parameters",
            "weight_bytes",
            "encoding",
            "wire",
            "isa",
            "threads",
            "load_seconds",
            "limits",
            "results",
            "peak_memory_bytes"
        ]
    );
    assert_eq!((&object["model"], &object["encoding"]), (&json!("bloom-tiny"), &json!("int8")));
    let results = object["results"].as_array().unwrap();
    let told: Vec<_> = results.iter().map(|result| (&result["test"], &result["tokens"], &result["batch"])).collect();
    assert_eq!(
        told,
        [
            (&json!("pp8"), &json!(8), &json!(1)),
            (&json!("pp16"), &json!(16), &json!(1)),
            (&json!("tg4"), &json!(8), &json!(2))
        ]
    );
    for result in results {
        let number = |name: &str| result[name].as_f64().unwrap();
        let samples: Vec<f64> = result["samples"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let mean = samples.iter().sum::<f64>() / 3.0;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0;
        assert_eq!(samples.len(), 3);
        assert!((number("tokens_per_sec") - mean).abs() <= 1e-9 * mean && mean > 0.0);
        assert!((number("sd") - variance.sqrt()).abs() <= 1e-6 * mean);
        assert!(number("gb_per_sec") > 0.0 && number("gop_per_sec") > 0.0);
        let shares = [number("share_of_bandwidth"), number("share_of_arithmetic")];
        assert_eq!(number("share_of_limit"), shares[0].max(shares[1]));
        assert!(result.get("profile").is_none());
    }
}

#[test]
fn a_profile_accounts_for_all_of_the_time() {
    let model = tiny("mixtral-tiny");
    let args = ["bench", arg(&model), "-p", "32", "-n", "8", "-r", "2", "--encoding", "f32", "--profile"];
    for result in json(&[args.as_slice(), &["--json"]].concat())["results"].as_array().unwrap() {
        let profile = result["profile"].as_array().unwrap();
        let shares: f64 = profile.iter().map(|row| row["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-6, "{shares}");
        let named = |name: &str| profile.iter().any(|row| row["operation"] == name);
        assert!(named("product q") && named("product head") && named("attention") && named("other"), "{profile:?}");
        let tokens_per_sec: Vec<f64> =
            result["samples"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let time: f64 = tokens_per_sec.iter().map(|speed| result["tokens"].as_f64().unwrap() / speed).sum();
        let told: f64 = profile.iter().map(|row| row["seconds"].as_f64().unwrap()).sum();
        assert!((time - told).abs() < 1e-6 * time, "{time} s, of which {told} are told");
    }
    let shown = stdout(&args);
    for words in ["| ", "pp32", "tg8", "±", "limits here", "opened in", "product head", "other"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_dry_run_measures_nothing() {
    let object = json(&["bench", "--shape", "bloom-7b1", "--encoding", "int4", "--batch", "3", "--dry-run", "--json"]);
    let gigabytes = object["weight_bytes"].as_f64().unwrap() / 1e9;
    // 6.04 billion numbers of linears in 4.13 bits, 1.03 billion of the embedding in 8.
    assert!((4.1..4.2).contains(&gigabytes), "{gigabytes}");
    assert_eq!((&object["tests"], &object["batch"]), (&json!(["pp128", "pp512", "tg64"]), &json!(3)));
    assert!(stdout(&["bench", arg(&tiny("llama-tiny")), "--dry-run"]).contains("llama-tiny"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("random");
    let shown = stdout(&["bench", "--shape", "bloom-560m", "--write", arg(&out), "--dry-run"]);
    assert!(shown.contains("would write") && shown.contains("1.04 GiB") && !out.exists(), "{shown}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let (model, folder) = (tiny("bloom-tiny"), tempfile::tempdir().unwrap());
    let (model, out) = (arg(&model), arg(folder.path()));
    refused(&["bench", model, "-p", "0", "-n", "0"], 2, "nothing to measure");
    refused(&["bench", arg(&tiny("llama-tiny")), "-p", "100000"], 2, "positions");
    refused(&["bench"], 2, "required");
    refused(&["bench", model, "--shape", "bloom-560m"], 2, "cannot be used with");
    refused(&["bench", "--shape", "bloom-9b"], 2, "bloom-9b");
    refused(&["bench", model, "--outliers"], 2, "random weights");
    refused(&["bench", model, "--write", out], 2, "random weights");
    refused(&["bench", "--shape", "bloom-560m", "--write", out], 2, "is there already");
    #[cfg(target_os = "linux")]
    refused(&["bench", "--shape", "bloom-7b1"], 1, "for weights, cache and logits");
}

/// What a dead process left is taken over; what a living one has is let be.
#[cfg(unix)]
#[test]
fn random_weights_of_a_process_that_was_killed_are_written_over() {
    let room = tempfile::tempdir().unwrap();
    let (out, part) = (room.path().join("out"), room.path().join(".out.bouquet-part"));
    // Nobody waits until all of it is written.
    let args = ["bench", "--shape", "bloom-560m", "--encoding", "int4", "--write", arg(&out)];
    let temporary = || -> Vec<std::ffi::OsString> {
        let names = std::fs::read_dir(&part).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".bouquet-")).collect()
    };
    let begin = |left: &[std::ffi::OsString]| {
        let child = bouquet().args(args).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut there = temporary();
        while there.is_empty() || there == left {
            std::thread::yield_now();
            there = temporary();
        }
        (child, there)
    };
    let (mut first, left) = begin(&[]);
    refused(&args, 1, "is being written by another program");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(temporary() == left && !out.exists());
    let (mut second, there) = begin(&left);
    assert!(there.len() == 1 && there != left, "what the first had begun is gone");
    let id = second.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(second.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

/// A limit on the length of files stands for a full disk.
#[cfg(unix)]
#[test]
fn random_weights_that_find_no_room_leave_nothing() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 20000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_bouquet")]);
    let output = command.args(["bench", "--shape", "bloom-560m", "--write", arg(&out)]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with(&format!("error: cannot write {}: ", arg(&out))), "{stderr}");
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

#[test]
fn embeddings_are_measured_in_sentences() {
    let model = tiny("bloom-tiny");
    let args = ["bench", arg(&model), "--embed", "-r", "2"];
    let object = json(&[args.as_slice(), &["--json"]].concat());
    let results = object["results"].as_array().unwrap();
    let result = &results[0];
    assert_eq!((results.len(), &result["test"], &result["batch"]), (1, &json!("embed"), &json!(512)));
    let tokens = result["tokens"].as_f64().unwrap();
    assert!((23.0..25.0).contains(&(tokens / 512.0)), "{tokens}");
    let sentences = result["tokens_per_sec"].as_f64().unwrap() * 512.0 / tokens;
    assert!((result["sentences_per_sec"].as_f64().unwrap() - sentences).abs() < 1e-6 * sentences);
    let shown = stdout(&args);
    assert!(shown.contains("embed x 512") && shown.contains("sentences/s"), "{shown}");
}

#[test]
fn steps_of_training_are_measured_with_activations_recomputed_and_kept() {
    for name in ["bloom-tiny", "llama-tiny"] {
        let model = tiny(name);
        let args = ["bench", arg(&model), "--train", "--pairs", "3", "--pair-tokens", "5", "--rank", "2", "-r", "2"];
        let object = json(&[args.as_slice(), &["--json"]].concat());
        let results = object["results"].as_array().unwrap();
        let told: Vec<_> = results.iter().map(|result| (&result["activations"], &result["tokens"])).collect();
        assert_eq!(told, [(&json!("recomputed"), &json!(30)), (&json!("kept"), &json!(30))]);
        for result in results {
            let number = |name: &str| result[name].as_f64().unwrap();
            assert!((number("seconds_per_step") * number("steps_per_sec") - 1.0).abs() < 1e-9, "{result}");
            assert!(number("tokens_per_sec") > 0.0 && number("share_of_arithmetic") > 0.0, "{result}");
        }
        let planned = json(&[args.as_slice(), &["--json", "--dry-run"]].concat());
        assert_eq!(planned["tests"], json!(["train 3 x 5, recomputed", "train 3 x 5, kept"]));
        assert!(planned["train_bytes"].as_u64().unwrap() > 0);
    }
    let model = tiny("bloom-tiny");
    for wrong in [&["--pairs", "3"][..], &["--train", "--embed"], &["--train", "--rank", "1000"]] {
        let output = output(&[&["bench", arg(&model)], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
    }
}
