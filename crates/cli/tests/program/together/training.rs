//! Fine-tuning through a swarm ends with the bytes of one machine, whoever is lost meanwhile; so does all else that a model
//! is named for.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::finetune::{adapter, arguments, losses, pairs};
use crate::harness::{arg, root, small};

use super::{House, LONG, Server, blocks, ended};

/// Three servers of which each block has two, in the encoding that training uses.
fn swarm(house: &House, model: &Path) -> Vec<Server> {
    let count = house.block_count(model);
    let founder = house.join(&[arg(model), "--encoding", "int8", "--blocks", &blocks((0, count))]);
    let invite = founder.invite.clone();
    let join = |cut| house.join(&[&invite, "--model", arg(model), "--blocks", &blocks(cut)]);
    let others = [join((0, count / 2)), join((count / 2, count))];
    [founder].into_iter().chain(others).collect()
}

#[test]
fn every_command_gives_through_a_swarm_what_it_gives_alone() {
    let (house, model) = (House::new(), small());
    let servers = swarm(&house, &model);
    let invite = &*servers[0].invite;
    let [texts, sts, parallel, out] = ["texts.txt", "sts.csv", "parallel.tsv", "out"].map(|name| house.path(name));
    std::fs::write(&texts, "The river is wide.\nAn engine runs.\nThe teacher reads a letter to the class.\n").unwrap();
    std::fs::write(&sts, "a river,the river,5\na river,an engine,1\ntwo letters,a letter,4\n").unwrap();
    std::fs::write(&parallel, "A river.\tDer Fluss.\nAn engine.\tEine Maschine.\nA letter.\tEin Brief.\n").unwrap();
    let book = root().join("tests/fixtures/data/wikitext-2.test.head.txt");
    let npy = house.path("out.npy");
    let files: [(&[&str], &Path); 2] = [
        (&["embed", "MODEL", arg(&texts), "-o", arg(&npy)], &npy),
        (&["forward", "MODEL", "--text", "A river", "-o", arg(&out)], &out),
    ];
    let int8 = ["--encoding", "int8"];
    for (args, file) in files {
        let of = |model: &str, more: &[&str]| {
            let args: Vec<&str> = args.iter().map(|&arg| if arg == "MODEL" { model } else { arg }).collect();
            house.prints(&[&args, more].concat());
            std::fs::read(file).unwrap()
        };
        assert_eq!(of(invite, &[]), of(arg(&model), &int8), "{args:?}");
    }
    let perplexity = ["--window", "64", "--max-windows", "4"];
    let [one, other] = ["MODEL,name=one", "MODEL,name=other"];
    let printed: [(&[&str], &[&str]); 5] = [
        (&["eval", "retrieval", "--model", "MODEL", arg(&parallel), "--json"], &[]),
        (&["compare", one, other, "--sts", arg(&sts), "--retrieval", arg(&parallel), "--json"], &[]),
        (&["eval", "sts", "--model", "MODEL", arg(&sts), "--json"], &[]),
        (&["perplexity", "MODEL", arg(&book), "--json"], &perplexity),
        (&["run", "MODEL", "A river", "--json", "--max-tokens", "9"], &[]),
    ];
    for (args, more) in printed {
        let of = |model: &str, encoding: &[&str]| -> Value {
            let args: Vec<String> = args.iter().map(|arg| arg.replace("MODEL", model)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut object: Value = serde_json::from_str(&house.prints(&[&args, more, encoding].concat())).unwrap();
            forget_the_place(&mut object);
            object
        };
        assert_eq!(of(invite, &[]), of(arg(&model), &int8), "{args:?}");
    }
    let bench = ["bench", invite, "-p", "16", "-n", "4", "-r", "1", "--wait", "5", "--model", arg(&model)];
    let object: Value = serde_json::from_str(&house.prints(&[&bench[..], &["--json"]].concat())).unwrap();
    assert_eq!(object["results"].as_array().unwrap().len(), 2, "{object}");
    assert_eq!([&object["encoding"], &object["wire"]], ["int8", "f32"]);
    assert!(object["limits"].is_null() && object["results"][0].get("gb_per_sec").is_none(), "{object}");
    let table = house.prints(&bench);
    assert!(table.contains("| wire |") && !table.contains("GB/s") && !table.contains(invite), "{table}");
}

/// Takes out what depends on where a model is, and on how fast.
fn forget_the_place(value: &mut Value) {
    value.as_array_mut().into_iter().flatten().for_each(forget_the_place);
    let Some(object) = value.as_object_mut() else { return };
    for name in ["model", "seconds", "tokens_per_sec", "peak_memory_bytes", "computed", "timings", "load_seconds"] {
        object.remove(name);
    }
    object.values_mut().for_each(forget_the_place);
}

/// A text for a causal run.
fn texts(house: &House) -> PathBuf {
    let path = house.path("texts.jsonl");
    let line =
        |row: usize| format!("{{\"text\": \"The {row}. river is wide, and engine number {row} runs along it.\"}}\n");
    std::fs::write(&path, (0..40).map(line).collect::<String>()).unwrap();
    path
}

/// Waits until so many steps are in the metrics of a run.
fn wait_for(process: &mut Child, folder: &Path, steps: usize) {
    let start = Instant::now();
    let done = || std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default().lines().count();
    while done() < steps {
        assert!(process.try_wait().unwrap().is_none(), "it ended before step {steps}");
        assert!(start.elapsed() < LONG, "no step came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_ends_with_the_bytes_of_one_machine_whoever_is_killed_even_itself() {
    let (house, model) = (House::new(), small());
    let room = tempfile::tempdir().unwrap();
    let (pairs, texts) = (pairs(&room, 60), texts(&house));
    for (objective, data) in [("contrastive", &pairs), ("causal", &texts)] {
        let [whole, together, killed] =
            ["whole", "together", "killed"].map(|name| house.path(&format!("{objective}-{name}")));
        let mut servers = swarm(&house, &model);
        let invite = servers[0].invite.clone();
        let arguments = |place: &str, folder: &Path, more: &[&str]| -> Vec<String> {
            let mut arguments = arguments(data, folder, more);
            let named = arguments.iter().position(|argument| argument == "contrastive").unwrap();
            let steps = arguments.iter().position(|argument| argument == "12").unwrap();
            (arguments[1], arguments[named]) = (place.to_owned(), objective.to_owned());
            arguments[steps] = "8".to_owned();
            arguments
        };
        let start = |arguments: &[String]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            house.command(&arguments).spawn().unwrap()
        };
        let finish = |running: Child, what: &str| {
            let output = ended(running, &[objective, what]);
            assert!(output.status.success(), "{objective}, {what}: {}", String::from_utf8_lossy(&output.stderr));
        };
        finish(start(&arguments(arg(&model), &whole, &["--encoding", "int8"])), "alone");
        let equal = |folder: &Path| {
            assert_eq!(losses(folder), losses(&whole), "{objective}");
            assert_eq!(adapter(folder), adapter(&whole), "{objective}");
        };

        // One server after the other is killed, first the one that has all.
        let mut running = start(&arguments(&invite, &together, &[]));
        wait_for(&mut running, &together, 3);
        drop(servers.remove(0));
        wait_for(&mut running, &together, 5);
        let again = house.join(&[&servers[0].invite, "--model", arg(&model)]);
        drop(servers.remove(0));
        finish(running, "with servers killed");
        equal(&together);

        servers.push(again);
        let invite = servers.last().unwrap().invite.clone();
        let mut running = start(&arguments(&invite, &killed, &[]));
        wait_for(&mut running, &killed, 4);
        running.kill().unwrap();
        ended(running, &["killed"]);
        finish(start(&arguments(&invite, &killed, &["--resume"])), "resumed");
        equal(&killed);
    }
}
