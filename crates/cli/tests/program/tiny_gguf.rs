//! A model in a GGUF file, small enough to be written by each test: a block of zeros, tokens that are bytes.

use std::path::{Path, PathBuf};

use bouquet_gguf::{Metadata, Planned, TensorKind, Value, Writer};

/// What is in the file.
pub(crate) struct TinyGguf {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
}

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 64;
const VOCABULARY: usize = 3 + 256;

impl TinyGguf {
    pub(crate) fn new() -> TinyGguf {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", "llama");
        for (key, number) in [
            ("block_count", 1),
            ("context_length", 512),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", INTERMEDIATE),
            ("attention.head_count", 2),
        ] {
            metadata.set(format!("llama.{key}"), Value::U32(number as u32));
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
        let types: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
        metadata.set("tokenizer.ggml.model", "llama");
        metadata.set("tokenizer.ggml.tokens", tokens.into_iter().chain(bytes).collect::<Vec<String>>());
        metadata.set("tokenizer.ggml.token_type", types);
        metadata.set("tokenizer.ggml.scores", vec![0.0f32; VOCABULARY]);
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
            ("output_norm.weight".to_owned(), vec![HIDDEN]),
        ];
        for (name, shape) in [
            ("attn_norm", vec![HIDDEN]),
            ("attn_q", vec![HIDDEN, HIDDEN]),
            ("attn_k", vec![HIDDEN, HIDDEN]),
            ("attn_v", vec![HIDDEN, HIDDEN]),
            ("attn_output", vec![HIDDEN, HIDDEN]),
            ("ffn_norm", vec![HIDDEN]),
            ("ffn_gate", vec![INTERMEDIATE, HIDDEN]),
            ("ffn_up", vec![INTERMEDIATE, HIDDEN]),
            ("ffn_down", vec![HIDDEN, INTERMEDIATE]),
        ] {
            tensors.push((format!("blk.0.{name}.weight"), shape));
        }
        TinyGguf { metadata, tensors }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let planned: Vec<Planned> =
            self.tensors.iter().map(|(name, shape)| Planned::new(name, shape, TensorKind::F32)).collect();
        let mut writer = Writer::begin(Vec::new(), &self.metadata, &planned).unwrap();
        for (name, shape) in &self.tensors {
            writer.write(name, &vec![0; 4 * shape.iter().product::<usize>()]).unwrap();
        }
        writer.finish().unwrap()
    }

    pub(crate) fn write(&self, room: &Path) -> PathBuf {
        let path = room.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}
