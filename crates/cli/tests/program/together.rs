//! Machines that serve a model together: real processes on loopback, killed and frozen while they are used.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{small, tiny};

/// A folder for caches, and a way to run the program with it.
struct House(tempfile::TempDir);

/// A server, killed when it is dropped.
struct Server {
    process: Child,
    invite: String,
    ready: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl House {
    fn new() -> House {
        House(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bouquet"));
        command.args(args).env("XDG_CACHE_HOME", self.0.path()).env("LOCALAPPDATA", self.0.path());
        command.env("HOME", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints that goes well.
    fn prints(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn join(&self, args: &[&str]) -> Server {
        let flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1", "--json"];
        let mut command = self.command(&[&["join"], args, &flags].concat());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = process.wait_with_output().unwrap();
            panic!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        Server { process, invite: ready["invite"].as_str().unwrap().to_owned(), ready }
    }
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_family_is_served_as_it_runs_alone() {
    let house = House::new();
    let names = [
        "bloom-tiny",
        "llama-tiny",
        "llama3-rope-tiny",
        "mixtral-tiny",
        "qwen3-tiny",
        "falcon-tiny",
        "falcon-tiny-newarch",
        "opt-tiny",
        "opt-tiny-postln",
    ];
    for name in names {
        let model = tiny(name);
        let how = ["--raw", "--max-tokens", "12", "--seed", "3", "--temperature", "0.7"];
        let alone = house.prints(&[&["run", arg(&model), "Hello"], &how[..]].concat());
        let server = house.join(&[arg(&model), "--blocks", "0:1"]);
        let _other = house.join(&[&server.invite, "--model", arg(&model), "--blocks", "1:2"]);
        let together = house.prints(&[&["run", &server.invite, "Hello"], &how[..]].concat());
        assert_eq!(together, alone, "{name}");
    }
}

#[test]
fn a_text_is_the_same_whoever_is_killed_meanwhile() {
    let house = House::new();
    let model = small();
    let count = block_count(&house, &model);
    let (first, second) = (count / 3, 2 * count / 3);
    let how = ["Once upon a time", "--max-tokens", "160", "--threads", "1"];
    let alone = house.prints(&[&["run", arg(&model)], &how[..]].concat());
    let range = |from: usize, to: usize| format!("{from}:{to}");
    let founder = house.join(&[arg(&model), "--blocks", &range(0, first)]);
    let invite = founder.invite.clone();
    let join = |from, to| house.join(&[&invite, "--model", arg(&model), "--blocks", &range(from, to)]);
    // Everything is there twice, with other borders.
    let mut servers = vec![join(first, second), join(second, count), join(0, second), join(second - 1, count)];
    for round in 0..6 {
        let victim = round % servers.len();
        let running = house.command(&[&["run", &invite], &how[..]].concat()).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 45 * round as u64));
        drop(servers.remove(victim));
        let start = Instant::now();
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), alone, "round {round}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        let again = [(first, second), (second, count), (0, second), (second - 1, count)][victim];
        servers.insert(victim, join(again.0, again.1));
    }
}

/// How many blocks a model has.
fn block_count(house: &House, model: &Path) -> usize {
    let inspected: Value = serde_json::from_str(&house.prints(&["inspect", arg(model), "--json"])).unwrap();
    inspected["num_blocks"].as_u64().unwrap() as usize
}

#[cfg(unix)]
#[test]
fn a_server_leaves_with_a_word_and_is_listed_while_it_is_there() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let house = House::new();
    let model = tiny("bloom-tiny");
    let mut server = house.join(&[arg(&model), "--name", "office"]);
    assert_eq!(server.ready["blocks"], serde_json::json!([0, 2]));
    let status: Value = serde_json::from_str(&house.prints(&["swarm", "status", &server.invite, "--json"])).unwrap();
    assert_eq!(status["servers"][0]["name"], "office");
    assert_eq!(status["servers"][0]["peer_id"], server.ready["peer_id"]);
    assert_eq!(status["missing"], serde_json::json!([]));
    assert!(house.prints(&["swarm", "status", &server.invite]).contains("all 2 blocks are served"));
    kill(Pid::from_raw(server.process.id() as i32), Signal::SIGTERM).unwrap();
    assert!(server.process.wait().unwrap().success());
    let gone = house.run(&["run", &server.invite, "Hello"]);
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("does not answer") && said.contains("hint"), "{said}");
}

#[test]
fn what_is_no_invite_or_of_another_model_is_told() {
    let house = House::new();
    let server = house.join(&[arg(&tiny("bloom-tiny"))]);
    let cut = &server.invite[..server.invite.len() - 3];
    let other = tiny("llama-tiny");
    let cases: [(&[&str], i32, &str); 5] = [
        (&["run", cut, "Hello"], 2, "a part of it is missing"),
        (&["join", cut], 2, "a part of it is missing"),
        (&["join", &server.invite, "--model", arg(&other)], 1, "is not the model of this swarm"),
        (&["run", &server.invite, "Hello", "--encoding", "f32"], 2, "this swarm computes in"),
        (&["join", &server.invite, "--encoding", "f32"], 2, "a swarm has one encoding"),
    ];
    for (args, code, expected) in cases {
        let output = house.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(expected) && !said.contains("panicked"), "{args:?}: {said}");
    }
}
