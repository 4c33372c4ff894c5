//! Ctrl-C while something is computed.

use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::harness::*;

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// A text that would go on for a very long time.
fn endless(more: &[&str]) -> Child {
    let model = small();
    let args = ["run", arg(&model), "The city", "--max-tokens", "20000", "--ctx", "20100", "--ignore-eos"];
    bouquet().args(args).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_text_that_is_interrupted_is_what_there_is() {
    let mut child = endless(&[]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut shown = vec![0; 20];
    stdout.read_exact(&mut shown).unwrap();
    interrupt(&child);
    stdout.read_to_end(&mut shown).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&shown).ends_with('\n'));
    assert!(text(&output.stderr).contains("generation"), "{}", text(&output.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_object_says_so() {
    // It shows nothing before its end: another run, begun at the same time, shows how far this one is, too.
    let mut beside = endless(&[]);
    let child = endless(&["--json"]);
    let mut shown = BufReader::new(beside.stdout.take().unwrap());
    shown.read_exact(&mut [0; 200]).unwrap();
    beside.kill().unwrap();
    beside.wait().unwrap();
    while !catches_interrupts(&child) {
        std::thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["finish_reason"], "cancelled");
    assert!(object["token_ids"].as_array().unwrap().len() < 20_000);
}

/// Whether a process has its handler for Ctrl-C in place.
#[cfg(target_os = "linux")]
fn catches_interrupts(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    // Signals count from 1, and this is the second.
    u64::from_str_radix(mask.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn a_file_that_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.json");
    std::fs::write(&ids, format!("{:?}", vec![vec![5; 1000]; 100])).unwrap();
    let out = tempfile::tempdir().unwrap();
    let args = ["forward", arg(&small()), "--token-ids", arg(&ids)].map(str::to_owned);
    let target = out.path().join("out.safetensors");
    let child =
        bouquet().args(args).args(["-o", arg(&target)]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Until it has begun to write.
    let begun = || std::fs::read_dir(out.path()).unwrap().any(|entry| entry.unwrap().metadata().unwrap().len() > 0);
    while !begun() {
        std::thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
