//! Models by their names on a hub, with a hub on this machine.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::*;
use crate::server::{self, Reply, Server};
use crate::tiny_gguf::TinyGguf;

/// A hub with a tiny model, and an empty cache.
struct Hub {
    server: Server,
    cache: TempDir,
}

/// The weights of a model that nobody opens.
const WEIGHTS_BYTES: usize = 3 << 20;

impl Hub {
    fn new(files: &[(&str, &[u8])]) -> Hub {
        Hub { server: Server::new("org/name", files), cache: tempfile::tempdir().unwrap() }
    }

    /// A model of the fixtures, with a pickle that must not be fetched.
    fn tiny() -> Hub {
        let mut files = vec![("pytorch_model.bin".to_owned(), b"pickle".to_vec())];
        for entry in fs::read_dir(tiny("bloom-tiny")).unwrap() {
            let path = entry.unwrap().path();
            files.push((path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        Hub::new(&files)
    }

    /// Weights of some length, which stop coming after `cut` bytes until somebody says otherwise.
    fn stalled(cut: usize) -> Hub {
        let weights: Vec<u8> = (0..WEIGHTS_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let hub = Hub::new(&[("config.json", b"{}"), ("model.safetensors", &weights)]);
        hub.server.behave(move |request, reply| {
            if request.is_cdn {
                (reply.cut, reply.silent) = (Some(cut), true);
            }
        });
        hub
    }

    fn env(&self, command: &mut Command) {
        command.env_remove("HF_HUB_OFFLINE");
        command.env("HF_ENDPOINT", self.server.address()).env("HF_HOME", self.cache.path());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = bouquet();
        command.args(args);
        self.env(&mut command);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn stdout(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Holds that it is refused, with a sentence and a hint.
    fn refused(&self, args: &[&str], what: &str, hint: &str) {
        refused_with(&self.output(args), what, hint);
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("hub/models--org--name")
    }

    /// What has come of the weights.
    fn part_bytes(&self) -> u64 {
        let parts = fs::read_dir(self.repository().join("blobs")).into_iter().flatten().filter_map(|entry| {
            let path = entry.unwrap().path();
            // It may get its name at any time.
            path.extension()
                .is_some_and(|ending| ending == "incomplete")
                .then(|| path.metadata().map_or(0, |part| part.len()))
        });
        parts.sum()
    }

    /// Holds that the next try fetches no more than what is missing, and ends with the whole.
    fn goes_on(&self, from: u64) {
        let offline = self.command(&["inspect", "org/name"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        refused_with(&offline, "is not in the cache", "bouquet pull org/name");
        self.server.behave(|_, _| {});
        self.server.requests();
        let folder = self.stdout(&["pull", "org/name"]);
        let range = format!("bytes={from}-");
        assert!(self.server.requests().iter().any(|request| request.range.as_deref() == Some(range.as_str())));
        let weights = fs::metadata(PathBuf::from(folder.trim()).join("model.safetensors")).unwrap();
        assert_eq!(weights.len(), WEIGHTS_BYTES as u64);
        assert_eq!(self.part_bytes(), 0);
    }
}

fn refused_with(output: &Output, what: &str, hint: &str) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stdout, "");
    let lines: Vec<&str> = stderr.lines().skip_while(|line| line.starts_with("fetching ")).collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(what), "{what:?}: {stderr}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{hint:?}: {stderr}");
}

#[test]
fn a_name_is_as_good_as_a_folder() {
    let hub = Hub::tiny();
    let folder = tiny("bloom-tiny");
    let run = |model: &str| ["run", model, "The committee", "--max-tokens", "5"].map(str::to_owned);
    let from_folder = stdout(&run(arg(&folder)).each_ref().map(String::as_str));
    let command = run("org/name");
    let command = command.each_ref().map(String::as_str);
    let first = hub.output(&command);
    assert!(text(&first.stderr).starts_with("fetching org/name from 127.0.0.1"), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout), from_folder);
    assert!(hub.server.requests().iter().all(|request| !request.path.ends_with(".bin")));

    assert_eq!(hub.stdout(&command), from_folder);
    assert!(hub.stdout(&["inspect", "org/name@main"]).contains("bloom"));
    let at_commit = format!("org/name@{}", server::COMMIT);
    assert!(hub.stdout(&["inspect", &at_commit]).contains("bloom"));
    assert!(hub.server.requests().is_empty(), "a cached model needs no network");
}

#[test]
fn what_would_be_fetched_is_said_before_anything_is() {
    let hub = Hub::tiny();
    let dry: serde_json::Value =
        serde_json::from_str(&hub.stdout(&["pull", "org/name", "--dry-run", "--json"])).unwrap();
    assert_eq!((&dry["commit"], &dry["dry_run"]), (&server::COMMIT.into(), &true.into()));
    let files: Vec<&str> = dry["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert!(files.contains(&"config.json") && !files.contains(&"pytorch_model.bin"), "{files:?}");
    let bytes = files.iter().map(|file| fs::metadata(tiny("bloom-tiny").join(file)).unwrap().len()).sum::<u64>();
    assert_eq!((dry["bytes"].as_u64(), dry["bytes_to_come"].as_u64()), (Some(bytes), Some(bytes)));
    assert!(hub.stdout(&["pull", "org/name", "--dry-run"]).contains("would be fetched"));
    assert!(!hub.cache.path().join("hub").exists(), "nothing was written");

    let folder = hub.stdout(&["pull", "org/name"]);
    assert_eq!(dry["folder"], folder.trim());
    let again: serde_json::Value = serde_json::from_str(&hub.stdout(&["pull", "org/name", "--json"])).unwrap();
    assert_eq!((&again["files"], &again["bytes"]), (&serde_json::json!([]), &0.into()));
    assert!(hub.stdout(&["pull", "org/name", "--dry-run"]).starts_with("Nothing to fetch"));
}

/// A repository of GGUF files, as most are that have any: one for each way to store the weights.
fn gguf_hub() -> Hub {
    let whole = TinyGguf::new().bytes();
    let lies: [(&str, &[u8]); 4] = [
        ("mmproj-F16.gguf", b"pictures"),
        ("Q8_0/tiny-Q8_0-00001-of-00002.gguf", b"one"),
        ("Q8_0/tiny-Q8_0-00002-of-00002.gguf", b"two"),
        ("tiny-imatrix.gguf", b"statistics"),
    ];
    Hub::new(&[&lies[..], &[("tiny-F32.gguf", &whole), ("tiny.Q4_K_M.gguf", &whole)]].concat())
}

#[test]
fn a_gguf_file_is_named_behind_a_colon() {
    let hub = gguf_hub();
    let first = hub.output(&["inspect", "org/name:f32", "--json"]);
    assert!(text(&first.stderr).starts_with("fetching org/name:f32 from 127.0.0.1"), "{}", text(&first.stderr));
    let model: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(model["family"], "llama", "{model}");
    assert!(hub.server.requests().iter().all(|request| !request.path.contains("Q4_K_M")));

    let offline = hub.command(&["run", "org/name:F32", "x", "--max-tokens", "2"]).env("HF_HUB_OFFLINE", "1").output();
    assert!(offline.as_ref().unwrap().status.success(), "{}", text(&offline.unwrap().stderr));
    hub.stdout(&["inspect", "org/name@main:tiny-F32.gguf"]);
    hub.stdout(&["bench", "org/name:F32", "--dry-run"]);
    assert!(hub.server.requests().is_empty(), "a cached file needs no network");

    let path = PathBuf::from(hub.stdout(&["pull", "org/name:q8_0"]).trim());
    assert!(path.ends_with("Q8_0/tiny-Q8_0-00001-of-00002.gguf"), "{}", path.display());
    assert_eq!(fs::read(path.with_file_name("tiny-Q8_0-00002-of-00002.gguf")).unwrap(), b"two");
    hub.refused(&["run", "org/name:Q5_K_M", "x"], "org/name has no GGUF file Q5_K_M: it has F32, Q4_K_M, Q8_0", ":F32");
    hub.refused(&["bench", "org/name:Q4_K_M", "--dry-run"], "org/name:Q4_K_M is not in the cache", "bouquet pull");
}

#[test]
fn of_a_repository_of_gguf_files_the_usual_one_is_taken_and_said() {
    let hub = gguf_hub();
    let dry = hub.stdout(&["pull", "org/name", "--dry-run"]);
    assert!(dry.contains("tiny.Q4_K_M.gguf") && !dry.contains("F32") && !dry.contains("mmproj"), "{dry}");
    let json: serde_json::Value =
        serde_json::from_str(&hub.stdout(&["pull", "org/name:Q8_0", "--dry-run", "--json"])).unwrap();
    let files: Vec<&str> =
        json["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["Q8_0/tiny-Q8_0-00001-of-00002.gguf", "Q8_0/tiny-Q8_0-00002-of-00002.gguf"]);
    assert_eq!((&json["choice"], &json["name"]), (&"Q8_0".into(), &"org/name".into()));
    assert!(json["model"].as_str().unwrap().ends_with("00001-of-00002.gguf"));
    assert!(!hub.cache.path().join("hub").exists(), "nothing was written");

    for _ in 0..2 {
        let run = hub.output(&["run", "org/name", "x", "--max-tokens", "2"]);
        assert!(run.status.success(), "{}", text(&run.stderr));
        let said = "of org/name, tiny.Q4_K_M.gguf is taken; org/name:Q8_0, say, means another";
        assert!(text(&run.stderr).contains(said), "{}", text(&run.stderr));
    }
    let sizes = Hub::new(&[("a-1B-Q8_0.gguf", b"1"), ("a-3B-Q8_0.gguf", b"3")]);
    let several = "org/name has several GGUF files that may be meant: 1B-Q8_0, 3B-Q8_0";
    sizes.refused(&["run", "org/name", "x"], several, "say which one: org/name:1B-Q8_0");
}

/// What is on the disk goes first, whatever its name looks like.
#[cfg(unix)]
#[test]
fn a_file_with_a_colon_in_its_name_is_that_file() {
    let (hub, room) = (gguf_hub(), tempfile::tempdir().unwrap());
    fs::create_dir(room.path().join("org")).unwrap();
    fs::write(room.path().join("org/name:tiny.gguf"), TinyGguf::new().bytes()).unwrap();
    let inspect = hub.command(&["inspect", "org/name:tiny.gguf"]).current_dir(room.path()).output().unwrap();
    assert!(inspect.status.success(), "{}", text(&inspect.stderr));
    assert!(hub.server.requests().is_empty());
    for wrong in ["org/name:", "org/name:Q4_K_M@main", "org/name:a b", "C:\\models\\tiny.gguf"] {
        assert_eq!(hub.output(&["pull", wrong]).status.code(), Some(2), "{wrong:?}");
    }
}

/// A dry run that fetched gigabytes would be the opposite of one.
#[test]
fn a_dry_run_fetches_nothing_and_tells_of_what_the_cache_has() {
    let hub = Hub::tiny();
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    let bench = ["bench", "org/name", "--dry-run"];
    let quantize = ["quantize", "org/name", "--encoding", "int8", "-o", arg(&out), "--dry-run"];
    for args in [&bench[..], &quantize] {
        hub.refused(args, "org/name is not in the cache", "bouquet pull org/name --dry-run");
    }
    assert!(hub.server.requests().is_empty() && !hub.cache.path().join("hub").exists(), "nothing was asked or written");
    hub.stdout(&["pull", "org/name"]);
    hub.server.requests();
    assert!(hub.stdout(&bench).contains("free memory") && hub.stdout(&quantize).contains("would have"));
    assert!(hub.server.requests().is_empty() && !out.exists());
}

#[test]
fn what_cannot_be_fetched_says_why_and_what_to_try() {
    let hub = Hub::tiny();
    hub.refused(&["pull", "org/other"], "has no model org/other", "check the name");
    hub.refused(&["run", "org/name@v2", "x"], "org/name has no revision v2", "leave the revision out");
    let offline = hub.command(&["run", "org/name", "x"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    refused_with(&offline, "the hub may not be asked (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE");
    let file = hub.cache.path().join("file");
    fs::write(&file, "").unwrap();
    let unwritable = hub.command(&["pull", "org/name"]).env("HF_HUB_CACHE", file.join("cache")).output().unwrap();
    refused_with(&unwritable, "cannot write", "HF_HUB_CACHE");
    let endpoint = hub.command(&["pull", "org/name"]).env("HF_ENDPOINT", "hub.example").output().unwrap();
    refused_with(&endpoint, "not the address of a hub", "HF_ENDPOINT");
    let pickled = Hub::new(&[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")]);
    pickled.refused(&["inspect", "org/name"], "only pickled weights (pytorch_model.bin)", "safetensors");
    pickled.server.behave(|_, reply| *reply = Reply::error(403, "GatedRepo"));
    pickled.refused(&["pull", "org/name"], "gated", "HF_TOKEN");
    pickled.server.behave(|_, reply| *reply = Reply::whole(b"<html>log in".to_vec()));
    pickled.refused(&["pull", "org/name"], "something wrong for the list of files", "a proxy");
    for name in ["bloom", "a/b/c", "org/name@../x", ""] {
        assert_eq!(hub.output(&["pull", name]).status.code(), Some(2), "{name:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_keeps_what_came() {
    let hub = Hub::stalled(WEIGHTS_BYTES);
    hub.server.behave(|_, _| {});
    let mut command = Command::new("sh");
    // In units of 512 bytes: half of the weights.
    let limit = format!("ulimit -f {}; exec \"$0\" pull org/name", WEIGHTS_BYTES / 1024);
    command.args(["-c", &limit, env!("CARGO_BIN_EXE_bouquet")]).stdin(Stdio::null());
    hub.env(&mut command);
    refused_with(&command.output().unwrap(), "cannot write", "make room");
    let came = hub.part_bytes();
    assert!(came > 0 && came < WEIGHTS_BYTES as u64, "{came}");
    hub.goes_on(came);
}

#[cfg(unix)]
#[test]
fn a_download_that_is_ended_goes_on_the_next_time() {
    for signal in ["-INT", "-KILL"] {
        let hub = Hub::stalled(1_000_000);
        let child = hub.command(&["pull", "org/name"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while hub.part_bytes() < 1_000_000 {
            std::thread::yield_now();
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130));
            assert!(text(&output.stderr).contains("the next try goes on"), "{}", text(&output.stderr));
        }
        hub.goes_on(1_000_000);
    }
}
