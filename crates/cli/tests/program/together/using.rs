//! What users of a swarm find: plans, states, flags of invites, and what is reported.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::House;
use crate::harness::{arg, copy, tiny};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A file in a house.
fn file(house: &House, name: &str, content: &str) -> PathBuf {
    let path = house.path(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_plan_of_an_invite_is_the_way_of_a_token() {
    let house = House::new();
    let model = tiny("bloom-tiny");
    let first = house.join(&[arg(&model), "--blocks", "0:1", "--name", "office"]);
    let plan = |more: &[&str]| house.prints(&[&["swarm", "plan", &first.invite], more].concat());
    let holed = parsed(&plan(&["--json"]));
    assert_eq!((&holed["missing"], &holed["route"]), (&json!([[1, 2]]), &Value::Null));
    assert!(plan(&[]).contains("nobody serves block 1 of 2"), "{}", plan(&[]));
    let status = house.prints(&["swarm", "status", &first.invite]);
    assert!(status.contains("nobody serves block 1 of 2") && status.contains("0:1 x1, 1:2 x0"), "{status}");
    let _second = house.join(&[&first.invite, "--model", arg(&model), "--blocks", "1:2"]);
    let whole = parsed(&plan(&["--json"]));
    let route = &whole["route"];
    assert_eq!(whole["missing"], json!([]));
    assert_eq!((&route["hops"][0]["name"], &route["hops"][0]["blocks"]), (&json!("office"), &json!([0, 1])));
    let sum: f64 =
        ["compute_seconds", "network_seconds", "queue_seconds"].iter().map(|part| route[part].as_f64().unwrap()).sum();
    let token = route["token_seconds"].as_f64().unwrap();
    assert!(token > 0.0 && (sum - token).abs() < 1e-9, "{route}");
    assert_eq!(route["fits"], true);
    let text = plan(&[]);
    assert!(text.contains("one session:") && text.contains("bound by") && text.contains("back"), "{text}");
}

#[test]
fn a_plan_of_a_model_says_what_it_needs() {
    let house = House::new();
    let model = tiny("bloom-tiny");
    let plan = |more: &[&str]| parsed(&house.prints(&[&["swarm", "plan", arg(&model), "--json"], more].concat()));
    let roomy = plan(&["--memory", "1GB"]);
    assert_eq!((&roomy["blocks"], &roomy["fits"], &roomy["machines"]), (&json!(2), &json!(2), &json!(1)), "{roomy}");
    assert_eq!(roomy["wire_bytes_per_token"]["f32"], json!(4 * 64));
    // Room for what a server takes besides, and not for both blocks and their sessions.
    let besides = 50_000_000 + (32 << 20);
    let narrow = plan(&["--memory", &(besides + roomy["hosting_bytes"].as_u64().unwrap()).to_string()]);
    assert_eq!((&narrow["fits"], &narrow["machines"]), (&json!(1), &json!(2)), "{narrow}");
    let none = house.prints(&["swarm", "plan", arg(&model), "--memory", "1MB"]);
    assert!(none.contains("hosts none"), "{none}");
    let refused = house.run(&["swarm", "plan", "bouquet1nonsense", "--memory", "1GB"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn what_nobody_hosts_is_waited_for_as_long_as_was_said() {
    let house = House::new();
    let model = tiny("bloom-tiny");
    let first = house.join(&[arg(&model), "--blocks", "0:1"]);
    let start = Instant::now();
    let output = house.run(&["run", &first.invite, "Hello", "--wait", "3"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(said.contains("error: nobody serves block 1\n") && said.contains("waiting for somebody"), "{said}");
    assert!(said.contains("--wait"), "{said}");
}

#[test]
fn what_is_reported_is_what_the_swarm_computes_in() {
    let house = House::new();
    let (model, sentences) = (tiny("llama-tiny"), "a text that is long enough to be scored. ".repeat(40));
    let (text, out, vectors) = (file(&house, "text.txt", &sentences), house.path("out.st"), house.path("out.npy"));
    let server = house.join(&[arg(&model), "--encoding", "int8", "--wire", "bf16"]);
    let cases: [&[&str]; 3] = [
        &["perplexity", &server.invite, arg(&text), "--window", "32", "--json"],
        &["forward", &server.invite, "--text", "Hello", "-o", arg(&out), "--json"],
        &["embed", &server.invite, arg(&text), "-o", arg(&vectors), "--json"],
    ];
    for args in cases {
        let told = parsed(&house.prints(args));
        assert_eq!(told["encoding"], "int8", "{args:?} {told}");
        let wire = if told["wire"].is_null() { &told["computed"]["wire"] } else { &told["wire"] };
        assert_eq!(wire, "bf16", "{args:?} {told}");
    }
    let how = ["--window", "32", "--json"];
    let likewise = ["--encoding", "int8", "--wire", "bf16"];
    let alone = house.prints(&[&["perplexity", arg(&model), arg(&text)], &how[..], &likewise].concat());
    let together = house.prints(&[&["perplexity", &server.invite, arg(&text)], &how[..]].concat());
    assert_eq!(parsed(&alone)["mean_nll"], parsed(&together)["mean_nll"]);
    for (flag, value, expected) in
        [("--wire", "int8", "this swarm has the wire bf16"), ("--encoding", "f32", "this swarm computes in int8")]
    {
        let refused = house.run(&["perplexity", &server.invite, arg(&text), flag, value]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}

#[test]
fn the_ends_may_be_here() {
    let house = House::new();
    let model = tiny("bloom-tiny");
    let server = house.join(&[arg(&model)]);
    let how = ["Hello", "--raw", "--max-tokens", "8"];
    let away = House::new();
    let with_folder = away.prints(&[&["run", &server.invite], &how[..], &["--model", arg(&model)]].concat());
    assert_eq!(with_folder, house.prints(&[&["run", arg(&model)], &how[..]].concat()));
    assert!(!away.path("bouquet/swarms").exists(), "nothing was fetched");
    let other = away.run(&[&["run", &server.invite], &how[..], &["--model", arg(&tiny("llama-tiny"))]].concat());
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(other.status.code() == Some(1) && said.contains("is not the model of this swarm"), "{said}");
    let pointless = away.run(&["run", arg(&model), "Hello", "--model", arg(&model)]);
    assert_eq!(pointless.status.code(), Some(2));
}

#[test]
fn folders_of_sentence_transformers_pool_the_same_through_an_invite() {
    let house = House::new();
    let (text, folder) = (file(&house, "texts.txt", "One.\nTwo cats look out.\nNine.\n"), copy("bloom-tiny"));
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let module =
        |path: &str, kind: &str| format!(r#"{{"path": "{path}", "type": "sentence_transformers.models.{kind}"}}"#);
    write("1_Pooling/config.json", r#"{"pooling_mode_lasttoken": true}"#);
    write("sentence_bert_config.json", r#"{"max_seq_length": 3}"#);
    dense(&folder.path().join("2_Dense"));
    let modules = [module("", "Transformer"), module("1_Pooling", "Pooling"), module("2_Dense", "Dense")];
    write("modules.json", &format!("[{}]", modules.join(",")));
    let server = house.join(&[arg(folder.path())]);
    let embed = |house: &House, model: &str| {
        let out = house.path("vectors.npy");
        let told = parsed(&house.prints(&["embed", model, arg(&text), "-o", arg(&out), "--json"]));
        let [pooling, tokens, features] = ["pooling", "max_tokens", "dimensions"].map(|name| &told[name]);
        assert_eq!((pooling, tokens, features), (&json!("lasttoken"), &json!(3), &json!(2)));
        std::fs::read(out).unwrap()
    };
    let alone = embed(&house, arg(folder.path()));
    assert_eq!(embed(&house, &server.invite), alone);
    // On a machine that has nothing of it.
    assert_eq!(embed(&House::new(), &server.invite), alone);
}

/// The folder of a linear map from 64 channels to 2.
fn dense(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let config = r#"{"in_features": 64, "out_features": 2, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"}"#;
    std::fs::write(folder.join("config.json"), config).unwrap();
    let header = r#"{"linear.weight":{"dtype":"F32","shape":[2,64],"data_offsets":[0,512]}}"#;
    let weights = (0..128).flat_map(|index| ((index % 7) as f32 - 3.0).to_le_bytes());
    let bytes: Vec<u8> = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(weights).collect();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_loaded() {
    let house = House::new();
    let model = tiny("bloom-tiny");
    for (more, expected) in
        [(&[][..], "a server of one block takes"), (&["--blocks", "0:2"][..], "hosting blocks 0:2 takes at least")]
    {
        let output = house.run(&[&["join", arg(&model), "--memory", "40MB"], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
}

#[test]
fn adapters_that_servers_have_change_what_comes_out_as_others_do() {
    let house = House::new();
    let (model, adapter) = (tiny("bloom-tiny"), crate::adapter::adapter("bloom-tiny-adapter"));
    let server = house.join(&[arg(&model), "--blocks", "0:1", "--adapter", arg(&adapter)]);
    let _other = house.join(&[&server.invite, "--model", arg(&model), "--blocks", "1:2"]);
    let how = ["Hello", "--raw", "--max-tokens", "12", "--adapter", arg(&adapter)];
    let alone = house.prints(&[&["run", arg(&model)], &how[..]].concat());
    assert_eq!(house.prints(&[&["run", &server.invite], &how[..]].concat()), alone);
    let none = house.run(&["join", arg(&model), "--adapter", arg(&model)]);
    assert_eq!(none.status.code(), Some(1), "{}", String::from_utf8_lossy(&none.stderr));
}
