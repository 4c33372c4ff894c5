//! Running the binary, and the models to run it on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A tiny model.
pub(crate) fn tiny(name: &str) -> PathBuf {
    root().join("tests/fixtures/models").join(name)
}

/// One of the models that were made for this repository.
pub(crate) fn made(name: &str) -> PathBuf {
    root().join("tests/fixtures/families/models").join(name)
}

/// The model of the demo.
pub(crate) fn small() -> PathBuf {
    root().join("models/bloom-small-trained")
}

/// The binary, in the repository, without colours, a network or a cache of models.
pub(crate) fn bouquet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bouquet"));
    alone(&mut command);
    command
}

/// What the binary does with arguments.
pub(crate) fn output(args: &[&str]) -> Output {
    bouquet().args(args).output().unwrap()
}

/// The same with something on standard input.
pub(crate) fn output_with_stdin(args: &[&str], stdin: &[u8]) -> Output {
    let mut command = bouquet();
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// What it prints when all goes well.
pub(crate) fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The same as JSON.
pub(crate) fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// Holds that a request is refused: the exit code, one sentence that says `what`, a hint, nothing on standard output.
pub(crate) fn refused(args: &[&str], code: i32, what: &str) {
    let output = limited(args).output().unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    assert!(stderr.lines().next().unwrap().contains(what), "{args:?} should say {what:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{args:?}: {stderr}");
    if code == 1 {
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{args:?}: {stderr}");
        assert!(lines[1].starts_with("hint: "), "{args:?}: {stderr}");
    }
}

/// The binary where it may not reserve much address space: what a file claims to hold is not taken on trust.
fn limited(args: &[&str]) -> Command {
    if cfg!(not(target_os = "linux")) {
        let mut command = bouquet();
        command.args(args);
        return command;
    }
    within(2_000_000, args)
}

/// The binary with so much address space.
pub(crate) fn within(kilobytes: u32, args: &[&str]) -> Command {
    let script = format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_bouquet")]).args(args);
    alone(&mut command);
    command
}

/// What `--isa` takes on this machine.
pub(crate) fn instruction_sets() -> Vec<&'static str> {
    let found = json(&["doctor", "--json"])["instruction_sets"].clone();
    let found: Vec<&str> = found.as_array().unwrap().iter().map(|isa| isa.as_str().unwrap()).collect();
    let all = ["scalar", "avx2", "avxvnni", "avx512", "amx", "neon"];
    all.into_iter().filter(|isa| found.contains(isa)).collect()
}

/// In the repository, with nothing to read, no network and no cache of models.
fn alone(command: &mut Command) {
    command.current_dir(root()).stdin(Stdio::null()).env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cache"));
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("caches"));
}

/// A copy of a tiny model that can be broken.
pub(crate) fn copy(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Rewrites a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// A tensor of floats: its shape and numbers.
pub(crate) fn floats(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
    let numbers = tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (tensor.shape().to_vec(), numbers.collect())
}

/// A tensor of whole numbers.
pub(crate) fn integers(file: &[u8], name: &str) -> Vec<i64> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{name}");
    tensor.data().chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// What transformers computed.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    std::fs::read(of_golden(name, "safetensors")).unwrap()
}

/// A file of a golden, wherever its model is.
fn of_golden(name: &str, ending: &str) -> PathBuf {
    let places = ["tests/fixtures/goldens", "tests/fixtures/families/goldens"];
    let files = places.map(|place| root().join(place).join(format!("{name}.{ending}")));
    files.into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("no golden of {name}"))
}

/// The manifest beside it.
pub(crate) fn manifest(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(of_golden(name, "json")).unwrap()).unwrap()
}

/// The first of a golden's texts, which `single` and `greedy.single` are of.
pub(crate) fn prompt(name: &str) -> String {
    match manifest(name)["texts"].as_array() {
        Some(texts) => texts[0].as_str().unwrap().to_owned(),
        None => "The committee approved the plan on Tuesday, and the work will begin in March.".to_owned(),
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
