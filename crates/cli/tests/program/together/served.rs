//! What a swarm serves is what one machine computes.

use crate::harness::{arg, tiny};

use super::House;

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
    // And a file of codes, which is served as it is stored.
    let file = house.path("llama-tiny.gguf");
    house.prints(&["convert", arg(&tiny("llama-tiny")), "-o", arg(&file), "--to", "q8_0"]);
    for model in names.map(tiny).into_iter().chain([file]) {
        let how = ["--raw", "--max-tokens", "12", "--seed", "3", "--temperature", "0.7"];
        let alone = house.prints(&[&["run", arg(&model), "Hello"], &how[..]].concat());
        let server = house.join(&[arg(&model), "--blocks", "0:1"]);
        let _other = house.join(&[&server.invite, "--model", arg(&model), "--blocks", "1:2"]);
        let together = house.prints(&[&["run", &server.invite, "Hello"], &how[..]].concat());
        assert_eq!(together, alone, "{}", model.display());
    }
}

#[cfg(unix)]
#[test]
fn a_server_leaves_with_a_word_and_is_listed_while_it_is_there() {
    use serde_json::Value;

    let house = House::new();
    let model = tiny("bloom-tiny");
    let mut server = house.join(&[arg(&model), "--name", "office"]);
    assert_eq!(server.ready["blocks"], serde_json::json!([0, 2]));
    let status: Value = serde_json::from_str(&house.prints(&["swarm", "status", &server.invite, "--json"])).unwrap();
    assert_eq!(status["servers"][0]["name"], "office");
    assert_eq!(status["servers"][0]["peer_id"], server.ready["peer_id"]);
    assert_eq!(status["missing"], serde_json::json!([]));
    assert!(house.prints(&["swarm", "status", &server.invite]).contains("all 2 blocks are served"));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.process.wait().unwrap().success());
    let gone = house.run(&["run", &server.invite, "Hello"]);
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("does not answer") && said.contains("hint"), "{said}");
}

#[test]
fn invites_of_a_founder_that_starts_again_stay_good() {
    let house = House::new();
    let (model, key) = (tiny("bloom-tiny"), house.path("machine.key"));
    let founder = [arg(&model), "--identity", arg(&key)];
    let first = house.join(&founder);
    let (invite, port) = (first.invite.clone(), first.listening().port());
    drop(first);
    let again = format!("/ip4/127.0.0.1/tcp/{port}");
    let _second = house.join(&[&founder[..], &["--listen", &again]].concat());
    let how = ["Hello", "--raw", "--max-tokens", "4"];
    assert_eq!(
        house.prints(&[&["run", &invite], &how[..]].concat()),
        house.prints(&[&["run", arg(&model)], &how[..]].concat())
    );
}
