//! `bouquet finetune`: what it writes, and that a run which is stopped ends where one that was not does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::*;

/// Pairs of sentences that share words.
pub(crate) fn pairs(room: &TempDir, rows: usize) -> PathBuf {
    let path = room.path().join("pairs.jsonl");
    let nouns = ["river", "engine", "teacher", "garden", "window", "letter", "doctor", "market", "forest", "bridge"];
    let line = |row: usize| {
        let (noun, other) = (nouns[row % 10], nouns[row / 10 % 10]);
        let record = json!({
            "a": format!("The {noun} is near the {other} number {row}."),
            "b": format!("Number {row}: a {other}, and beside it a {noun}{}.", " indeed".repeat(row % 4)),
        });
        format!("{record}\n")
    };
    fs::write(&path, (0..rows).map(line).collect::<String>()).unwrap();
    path
}

/// Arguments of a short run.
pub(crate) fn arguments<'a>(data: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<String> {
    let model = small();
    let mut arguments: Vec<String> = vec!["finetune".into(), arg(&model).into(), "-o".into(), arg(out).into()];
    let usual = [
        "--objective",
        "contrastive",
        "--data",
        arg(data),
        "--batch-size",
        "6",
        "--leaf",
        "2",
        "--steps",
        "12",
        "--save-every",
        "3",
        "--dropout",
        "0.1",
        "--optimizer",
        "adamw8bit",
    ];
    arguments.extend(usual.iter().chain(more).map(|&argument| argument.to_owned()));
    arguments
}

pub(crate) fn run(arguments: &[String]) -> std::process::Output {
    let output = output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Holds that a request is refused: the exit code, one sentence that says `what`, a hint; what was read as what may be
/// said before.
fn refuse(arguments: &[String], code: i32, what: &str) {
    let output = output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    let error = stderr.lines().position(|line| line.starts_with("error: ")).expect(&stderr);
    let lines: Vec<&str> = stderr.lines().skip(error).collect();
    assert!(lines[0].contains(what), "{arguments:?} should say {what:?}: {stderr}");
    assert!(lines.len() == 2 && lines[1].starts_with("hint: "), "{arguments:?}: {stderr}");
    assert_eq!(text(&output.stdout), "");
}

pub(crate) fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

pub(crate) fn losses(folder: &Path) -> Vec<f64> {
    let lines = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let metrics = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    metrics.filter(|metric| metric["kind"] == "train").map(|metric| metric["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_run_becomes_an_adapter_of_peft_and_of_sentence_transformers() {
    let room = tempfile::tempdir().unwrap();
    let (data, out) = (pairs(&room, 60), room.path().join("out"));
    let dry = run(&arguments(&data, &out, &["--dry-run"]));
    assert!(!out.exists() && text(&dry.stdout).contains("memory in all"));
    let output = run(&arguments(&data, &out, &[]));
    assert!(text(&output.stderr).contains("a is anchor, b is positive"));
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    let config = read("adapter_config.json");
    assert_eq!(
        (&config["peft_type"], &config["r"], &config["task_type"]),
        (&json!("LORA"), &json!(8), &json!("FEATURE_EXTRACTION"))
    );
    assert_eq!(read("1_Pooling/config.json")["pooling_mode_mean_tokens"], true);
    assert_eq!(read("modules.json").as_array().unwrap().len(), 2);
    assert_eq!(read("summary.json")["steps"], 12);
    assert!(!out.join("checkpoint.safetensors").exists());
    let losses = losses(&out);
    assert_eq!(losses.len(), 12);
    assert!(losses.iter().all(|loss| *loss > 0.0 && *loss < 2.0 * 6f64.ln()), "{losses:?}");
    let (_, learned) = floats(&adapter(&out), "base_model.model.h.5.self_attention.query_key_value.lora_B.weight");
    assert!(learned.iter().all(|number| number.is_finite()) && learned.iter().any(|number| *number != 0.0));
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("<svg"));

    // The folder is taken; a finished run is left alone.
    refuse(&arguments(&data, &out, &[]), 1, "has a run already");
    let before = fs::metadata(out.join("adapter_model.safetensors")).unwrap().modified().unwrap();
    run(&arguments(&data, &out, &["--resume"]));
    assert_eq!(fs::metadata(out.join("adapter_model.safetensors")).unwrap().modified().unwrap(), before);

    // The settings beside it make the same run.
    let again = room.path().join("again");
    let settings = out.join("finetune.toml");
    stdout(&["finetune", "--config", arg(&settings), "-o", arg(&again), "--threads", "1"]);
    assert_eq!(adapter(&out), adapter(&again));
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let [whole, killed, held] = ["whole", "killed", "held.csv"].map(|name| room.path().join(name));
    fs::write(&held, "a river,the river,5\na river,an engine,1\ntwo letters,a letter,4\na garden,a doctor,0\n")
        .unwrap();
    let evaluated = ["--eval-data", arg(&held), "--eval-every", "4"];
    run(&arguments(&data, &whole, &[&evaluated[..], &["--threads", "2"]].concat()));
    for steps in [4, 8] {
        let mut command = bouquet();
        command.args(arguments(&data, &killed, &[&evaluated[..], &["--resume", "--threads", "1"]].concat()));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        let done = || fs::read_to_string(killed.join("metrics.jsonl")).unwrap_or_default().lines().count();
        while done() < steps && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(300), "no step came");
            std::thread::sleep(Duration::from_millis(5));
        }
        // SIGKILL: nothing is tidied up.
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(killed.join("finetune.toml").exists());
    let last = ["--resume", "--threads", "3", "--memory", "300MB"];
    run(&arguments(&data, &killed, &[&evaluated[..], &last].concat()));
    let best = |folder: &Path| -> Value {
        let summary: Value = serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap();
        summary["best"].clone()
    };
    assert_eq!(best(&whole), best(&killed));
    assert_eq!(adapter(&whole), adapter(&killed));
    assert_eq!(losses(&whole), losses(&killed));
}

#[test]
fn a_run_that_begins_with_an_adapter_goes_on_with_what_that_is() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let [first, second] = ["first", "second"].map(|name| room.path().join(name));
    run(&arguments(&data, &first, &["--targets", "all", "--rank", "3", "--alpha", "7"]));
    run(&arguments(&data, &second, &["--init-adapter", arg(&first)]));
    let config = |folder: &Path| -> Value {
        serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
    };
    assert_eq!(config(&first), config(&second));
    assert_eq!((&config(&second)["r"], &config(&second)["lora_alpha"]), (&json!(3), &json!(7)));
    assert_ne!(adapter(&first), adapter(&second));
    let settings = fs::read_to_string(second.join("finetune.toml")).unwrap();
    assert!(settings.contains("rank = 3") && settings.contains("dense_h_to_4h"), "{settings}");
}

#[test]
fn groups_have_learning_rates_of_their_own() {
    let room = tempfile::tempdir().unwrap();
    let (data, out) = (pairs(&room, 60), room.path().join("out"));
    let groups = ["--lr-group", "blocks 1-5=0", "--lr-group", "A=1", "--lr-group=B=16"];
    let dry = run(&arguments(&data, &out, &[&groups[..], &["--dry-run"]].concat()));
    assert!(text(&dry.stdout).contains("0.001, times 1 for A, times 16 for B, times 0 for blocks 1-5"));
    run(&arguments(&data, &out, &groups));
    let learned = |block: usize| {
        let name = format!("base_model.model.h.{block}.self_attention.query_key_value.lora_B.weight");
        floats(&adapter(&out), &name).1.iter().any(|number| *number != 0.0)
    };
    assert!(learned(0) && (1..6).all(|block| !learned(block)));

    // The table of a file makes the same run, and another table is another run.
    let again = room.path().join("again");
    let settings = out.join("finetune.toml");
    let toml = fs::read_to_string(&settings).unwrap();
    assert!(toml.contains("[lr-group]\nA = 1.0\nB = 16.0\n\"blocks 1-5\" = 0.0\n"), "{toml}");
    stdout(&["finetune", "--config", arg(&settings), "-o", arg(&again)]);
    assert_eq!(adapter(&out), adapter(&again));
    fs::remove_file(out.join("summary.json")).unwrap();
    refuse(&arguments(&data, &out, &["--resume", "--lr-group", "B=2"]), 1, "{ \"B\" = 2.0 }");
}

#[test]
fn pairs_without_scores_are_evaluated_by_retrieval() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let held = ["first.tsv", "second.csv", "scored.csv"].map(|name| room.path().join(name));
    // Each text is its own partner; each other's partner; a score.
    fs::write(&held[0], "a river\ta river\nan engine\tan engine\na teacher\ta teacher\n").unwrap();
    fs::write(&held[1], "anchor,positive\na garden,a window\na window,a garden\n").unwrap();
    fs::write(&held[2], "a river,the river,5\na river,an engine,1\n").unwrap();
    for objective in ["contrastive", "simcse"] {
        let out = room.path().join(objective);
        let evaluated = ["--eval-data", arg(&held[0]), arg(&held[1]), "--eval-every", "6", "--objective", objective];
        // The objective that stands last counts.
        let mut arguments = arguments(&data, &out, &evaluated);
        arguments.drain(4..6);
        let output = run(&arguments);
        assert!(text(&output.stderr).contains("after step 6: accuracy@1 50.00, MRR 75.00"), "{}", text(&output.stderr));
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let evaluations: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_step =
            |name: &str, scores: Value| json!({ "kind": "evaluation", "step": 6, "name": name, "scores": scores });
        assert_eq!(evaluations[6], of_step("first", json!({ "accuracy@1": 100.0, "mrr": 100.0 })));
        assert_eq!(evaluations[7], of_step("second", json!({ "accuracy@1": 0.0, "mrr": 50.0 })));
        let summary: Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
        assert_eq!(summary["best"], json!({ "steps": 6, "score": 75.0 }));
        assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("accuracy@1"));
    }
    let out = room.path().join("out");
    let both = ["--eval-data", arg(&held[0]), arg(&held[2])];
    refuse(&arguments(&data, &out, &both), 1, "scored has scores and first has none");
}

#[test]
fn plain_text_is_learned_and_what_was_read_as_what_is_said() {
    let room = tempfile::tempdir().unwrap();
    let [data, out] = ["texts.txt", "out"].map(|name| room.path().join(name));
    fs::write(&data, "The river is wide.\nAn engine runs.\n\nThe teacher reads a letter.\n").unwrap();
    let model = small();
    let arguments = [
        "finetune",
        arg(&model),
        "--data",
        arg(&data),
        "-o",
        arg(&out),
        "--dry-run",
        "--batch-size",
        "2",
        "--objective",
    ];
    for (objective, said, examples) in
        [("simcse", "each line is text", "3 examples"), ("causal", "the whole file is text", "1 examples")]
    {
        let output = output(&[&arguments[..], &[objective]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(examples), "{}", text(&output.stdout));
    }
}

#[test]
fn what_makes_no_run_is_refused_and_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let (data, out) = (pairs(&room, 60), room.path().join("out"));
    for (more, code, what) in [
        (&["--rank", "4000"][..], 2, "rank"),
        (&["--targets", "nonsense"], 2, "nonsense"),
        (&["--columns", "anchor=x,positive=b"], 1, "\"x\""),
        (&["--memory", "1MB"], 1, "needs at least"),
        (&["--max-tokens", "0"], 2, "max-tokens"),
        (&["--lr-group", "B=2", "--lr-group", "dense=2"], 2, "which is A, B, query_key_value, blocks 0-5"),
        (&["--lr-group", "B=-1"], 2, "lr-group"),
        (&["--init-adapter", "missing"], 1, "missing"),
        (&["--encoding", "f32", "--lr", "nan"], 2, "lr"),
        (&["--whiten"], 1, "cannot whiten: 384 channels need more different sentences than that, and there are 120"),
    ] {
        refuse(&arguments(&data, &out, more), code, what);
        assert!(!out.exists(), "{more:?}");
    }
    let empty = room.path().join("empty.jsonl");
    fs::write(&empty, "{\"a\": \"one-sided\"}\nno json\n{\"a\": \"x\", \"b\": \"\"}\n").unwrap();
    refuse(&arguments(&empty, &out, &[]), 1, "");
    let bad = room.path().join("bad.jsonl");
    fs::write(&bad, fs::read_to_string(&data).unwrap() + "{\"a\": \"one-sided\"}\n").unwrap();
    refuse(&arguments(&bad, &out, &["--strict"]), 1, "line 61");
    assert!(!out.exists());
    let missing =
        output(&["finetune", "--data", "no.csv", "--objective", "contrastive", arg(&small()), "-o", arg(&out)]);
    assert!(text(&missing.stderr).ends_with("hint: check the path\n"), "{}", text(&missing.stderr));
    let unnamed = room.path().join("unnamed.csv");
    fs::write(&unnamed, "left,right\na river,the river\nan engine,the engine\n").unwrap();
    let output = run(&arguments(&unnamed, &out, &["--dry-run"]));
    assert!(text(&output.stderr).contains("unnamed.csv, without names of columns that are known: 0 is anchor"));
    let output = run(&arguments(&bad, &out, &[]));
    assert!(text(&output.stderr).contains("line 61"));
    fs::remove_file(out.join("summary.json")).unwrap();
    refuse(&arguments(&bad, &out, &["--resume", "--scale", "30"]), 1, "scale");
    refuse(&arguments(&data, &out, &["--resume"]), 1, "data");
}

#[test]
fn embeddings_are_whitened_behind_the_last_step_or_without_any() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 260);
    let [learned, alone, plain, held] = ["learned", "alone", "plain", "held.csv"].map(|name| room.path().join(name));
    fs::write(&held, "a river,the river,5\na river,an engine,1\ntwo letters,a letter,4\na garden,a doctor,0\n")
        .unwrap();
    let short = ["--steps", "2", "--threads", "2", "--eval-data", arg(&held), "--whiten", "500"];
    // The number of steps stands among the usual arguments already.
    let arguments = |out: &Path, more: &[&str]| {
        let mut all = arguments(&data, out, &[]);
        let steps = all.iter().position(|argument| argument == "--steps").unwrap();
        all.drain(steps..steps + 2);
        all.extend(more.iter().map(|&argument| argument.to_owned()));
        all
    };
    let dry = run(&arguments(&learned, &[&short[..], &["--dry-run"]].concat()));
    assert!(text(&dry.stdout).contains("500 sentences"), "{}", text(&dry.stdout));
    let output = run(&arguments(&learned, &short));
    assert!(text(&output.stderr).contains("whitened by 500 sentences: Spearman "), "{}", text(&output.stderr));
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(learned.join(name)).unwrap()).unwrap() };
    assert_eq!(read("modules.json")[2]["path"], "2_Dense");
    let whitened = &read("summary.json")["whitened"];
    assert_eq!(whitened["sentences"], 500);
    assert!(["before", "after"].iter().all(|when| whitened[when]["held"]["spearman"].is_number()), "{whitened}");

    // What was learned stays as it is where no step is made, and the same map is fitted on any number of threads.
    let more = ["--steps", "0", "--init-adapter", arg(&learned), "--whiten", "500", "--threads", "1"];
    run(&arguments(&alone, &more));
    assert_eq!(adapter(&learned), adapter(&alone));
    let dense = |folder: &Path| fs::read(folder.join("2_Dense/model.safetensors")).unwrap();
    assert_eq!(dense(&learned), dense(&alone));
    refuse(&arguments(&plain, &["--steps", "0"]), 2, "steps");
    let mut causal = arguments(&plain, &short);
    causal.iter_mut().filter(|argument| *argument == "contrastive").for_each(|objective| *objective = "causal".into());
    refuse(&causal, 2, "whiten is for embeddings of sentences");

    // It stands behind the pooling wherever sentences are embedded: what it was fitted on has a mean of nearly 0.
    let sentences = room.path().join("sentences.txt");
    let lines = fs::read_to_string(&data).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let texts = records.flat_map(|record| ["a", "b"].map(|key| record[key].as_str().unwrap().to_owned()));
    fs::write(&sentences, texts.map(|text| text + "\n").collect::<String>()).unwrap();
    let vectors = room.path().join("vectors.jsonl");
    let model = small();
    let embed = ["embed", arg(&model), arg(&sentences), "-o", arg(&vectors), "--adapter", arg(&learned)];
    stdout(&embed);
    let lines = fs::read_to_string(&vectors).unwrap();
    let rows: Vec<Vec<f64>> = lines
        .lines()
        .map(|line| serde_json::from_value(serde_json::from_str::<Value>(line).unwrap()["embedding"].clone()).unwrap())
        .collect();
    assert_eq!((rows.len(), rows[0].len()), (520, 384));
    for channel in 0..384 {
        let mean = rows.iter().map(|row| row[channel]).sum::<f64>() / 520.0;
        assert!(mean.abs() < 0.1, "{channel}: {mean}");
    }
    // A map for another model is refused.
    let config = learned.join("2_Dense/config.json");
    let other = fs::read_to_string(&config).unwrap().replace("\"in_features\": 384", "\"in_features\": 64");
    fs::write(&config, other).unwrap();
    refuse(&embed.map(str::to_owned), 1, "should have F32 numbers in shape [384, 64] as linear.weight");
}

#[test]
fn texts_are_learned() {
    let room = tempfile::tempdir().unwrap();
    let data = room.path().join("chats.jsonl");
    let record =
        |row: usize| json!({ "prompt": format!("What is {row}?"), "completion": " It is a number." }).to_string();
    fs::write(&data, (0..24).map(|row| record(row) + "\n").collect::<String>()).unwrap();
    let out = room.path().join("out");
    let (model, held) = (small(), arg(&data));
    let arguments = [
        "finetune",
        arg(&model),
        "--objective",
        "causal",
        "--data",
        held,
        "--eval-data",
        held,
        "--eval-every",
        "4",
        "--batch-size",
        "6",
        "--steps",
        "8",
        "--lr",
        "5e-3",
        "--targets",
        "all",
        "-o",
        arg(&out),
        "--json",
    ];
    let summary = json(&arguments);
    assert!(summary["best"]["score"].as_f64().unwrap() > -losses(&out)[0], "{summary}");
    let config: Value = serde_json::from_slice(&fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["task_type"], config["target_modules"].as_array().unwrap().len()), (&json!("CAUSAL_LM"), 4));
    assert!(!out.join("modules.json").exists());
}
