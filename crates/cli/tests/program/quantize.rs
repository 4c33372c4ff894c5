//! `bouquet quantize`, and what becomes of the folders that it writes.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_folder_is_written_that_every_command_opens() {
    let room = tempfile::tempdir().unwrap();
    let (small, text_file) = (small(), room.path().join("text.txt"));
    fs::write(&text_file, "The committee approved the plan on Tuesday, and the work will begin in March.").unwrap();
    let perplexity = |folder: &Path, encoding: &str| {
        json(&["perplexity", arg(folder), arg(&text_file), "--window", "8", "--encoding", encoding, "--json"])["mean_nll"]
            .as_f64()
            .unwrap()
    };
    let floats = perplexity(&small, "f32");
    for (encoding, more, bound) in
        [("int8", vec![], 0.02), ("nf4", vec!["--double"], 0.4), ("int4", vec!["--embedding", "int4"], 0.4)]
    {
        let out = room.path().join(encoding);
        let flags = [&["quantize", arg(&small), "--encoding", encoding, "-o", arg(&out), "--json"], &more[..]].concat();
        let dry = json(&[&flags[..], &["--dry-run"]].concat());
        assert!(!out.exists());
        let written = json(&flags);
        assert_eq!((&dry["weight_bytes"], &dry["written"]), (&written["weight_bytes"], &json!(false)));
        assert_eq!(written["opens_in_transformers"], encoding != "int4");
        let size = fs::metadata(out.join("model.safetensors")).unwrap().len();
        let planned = written["weight_bytes"].as_u64().unwrap();
        assert!(size > planned && size < planned + 50_000, "{size} for {planned}");

        // What is encoded at load and what was encoded before are the same.
        let answer = |folder: &Path| {
            json(&["run", arg(folder), "The committee", "--max-tokens", "12", "--encoding", encoding, "--json"])["text"]
                .take()
        };
        if encoding != "nf4" {
            assert_eq!(answer(&out), answer(&small), "{encoding}");
        }
        // Without --encoding, run takes the codes, and perplexity computes in f32.
        let usual = json(&["run", arg(&out), "The committee", "--max-tokens", "12", "--json"])["text"].take();
        assert_eq!(usual, answer(&out));
        let decoded = json(&["perplexity", arg(&out), arg(&text_file), "--window", "8", "--json"]);
        assert_eq!(decoded["encoding"], "f32");
        for found in [decoded["mean_nll"].as_f64().unwrap(), perplexity(&out, encoding)] {
            assert!((found - floats).abs() < bound, "{encoding}: {found}, and {floats} in f32");
        }
        refused(&["quantize", arg(&out), "--encoding", "int8", "-o", arg(&room.path().join("x"))], 1, "already");
    }
    assert_eq!(entries(room.path()), 4);
}

#[test]
fn what_cannot_be_written_is_refused_in_a_sentence() {
    let room = tempfile::tempdir().unwrap();
    let (model, taken) = (tiny("bloom-tiny"), room.path().join("taken"));
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("mine"), "").unwrap();
    let quantize = |more: &[&str], code, what| {
        refused(&[&["quantize", arg(&model), "--encoding", "int8"], more].concat(), code, what);
    };
    quantize(&["-o", arg(&taken)], 2, "is there already, and not empty");
    quantize(&["-o", arg(&taken.join("mine"))], 2, "no folder");
    quantize(&["-o", arg(&room.path().join("a/b"))], 1, "cannot write");
    quantize(&["-o", arg(&room.path().join("x")), "--double"], 2, "--double is for nf4");
    quantize(&["-o", arg(&room.path().join("x")), "--max-shard-size", "0"], 2, "like 5GB");
    quantize(&["-o", arg(&room.path().join("x")), "--embedding", "nf4"], 2, "invalid value 'nf4'");
    assert_eq!((entries(room.path()), entries(&taken)), (1, 1));
}

/// A limit on the length of files stands for a full disk: the error comes from a write half way.
#[cfg(unix)]
#[test]
fn a_disk_without_room_for_the_first_unit_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_bouquet")]);
    command.args(["quantize", arg(&small()), "--encoding", "int8", "-o", arg(&out)]).current_dir(root());
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with(&format!("error: cannot write {}: ", arg(&out))), "{stderr}");
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert_eq!(entries(room.path()), 0);
}

/// The same after the embedding and some blocks: hours of work, in a larger model.
#[cfg(unix)]
#[test]
fn what_is_finished_when_a_disk_is_full_is_gone_on_with() {
    let room = tempfile::tempdir().unwrap();
    let (out, undisturbed) = (room.path().join("out"), room.path().join("undisturbed"));
    let flags =
        |out: &Path| ["quantize", arg(&small()), "--encoding", "int8", "-o", arg(out), "--json"].map(str::to_owned);
    let whole: Value = serde_json::from_slice(&bouquet().args(flags(&undisturbed)).output().unwrap().stdout).unwrap();
    // In blocks of 512 bytes; the last tenth does not fit.
    let limit = whole["weight_bytes"].as_u64().unwrap() * 9 / 10 / 512;
    let script = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_bouquet")]).args(flags(&out)).current_dir(root());
    let full = command.output().unwrap();
    let stderr = text(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with(&format!("error: cannot write {}: ", arg(&out))), "{stderr}");
    assert!(stderr.lines().count() == 2 && stderr.contains("goes on from what is finished"), "{stderr}");
    assert!(!out.exists());
    let resumed: Value = serde_json::from_slice(&bouquet().args(flags(&out)).output().unwrap().stdout).unwrap();
    assert!(resumed["resumed_bytes"].as_u64() > whole["weight_bytes"].as_u64().map(|bytes| bytes / 2), "{resumed}");
    for entry in fs::read_dir(&undisturbed).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(fs::read(out.join(&name)).unwrap() == fs::read(undisturbed.join(&name)).unwrap(), "{name:?}");
    }
    assert_eq!(entries(room.path()), 2);
}

/// Killed at different times, and started again until it is whole.
#[cfg(unix)]
#[test]
fn a_program_that_is_killed_goes_on() {
    let room = tempfile::tempdir().unwrap();
    let (out, undisturbed) = (room.path().join("out"), room.path().join("undisturbed"));
    let flags = |out: &Path| {
        ["quantize", arg(&small()), "--encoding", "nf4", "--max-shard-size", "300KB", "-o", arg(out), "--json"]
            .map(str::to_owned)
    };
    let (mut kills, mut resumed) = (0, Value::Null);
    while !out.exists() && kills < 100 {
        let mut child = bouquet().args(flags(&out)).stdout(Stdio::piped()).spawn().unwrap();
        let (start, patience) = (Instant::now(), Duration::from_millis(20 * (kills + 1)));
        while start.elapsed() < patience && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            resumed = serde_json::from_slice::<Value>(&output.stdout).unwrap()["resumed_bytes"].take();
        } else {
            assert!(!out.exists(), "half a folder has its name");
            kills += 1;
        }
    }
    assert!(out.exists() && resumed.as_u64().is_some_and(|bytes| bytes > 0), "{kills} kills, {resumed} resumed");
    assert!(bouquet().args(flags(&undisturbed)).output().unwrap().status.success());
    for entry in fs::read_dir(&undisturbed).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(fs::read(out.join(&name)).unwrap() == fs::read(undisturbed.join(&name)).unwrap(), "{name:?}");
    }
    assert_eq!((entries(&out), entries(room.path())), (entries(&undisturbed), 2));
}
