//! `bouquet doctor`, and `--isa`.

use crate::harness::*;

#[test]
fn doctor_tells_what_is_here() {
    let object = json(&["doctor", "--json", "--threads", "1"]);
    let isas = object["instruction_sets"].as_array().unwrap();
    assert!(isas[0] == "scalar" && isas.last() == Some(&object["isa"]), "{object}");
    assert_eq!(object["threads"], 1);
    for limit in ["gb_per_sec", "f32_gop_per_sec", "int8_gop_per_sec"] {
        assert!(object["limits"][limit].as_f64() > Some(0.0), "{limit}");
    }
    assert!(cfg!(not(target_os = "linux")) || object["available_memory_bytes"].as_u64() > Some(1 << 20));
    let shown = stdout(&["doctor", "--isa", "scalar"]);
    for words in ["instruction sets", "scalar is used", "GB/s", "GOP/s", "no-cache", "Problems"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_to_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("file/hub");
    let problems = |command: &mut std::process::Command| {
        let output = command.args(["doctor", "--json"]).output().unwrap();
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let problems = object["problems"].as_array().unwrap().clone();
        problems.iter().any(|problem| problem["problem"].as_str().unwrap().contains(arg(&cache)))
    };
    assert!(!problems(bouquet().env("HF_HUB_CACHE", &cache)));
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert!(problems(bouquet().env("HF_HUB_CACHE", &cache)));
}

#[test]
fn instruction_sets_that_are_not_here_are_refused() {
    let (here, model, folder) = (instruction_sets(), tiny("bloom-tiny"), tempfile::tempdir().unwrap());
    let (text, out) = (folder.path().join("text.txt"), folder.path().join("out.safetensors"));
    std::fs::write(&text, "Some text to score.").unwrap();
    let commands = [
        vec!["run", arg(&model), "x", "--max-tokens", "1"],
        vec!["forward", arg(&model), "--text", "x", "-o", arg(&out)],
        vec!["perplexity", arg(&model), arg(&text)],
        vec!["bench", arg(&model), "-p", "4", "-n", "0", "-r", "1"],
        vec!["doctor"],
    ];
    let mut refusals = 0;
    for isa in ["scalar", "avx2", "avxvnni", "avx512", "amx", "neon"] {
        for command in &commands {
            let args = [command.as_slice(), &["--isa", isa]].concat();
            if here.contains(&isa) {
                stdout(&args);
            } else {
                refused(&args, 2, &format!("this machine does not have {isa}"));
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0, "no machine has all of them");
    refused(&[commands[0].as_slice(), &["--isa", "sse9"]].concat(), 2, "sse9");
}
