//! `bouquet run`, `demo`, `completions` and `--version`.

use std::io::Read;
use std::process::Stdio;

use crate::harness::*;

#[test]
fn greedy_text_is_that_of_transformers() {
    for (model, name) in [
        (tiny("bloom-tiny"), "bloom-tiny"),
        (tiny("bloom-tiny-sharded"), "bloom-tiny"),
        (tiny("bloom-tiny-h6-postres"), "bloom-tiny-h6-postres"),
        (tiny("llama-tiny"), "llama-tiny"),
        (tiny("mixtral-tiny"), "mixtral-tiny"),
        (small(), "bloom-small-trained"),
    ] {
        let prompt = prompt(name);
        let args = ["run", arg(&model), &prompt, "--max-tokens", "32", "--ignore-eos", "--temperature", "0"];
        let args = [args.as_slice(), &["--encoding", "f32"]].concat();
        let object = json(&[args.as_slice(), &["--json"]].concat());
        let ids = integers(&golden(name), "greedy.single");
        let generated: Vec<i64> =
            object["token_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        assert_eq!(generated, ids[ids.len() - 32..], "{name}");
        assert_eq!(object["finish_reason"], "length");
        if name.starts_with("bloom") {
            let whole = manifest(name)["greedy"]["text"].as_str().unwrap().to_owned();
            assert_eq!(prompt.clone() + object["text"].as_str().unwrap(), whole);
            assert_eq!(prompt.clone() + &stdout(&args), whole + "\n");
        }
    }
}

#[test]
fn keys_and_values_may_be_kept_in_half_precision() {
    let model = small();
    let args = ["run", arg(&model), "The committee approved", "--max-tokens", "12", "--temperature", "0", "--json"];
    let texts = ["f32", "f16"].map(|cache| json(&[args.as_slice(), &["--kv-cache", cache]].concat())["text"].clone());
    assert_eq!(texts[0], texts[1]);
    refused(&[args.as_slice(), &["--kv-cache", "int8"]].concat(), 2, "invalid value 'int8' for '--kv-cache");
}

#[test]
fn json_is_one_object_of_a_known_shape() {
    let object = json(&["run", arg(&small()), "The city", "--max-tokens", "5", "--json"]);
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&object), ["text", "token_ids", "finish_reason", "computed", "timings"]);
    let timings = &object["timings"];
    assert_eq!(
        keys(timings),
        [
            "prompt_tokens",
            "prompt_seconds",
            "prompt_tokens_per_sec",
            "generated_tokens",
            "generation_seconds",
            "generation_tokens_per_sec",
            "load_seconds",
            "peak_memory_bytes"
        ]
    );
    assert_eq!(timings["generated_tokens"], 5);
    assert!(timings["generation_tokens_per_sec"].as_f64().unwrap() > 0.0);
    assert!(cfg!(not(target_os = "linux")) || timings["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn speed_and_memory_are_on_standard_error() {
    let output = output(&["run", arg(&tiny("bloom-tiny")), "Hello", "--max-tokens", "4", "--ignore-eos"]);
    let stderr = text(&output.stderr);
    for word in ["prompt", "generation", "tokens/s", "4 tokens"] {
        assert!(stderr.contains(word), "{stderr}");
    }
    assert!(cfg!(not(target_os = "linux")) || stderr.contains("peak memory"), "{stderr}");
    assert!(!stderr.contains('\x1b') && !text(&output.stdout).contains('\x1b'), "colours are for terminals");
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_standard_input() {
    let (model, folder) = (small(), tempfile::tempdir().unwrap());
    let rest = ["--max-tokens", "8", "--ignore-eos"];
    let expected = stdout(&[["run", arg(&model), "The city of"].as_slice(), &rest].concat());
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "The city of\n").unwrap();
    assert_eq!(stdout(&[["run", arg(&model), "--file", arg(&file)].as_slice(), &rest].concat()), expected);
    std::fs::write(&file, "\u{FEFF}The city of\n").unwrap();
    assert_eq!(stdout(&[["run", arg(&model), "--file", arg(&file)].as_slice(), &rest].concat()), expected);
    let piped = output_with_stdin(&[["run", arg(&model)].as_slice(), &rest].concat(), b"The city of\r\n");
    assert_eq!(text(&piped.stdout), expected);
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let (model, prompt) = (small(), prompt("bloom-small-trained"));
    let args = ["run", arg(&model), &prompt, "--encoding", "f32", "--max-tokens", "32", "--json"];
    let whole = json(&args)["text"].as_str().unwrap().to_owned();
    let stop = &whole[whole.len() / 2..][..8];
    let stopped = json(&[args.as_slice(), &["--stop", "nowhere", "--stop", stop]].concat());
    assert_eq!(stopped["text"], whole[..whole.find(stop).unwrap()]);
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    let model = small();
    let with = |seed, threads| {
        let sampling = ["--temperature", "0.9", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.01"];
        let args = ["run", arg(&model), "In the year", "--max-tokens", "24", "--seed", seed, "--threads", threads];
        stdout(&[args.as_slice(), &sampling, &["--repetition-penalty", "1.1"]].concat())
    };
    let first = with("3", "1");
    assert_eq!(with("3", "2"), first);
    assert_eq!(with("3", "3"), first);
    assert_ne!(with("4", "2"), first);
}

#[test]
fn a_drawn_seed_is_told_and_gives_the_same_text() {
    let model = small();
    let args = ["run", arg(&model), "In the year", "--max-tokens", "24", "--temperature", "1"];
    let output = output(&args);
    let stderr = text(&output.stderr);
    let seed = stderr.lines().find_map(|line| line.strip_prefix("seed")).unwrap().trim().to_owned();
    assert_eq!(stdout(&[args.as_slice(), &["--seed", &seed]].concat()), text(&output.stdout));
}

#[test]
fn sampling_defaults_come_from_the_model() {
    let folder = copy("bloom-tiny");
    edit_json(&folder.path().join("generation_config.json"), |config| {
        config["do_sample"] = true.into();
        config["temperature"] = 5.0.into();
    });
    let args = ["run", arg(folder.path()), "Hello", "--max-tokens", "24", "--ignore-eos"];
    let with = |more: &[&str]| stdout(&[args.as_slice(), more].concat());
    assert_ne!(with(&["--seed", "1"]), with(&["--seed", "2"]));
    assert_eq!(with(&["--seed", "1", "--temperature", "0"]), with(&["--seed", "2", "--temperature", "0"]));
}

#[test]
fn a_model_says_how_long_its_texts_are() {
    let folder = copy("bloom-tiny");
    edit_json(&folder.path().join("generation_config.json"), |config| config["max_new_tokens"] = 5.into());
    let tokens = |more: &[&str]| {
        let args = ["run", arg(folder.path()), "Hello", "--ignore-eos", "--json"];
        json(&[args.as_slice(), more].concat())["timings"]["generated_tokens"].clone()
    };
    assert_eq!((tokens(&[]), tokens(&["--max-tokens", "7"])), (5.into(), 7.into()));
}

#[test]
fn the_end_of_text_token_ends_the_text_unless_ignored() {
    let folder = copy("bloom-tiny");
    let prompt = prompt("bloom-tiny");
    let ids = integers(&golden("bloom-tiny"), "greedy.single");
    let end = ids[ids.len() - 30];
    edit_json(&folder.path().join("generation_config.json"), |config| config["eos_token_id"] = vec![end].into());
    let args = ["run", arg(folder.path()), &prompt, "--max-tokens", "32", "--json"];
    let ended = json(&args);
    assert_eq!(ended["finish_reason"], "stop");
    assert_eq!(ended["token_ids"].as_array().unwrap().last().unwrap(), end);
    let ignored = json(&[args.as_slice(), &["--ignore-eos"]].concat());
    assert_eq!(ignored["token_ids"].as_array().unwrap().len(), 32);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = bouquet()
        .args(["run", arg(&small()), "The city", "--max-tokens", "20000", "--ctx", "20100", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Dropping the reader after a byte closes the pipe.
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn the_demo_shows_texts_and_what_to_type_next() {
    let shown = stdout(&["demo", "--steps", "2"]);
    let next = "bouquet run models/bloom-small-trained";
    let learned = ["2 steps", "before", "after", "Chinese", "Ein Hund", "[killed]", "the same text as alone"];
    for words in
        ["in int8", "English", "French", "tokens/s", "The limits here", "same bits", next].iter().chain(&learned)
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let object = json(&["demo", "--json", "--model", "models/bloom-small-trained", "--threads", "1"]);
    assert_eq!(object["same_bits"]["compared"], object["same_bits"]["equal"]);
    assert!(object["same_bits"]["compared"].as_u64() > Some(8192));
    let ways = object["same_bits"]["computed"].as_array().unwrap();
    assert!(ways[0][1] == 1 && ways[1][1] == 2 && ways[3][0] == "scalar", "{ways:?}");
    assert_eq!(object["encoding"], "int8");
    for limit in ["gb_per_sec", "gop_per_sec"] {
        assert!(object["speed"][limit].as_f64() > Some(0.0) && object["speed"]["limits"][limit].as_f64() > Some(0.0));
    }
    for told in object["texts"].as_array().unwrap() {
        assert!(shown.contains(told["text"].as_str().unwrap()), "the same text, whatever the threads");
    }
}

#[test]
fn the_demo_finds_its_model_from_anywhere() {
    let elsewhere = tempfile::tempdir().unwrap();
    let output = bouquet().current_dir(elsewhere.path()).args(["demo", "--json", "--steps", "0"]).output().unwrap();
    // Where the target folder is outside of the repository, nothing leads to the model, and that is said.
    let inside = std::path::Path::new(env!("CARGO_BIN_EXE_bouquet")).starts_with(root());
    assert_eq!(output.status.code(), Some(if inside { 0 } else { 1 }), "{}", text(&output.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_find_no_room_are_an_error_and_a_closed_pipe_is_none() {
    for args in [&["--help"][..], &["help", "run"], &["bench", "-h"], &["--version"], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bouquet().args(args).stdout(full).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr.starts_with("error: cannot write to standard output: "), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 2, "{args:?}: {stderr}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bouquet().args(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn completions_and_version_and_help_are_printed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&["completions", shell]).contains("bouquet"), "{shell}");
    }
    assert_eq!(stdout(&["--version"]), format!("bouquet {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["demo", "run", "perplexity", "inspect", "bench", "compare", "doctor", "forward", "completions"] {
        assert!(stdout(&["--help"]).contains(command));
        assert!(stdout(&[command, "--help"]).contains("Usage: bouquet"));
    }
}

/// The names that a help lists as commands.
fn commands_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn no_line_of_help_is_wider_than_100_columns() {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut looked_at = 0;
    while let Some(command) = commands.pop() {
        for flag in ["-h", "--help"] {
            let args: Vec<&str> = command.iter().map(String::as_str).chain([flag]).collect();
            let help = stdout(&args);
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{args:?}: {line}");
            }
            if flag == "--help" {
                commands.extend(commands_in(&help).into_iter().map(|name| [command.as_slice(), &[name]].concat()));
            }
        }
        looked_at += 1;
    }
    assert!(looked_at > 15, "{looked_at}");
}
