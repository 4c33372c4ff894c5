//! What was asked wrongly ends with code 2, and prompts and data that do not fit with code 1.

use crate::harness::*;

#[test]
fn flags_that_mean_nothing_are_code_2() {
    let model = tiny("bloom-tiny");
    let model = arg(&model);
    for (args, what) in [
        (vec!["run", model, "x", "--temperature", "-1"], "--temperature"),
        (vec!["run", model, "x", "--temperature", "warm"], "--temperature"),
        (vec!["run", model, "x", "--top-p", "1.5"], "--top-p"),
        (vec!["run", model, "x", "--min-p", "-0.1"], "--min-p"),
        (vec!["run", model, "x", "--repetition-penalty", "0"], "--repetition-penalty"),
        (vec!["run", model, "x", "--threads", "0"], "--threads"),
        (vec!["run", model, "x", "--ctx", "0"], "--ctx"),
        (vec!["run", model, "x", "--max-tokens", "-3"], "-3"),
        (vec!["run", model, "x", "--stop", ""], "--stop"),
        (vec!["run", model, "x", "--file", "y"], "--file"),
        (vec!["run", model, "x", "--temperature", "0", "--top-k", "5"], "--top-k"),
        (vec!["run", model, "x", "--frequency-penalty", "1"], "--frequency-penalty"),
        (vec!["run"], "not provided"),
        (vec!["forward", model, "--text", "x"], "not provided"),
        (vec!["forward", model, "-o", "/tmp/x"], "not provided"),
        (vec!["forward", model, "--text", "x", "--token-ids", "y", "-o", "/tmp/x"], "--t"),
        (vec!["perplexity", model, "y", "--window", "1"], "--window"),
        (vec!["perplexity", model, "y", "--max-windows", "0"], "--max-windows"),
        (vec!["completions", "cmd"], "cmd"),
        (vec!["bloom"], "bloom"),
    ] {
        refused(&args, 2, what);
    }
    let llama = tiny("llama-tiny");
    refused(&["run", arg(&llama), "x", "--ctx", "1000000"], 2, "--ctx 1000000");
    let text = root().join("README.md");
    refused(&["perplexity", arg(&llama), arg(&text), "--window", "513"], 2, "--window 513");
    refused(&["run", model, ""], 2, "the prompt is empty");
    let folder = tempfile::tempdir().unwrap();
    refused(&["forward", model, "--text", "", "-o", arg(&folder.path().join("out"))], 2, "no tokens");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn unknown_encodings_are_refused_with_those_that_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (tiny("bloom-tiny"), folder.path().join("out"));
    let args = ["forward", arg(&model), "--text", "x", "--encoding", "int3", "-o", arg(&out)];
    refused(&args, 2, "int3");
    assert!(text(&output(&args).stderr).contains("f32"));
}

#[test]
fn prompts_that_do_not_fit_are_code_1() {
    let model = tiny("bloom-tiny");
    let long = "word ".repeat(3000);
    refused(&["run", arg(&model), "a b c d e f", "--ctx", "3"], 1, "room for 3");
    refused(&["run", arg(&model), &long], 1, "room for 2048");
    refused(&["run", arg(&model), "--file", "/dev/null"], 1, "empty");
    let llama = tiny("llama-tiny");
    refused(&["run", arg(&llama), &long], 1, "room for");
    // More room is a hint only where the model has it.
    let hint = |args: &[&str]| text(&output(args).stderr).lines().nth(1).unwrap().to_owned();
    assert!(hint(&["run", arg(&model), &long]).contains("--ctx"));
    assert!(hint(&["run", arg(&llama), "a b c", "--ctx", "3"]).contains("--ctx"));
    let hint = hint(&["run", arg(&llama), &long]);
    assert!(hint.contains("512 positions") && !hint.contains("--ctx"), "{hint}");
    refused(&["run", arg(&model), "--file", "no/such/file"], 1, "no/such/file");
}

#[test]
fn a_prompt_that_is_certainly_too_long_is_not_cut_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt");
    std::fs::write(&file, "word ".repeat(2_000_000)).unwrap();
    for model in ["bloom-tiny", "llama-tiny"] {
        refused(&["run", arg(&tiny(model)), "--file", arg(&file)], 1, "tokens or more");
    }
}

#[test]
fn a_text_that_begins_with_a_hyphen_goes_behind_two() {
    let model = tiny("bloom-tiny");
    let refused = output(&["run", arg(&model), "- a list"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("run MODEL -- \"- a list\""), "{}", text(&refused.stderr));
    let typo = output(&["run", arg(&model), "a list", "--max-tokns", "3"]);
    assert!(!text(&typo.stderr).contains("a list"), "{}", text(&typo.stderr));
    stdout(&["run", arg(&model), "--max-tokens", "2", "--", "- a list"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_context_beyond_the_memory_is_refused_before_it_is_reserved() {
    let (model, most) = (small(), u32::MAX.to_string());
    refused(&["run", arg(&model), "x", "--ctx", &most, "--max-tokens", &most], 1, "does not fit");
}

/// The sequence that is asked for is all of the text, or all of the ids, and a BLOOM sets no limit of its own.
#[cfg(target_os = "linux")]
#[test]
fn a_sequence_beyond_the_memory_is_refused_before_it_is_computed() {
    const TOKENS: usize = 200_000;
    let folder = tempfile::tempdir().unwrap();
    let (model, file, ids) = (small(), folder.path().join("text.txt"), folder.path().join("ids.json"));
    let out = folder.path().join("out.safetensors");
    std::fs::write(&file, "a b ".repeat(TOKENS / 2)).unwrap();
    std::fs::write(&ids, format!("[{:?}]", vec![5; TOKENS])).unwrap();
    let start = std::time::Instant::now();
    refused(&["perplexity", arg(&model), arg(&file), "--window", "4000000000"], 1, "tokens at a time takes");
    refused(&["forward", arg(&model), "--token-ids", arg(&ids), "-o", arg(&out)], 1, "computing 200000 tokens");
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    assert!(!out.exists());
}

/// An allocation that fails ends the program with a signal. What weights, tokenizer and threads take while a model is
/// opened had not been counted.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_opening_a_model_takes_is_not_promised_to_computing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file, out) = (small(), folder.path().join("text.txt"), folder.path().join("out"));
    std::fs::write(&file, "The committee approved the plan. ".repeat(200)).unwrap();
    let commands = [
        vec!["run", arg(&model), "--file", arg(&file), "--max-tokens", "2"],
        vec!["perplexity", arg(&model), arg(&file), "--max-windows", "2"],
        vec!["bench", arg(&model), "--batch", "64", "-p", "16", "-n", "4", "-r", "1"],
        vec!["bench", "--shape", "bloom-560m", "--write", arg(&out)],
        vec!["doctor"],
    ];
    for kilobytes in [60_000, 80_000, 120_000, 150_000, 200_000, 250_000, 300_000, 400_000] {
        for (command, threads) in commands.iter().flat_map(|command| [(command, "1"), (command, "2")]) {
            let output = within(kilobytes, command).args(["--threads", threads]).output().unwrap();
            let stderr = text(&output.stderr);
            if output.status.success() && (kilobytes > 100_000 || command[0] == "doctor") {
                continue;
            }
            assert_eq!(output.status.code(), Some(1), "{command:?} in {kilobytes} kB: {stderr}");
            assert!(stderr.starts_with("error: ") && stderr.lines().count() == 2, "{kilobytes} kB: {stderr}");
        }
    }
}

#[test]
fn texts_that_are_no_text_are_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (tiny("bloom-tiny"), folder.path().join("text"));
    std::fs::write(&file, [0xFF, 0xFE, b'a']).unwrap();
    refused(&["run", arg(&model), "--file", arg(&file)], 1, "UTF-8");
    refused(&["perplexity", arg(&model), arg(&file)], 1, "UTF-8");
    std::fs::write(&file, "").unwrap();
    refused(&["perplexity", arg(&model), arg(&file)], 1, "0 tokens");
    refused(&["perplexity", arg(&model), arg(folder.path())], 1, "cannot read");
}

#[cfg(unix)]
#[test]
fn texts_without_end_are_not_read() {
    let (model, folder) = (tiny("bloom-tiny"), tempfile::tempdir().unwrap());
    let out = folder.path().join("out.safetensors");
    for args in [
        &["run", arg(&model), "--file", "/dev/zero"][..],
        &["perplexity", arg(&model), "/dev/zero"],
        &["forward", arg(&model), "--token-ids", "/dev/zero", "-o", arg(&out)],
    ] {
        refused(args, 1, "/dev/zero has more than 256 MiB");
    }
}

/// A pipe is as good as a file (`<(zcat text.gz)`), but opening one waits for somebody to write.
#[cfg(unix)]
#[test]
fn a_pipe_that_nobody_writes_to_is_waited_for_with_a_word() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let (model, pipe) = (tiny("bloom-tiny"), folder.path().join("pipe"));
    let out = folder.path().join("out.safetensors");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (args, content) in [
        (&["perplexity", arg(&model), arg(&pipe)][..], "The committee approved the plan."),
        (&["run", arg(&model), "--max-tokens", "2", "--file", arg(&pipe)], "The committee"),
        (&["forward", arg(&model), "-o", arg(&out), "--token-ids", arg(&pipe)], "[[1, 2, 3]]"),
    ] {
        let mut child = bouquet().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut word = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut word).unwrap();
        assert!(word.starts_with("waiting for what is written to ") && word.contains(arg(&pipe)), "{args:?}: {word}");
        std::fs::write(&pipe, content).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn token_ids_that_make_no_sense_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, ids) = (tiny("llama-tiny"), folder.path().join("ids.json"));
    let out = folder.path().join("out.safetensors");
    let long = format!("[{:?}]", vec![5; 1 << 20]);
    for (content, what) in [
        ("[[1, 2], [3, 512]]", "token id 512"),
        ("[[4294967295]]", "4294967295"),
        ("[]", "no sequences"),
        ("[[1], []]", "sequence 1"),
        ("[1, 2]", "array of arrays"),
        ("[[1.5]]", "array of arrays"),
        ("[[-1]]", "array of arrays"),
        ("[[1", "array of arrays"),
        ("{}", "array of arrays"),
        ("", "array of arrays"),
        (&long, "positions"),
    ] {
        std::fs::write(&ids, content).unwrap();
        refused(&["forward", arg(&model), "--token-ids", arg(&ids), "-o", arg(&out)], 1, what);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{content}");
    }
}

#[test]
fn places_that_cannot_be_written_are_refused_before_the_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/out.safetensors");
    refused(
        &["forward", "no-model", "--text", "x", "-o", arg(&missing)],
        1,
        &format!("cannot write {}", arg(&missing)),
    );
    let stderr = text(&output(&["forward", "no-model", "--text", "x", "-o", arg(&missing)]).stderr);
    assert!(!stderr.contains(".part"), "a temporary file is not the user's: {stderr}");
    refused(&["forward", "no-model", "--text", "x", "-o", arg(folder.path())], 2, "is a folder");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// `ulimit -f` sends a signal that ends a program which does not expect it.
#[cfg(unix)]
#[test]
fn a_file_beyond_the_limit_of_files_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (tiny("bloom-tiny"), folder.path().join("out.safetensors"));
    let script = "ulimit -f 8; exec \"$0\" \"$@\"";
    let limited = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_bouquet"), "forward", arg(&model), "-o", arg(&out)])
        .args(["--text", &"many words ".repeat(50)])
        .output()
        .unwrap();
    let stderr = text(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{:?} {stderr}", limited.status);
    assert!(stderr.starts_with(&format!("error: cannot write {}", arg(&out))), "{stderr}");
    assert!(stderr.contains("ulimit -f"), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
