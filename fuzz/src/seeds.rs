//! Writes small files for each target to begin with, into `fuzz/corpus`: from the fixtures of the repository.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use bouquet_gguf::{Metadata, Planned, TensorKind, Value, Writer};
use bouquet_model::tokenizer::gguf::{SpecialIds, metadata};

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = here.join("..");
    let folder = |target: &str| -> Result<PathBuf, Box<dyn Error>> {
        let folder = here.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    let container = fs::read(repository.join("crates/gguf/tests/python.gguf"))?;
    fs::write(folder("gguf_container")?.join("python"), &container)?;
    let models = repository.join("tests/fixtures/models");
    for (model, vocabulary) in [("llama-tiny", 512), ("bloom-tiny", 512), ("qwen3-tiny", 512)] {
        let tokenizer = fs::read(models.join(model).join("tokenizer.json"))?;
        let file = gguf(metadata(&tokenizer, vocabulary, SpecialIds::default())?, vocabulary)?;
        fs::write(folder("gguf_model")?.join(model), &file)?;
        fs::write(folder("gguf_container")?.join(model), &file)?;
        let safetensors = fs::read(models.join(model).join("model.safetensors"))?;
        // The header, without the data that it promises, and with it.
        let header = 8 + u64::from_le_bytes(safetensors[..8].try_into()?) as usize;
        fs::write(folder("safetensors")?.join(format!("{model}-header")), &safetensors[..header])?;
    }
    let key = [7; 32];
    let peer = libp2p_identity::Keypair::ed25519_from_bytes([3; 32])?;
    let addresses = ["/ip4/192.168.1.2/tcp/31330", "/ip6/fe80::1/tcp/31330"].map(|text| text.parse().expect("an address"));
    let packet = bouquet_swarm::network::said_nearby(&key, peer.public().to_peer_id(), &addresses);
    let hash = bouquet_model::Hash([5; 32]);
    let manifest = bouquet_model::manifest::Manifest { ends: hash, blocks: vec![hash; 3] };
    for (kind, name, bytes) in [
        (0, "packet", packet),
        (1, "manifest", manifest.to_json().into_bytes()),
        (2, "identity", peer.to_protobuf_encoding()?),
    ] {
        fs::write(folder("swarm_files")?.join(name), [&[kind], &bytes[..]].concat())?;
    }
    let header = br#"{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}"#;
    let small = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 12]].concat();
    fs::write(folder("safetensors")?.join("small"), small)?;
    let templates = fs::read(repository.join("tests/fixtures/chat/templates.json"))?;
    let templates: serde_json::Value = serde_json::from_slice(&templates)?;
    for (name, template) in templates["templates"].as_object().into_iter().flatten() {
        fs::write(folder("chat_template")?.join(name), template.as_str().unwrap_or_default())?;
    }
    for (number, line) in templates["lines"].as_array().into_iter().flatten().enumerate() {
        fs::write(folder("chat_template")?.join(format!("line-{number}")), line["line"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// A model of one small block, with this tokenizer and a chat template.
fn gguf(mut metadata: Metadata, vocabulary: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    metadata.set("general.architecture", "llama");
    metadata.set("tokenizer.chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}");
    for (key, number) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 8),
        ("attention.head_count", 2),
    ] {
        metadata.set(format!("llama.{key}"), Value::U32(number));
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    // Eight numbers for each token; no data is read of the others.
    let tensors = [Planned::new("token_embd.weight", &[vocabulary, 8], TensorKind::F16)];
    let mut writer = Writer::begin(Vec::new(), &metadata, &tensors)?;
    writer.write("token_embd.weight", &vec![0; vocabulary * 16])?;
    Ok(writer.finish()?)
}
