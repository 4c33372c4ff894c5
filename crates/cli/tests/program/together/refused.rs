//! What cannot be done is told in a sentence, and nobody else is disturbed by it.

use std::net::TcpListener;

use bouquet_swarm::Invite;

use crate::bad_files::fill;
use crate::harness::{arg, copy, root, small, tiny};

use super::House;

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

#[test]
fn a_port_in_use_is_told_before_anything_else_is_said() {
    let (house, model) = (House::new(), tiny("bloom-tiny"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let output = house.run(&["join", arg(&model), "--listen", &address]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("error: cannot listen on {address}: another program uses the port");
    assert!(said.lines().any(|line| line == expected) && said.contains("hint: "), "{said}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn an_invite_with_a_wrong_key_is_told_as_that() {
    let (house, model) = (House::new(), tiny("bloom-tiny"));
    let server = house.join(&[arg(&model)]);
    let mut invite: Invite = server.invite.parse().unwrap();
    invite.key[7] ^= 1;
    let invite = invite.to_string();
    for args in
        [&["run", &invite, "Hello"][..], &["join", &invite, "--model", arg(&model)], &["swarm", "status", &invite]]
    {
        let output = house.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("the key of the invite may be of another swarm"), "{args:?}: {said}");
        assert!(said.contains("hint: "), "{args:?}: {said}");
    }
    assert!(!house.prints(&["run", &server.invite, "Hello", "--max-tokens", "2"]).is_empty());
}

#[test]
fn a_block_that_gives_no_numbers_is_not_hosted_and_named_to_whoever_makes_it() {
    let (house, broken, model) = (House::new(), copy("bloom-tiny"), small());
    fill(broken.path(), "transformer.h.1.mlp.dense_h_to_4h.weight", f32::NAN);
    let founding = ["join", arg(broken.path()), "--encoding", "f32", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let output = house.run(&founding);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("block 1") && said.contains("hint: "), "{said}");

    // A client's own adapter makes numbers that are none, in the middle of two servers.
    let adapter = house.path("adapter");
    std::fs::create_dir(&adapter).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = root().join("tests/fixtures/goldens/embed/bloom-small-sts-adapter").join(name);
        std::fs::copy(from, adapter.join(name)).unwrap();
    }
    std::fs::rename(adapter.join("adapter_model.safetensors"), adapter.join("model.safetensors")).unwrap();
    fill(&adapter, "base_model.model.transformer.h.4.self_attention.query_key_value.lora_B.weight", 3e38);
    std::fs::rename(adapter.join("model.safetensors"), adapter.join("adapter_model.safetensors")).unwrap();
    let founder = house.join(&[arg(&model), "--blocks", "0:3"]);
    let _other = house.join(&[&founder.invite, "--model", arg(&model), "--blocks", "3:6"]);
    let how = ["run", &*founder.invite, "Once upon a time", "--max-tokens", "5"];
    for _ in 0..2 {
        let output = house.run(&[&how[..], &["--adapter", arg(&adapter)]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("block 4") && said.contains("hint: "), "{said}");
        // Nobody is taken to have failed, and others are served.
        assert!(!house.prints(&how).is_empty());
        assert!(house.prints(&["swarm", "status", &founder.invite]).contains("all 6 blocks are served"));
    }
}
