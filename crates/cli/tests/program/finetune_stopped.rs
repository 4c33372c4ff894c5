//! `bouquet finetune` under Ctrl-C: it ends at once, keeps what is done, and goes on to the bits of a run that was left
//! alone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::finetune::{adapter, arguments, losses, pairs, run};
use crate::harness::*;

/// Begins a run, interrupts it once so many lines are in its metrics, and waits for its end.
fn interrupted(arguments: &[String], folder: &Path, lines: usize) -> Output {
    let mut child: Child = bouquet().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let done = || fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default().lines().count();
    while done() < lines {
        assert!(child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(300), "no step came");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

/// Holds that a run ended as it should when it is interrupted, with all that it takes to go on.
fn assert_stopped(output: &Output, folder: &Path) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("the same command with --resume goes on"), "{stderr}");
    assert!(folder.join("checkpoint.safetensors").exists() && !folder.join("summary.json").exists());
}

#[test]
fn an_interrupted_run_keeps_its_steps_and_goes_on_to_the_same_bits() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let [whole, stopped] = ["whole", "stopped"].map(|name| room.path().join(name));
    // No checkpoint is due before the end: what there is was written because of the interruption.
    let more = ["--save-every", "1000"];
    let arguments = |folder: &Path| {
        let mut arguments = arguments(&data, folder, &more);
        let usual = arguments.iter().position(|argument| argument == "--save-every").unwrap();
        arguments.drain(usual..usual + 2);
        arguments
    };
    run(&arguments(&whole));
    let output = interrupted(&arguments(&stopped), &stopped, 3);
    assert_stopped(&output, &stopped);
    let steps = losses(&stopped).len();
    assert!((3..12).contains(&steps), "{steps} steps");
    assert!(text(&output.stderr).contains(&format!("stopped after step {steps} of 12")), "{}", text(&output.stderr));
    let output = run(&[&arguments(&stopped)[..], &["--resume".to_owned()]].concat());
    assert!(text(&output.stderr).contains(&format!("going on after step {steps} of 12")), "{}", text(&output.stderr));
    assert_eq!(adapter(&whole), adapter(&stopped));
    assert_eq!(losses(&whole), losses(&stopped));
}

#[test]
fn a_run_that_is_interrupted_in_an_evaluation_makes_it_when_it_goes_on() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let [whole, stopped, held] = ["whole", "stopped", "held.tsv"].map(|name| room.path().join(name));
    // Long enough that nobody is done with it before the signal comes.
    let text_of = |row: usize| format!("{row} {}", "the river and the engine ".repeat(10));
    fs::write(&held, (0..80).map(|row| format!("{}\t{0}\n", text_of(row))).collect::<String>()).unwrap();
    let evaluated = ["--eval-data", arg(&held), "--eval-every", "6"];
    run(&arguments(&data, &whole, &evaluated));
    // It begins right behind the line of the sixth step.
    assert_stopped(&interrupted(&arguments(&data, &stopped, &evaluated), &stopped, 6), &stopped);
    let metrics = |folder: &Path| fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics(&stopped).lines().count(), 6, "the evaluation was over");
    run(&arguments(&data, &stopped, &[&evaluated[..], &["--resume"]].concat()));
    assert_eq!(adapter(&whole), adapter(&stopped));
    assert_eq!(losses(&whole), losses(&stopped));
    let evaluations = |folder: &Path| -> Vec<String> {
        metrics(folder).lines().filter(|line| line.contains("\"evaluation\"")).map(str::to_owned).collect()
    };
    assert_eq!(evaluations(&whole), evaluations(&stopped));
    assert_eq!(evaluations(&whole).len(), 2);
}

#[test]
fn a_run_whose_disk_is_full_keeps_its_last_checkpoint_and_goes_on_once_there_is_room() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room, 60);
    let [whole, full, held] = ["whole", "full", "held.tsv"].map(|name| room.path().join(name));
    fs::write(&held, "a river\tthe river\nan engine\tthe engine\n").unwrap();
    let evaluated = ["--eval-data", arg(&held), "--eval-every", "4"];
    run(&arguments(&data, &whole, &evaluated));
    // Parameters, and their optimizer's states in half as many bytes; after an evaluation the best of it as well. Files
    // may have room for the first, counted in blocks of 512 bytes.
    let blocks = 2 * adapter(&whole).len() / 512;
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_bouquet")]).args(arguments(&data, &full, &evaluated));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last: Vec<&str> = stderr.lines().rev().take(2).collect();
    assert!(last[1].starts_with("error: cannot write") && last[1].contains("checkpoint.safetensors"), "{stderr}");
    assert!(last[0].starts_with("hint: ") && last[0].contains("--resume"), "{stderr}");
    let output = run(&arguments(&data, &full, &[&evaluated[..], &["--resume"]].concat()));
    assert!(text(&output.stderr).contains("going on after step 3 of 12"), "{}", text(&output.stderr));
    assert_eq!(adapter(&whole), adapter(&full));
    assert_eq!(losses(&whole), losses(&full));
}
