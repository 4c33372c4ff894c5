//! The metadata of a GGUF file as the fields that a family reads from `config.json`.

use bouquet_gguf::Metadata;
use serde_json::{Map, Value, json};

use super::GgufFile;
use crate::checkpoint::parts::decode;
use crate::config::Config;
use crate::spec::{Positions, RopeSpec};
use crate::{ModelError, ModelSpec, Result, families};

/// Architectures as GGUF calls them, with the family that each is.
const ARCHITECTURES: [(&str, &str); 5] =
    [("bloom", "bloom"), ("falcon", "falcon"), ("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")];

/// The model that a file describes.
pub(super) fn spec(file: &GgufFile) -> Result<ModelSpec> {
    let fields = Fields { file, metadata: file.metadata() };
    let config = Value::Object(fields.config()?);
    let config = Config::parse_as(config.to_string().as_bytes(), ModelError::Gguf)?;
    let mut spec = families::spec(&config)?;
    if let Positions::Rope(rope) = &spec.block.attention.positions
        && let Some(divided) = fields.divided(rope)?
    {
        spec.block.attention.positions = Positions::Rope(divided);
    }
    Ok(spec)
}

/// Where the fields come from.
struct Fields<'a> {
    file: &'a GgufFile,
    metadata: &'a Metadata,
}

impl Fields<'_> {
    fn config(&self) -> Result<Map<String, Value>> {
        let architecture = self.read(self.metadata.text("general.architecture"))?;
        let Some((_, family)) = ARCHITECTURES.iter().find(|(known, _)| *known == architecture) else {
            let known = ARCHITECTURES.map(|(known, _)| known).join(", ");
            return Err(ModelError::UnknownFamily { family: architecture.chars().take(100).collect(), known });
        };
        let Some((embedding, _)) = self.file.tensor("token_embd.weight") else {
            return Err(self.file.damaged("it has no tensor token_embd.weight, the embedding"));
        };
        let number = |key: &str| self.read(self.metadata.optional_u64(&format!("{architecture}.{key}")));
        let required = |key: &str| self.read(self.metadata.u64(&format!("{architecture}.{key}")));
        let float = |key: &str| self.read(self.metadata.optional_f64(&format!("{architecture}.{key}")));
        let heads = required("attention.head_count")?;
        let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
        let experts = number("expert_count")?.filter(|&count| count > 0);
        let has = |name: &str| self.file.has(name);
        let mut config = json!({
            "model_type": if experts.is_some() && *family == "llama" { "mixtral" } else { family },
            "vocab_size": embedding.shape[0],
            "hidden_size": required("embedding_length")?,
            "num_hidden_layers": required("block_count")?,
            "num_attention_heads": heads,
            "max_position_embeddings": number("context_length")?,
            "tie_word_embeddings": !has("output.weight"),
            "eos_token_id": self.ends()?,
        });
        let more = match *family {
            "bloom" => json!({ "layer_norm_epsilon": float("attention.layer_norm_epsilon")? }),
            "falcon" => json!({
                "layer_norm_epsilon": float("attention.layer_norm_epsilon")?,
                "ffn_hidden_size": number("feed_forward_length")?,
                "multi_query": kv_heads == 1,
                "new_decoder_architecture": kv_heads != 1 || has("blk.0.attn_norm_2.weight"),
                "num_kv_heads": kv_heads,
                "num_ln_in_parallel_attn": if has("blk.0.attn_norm_2.weight") { 2 } else { 1 },
                "parallel_attn": true,
                "bias": has("blk.0.attn_qkv.bias"),
                "rope_parameters": self.rope(architecture)?,
            }),
            _ => json!({
                "rms_norm_eps": float("attention.layer_norm_rms_epsilon")?,
                "intermediate_size": required("feed_forward_length")?,
                "num_key_value_heads": kv_heads,
                // Families have defaults of their own, which are not meant here.
                "head_dim": number("attention.key_length")?.or(required("embedding_length")?.checked_div(heads)),
                "attention_bias": has("blk.0.attn_q.bias"),
                "mlp_bias": has("blk.0.ffn_up.bias"),
                "num_local_experts": experts,
                "num_experts_per_tok": number("expert_used_count")?,
                "rope_parameters": self.rope(architecture)?,
            }),
        };
        match (&mut config, more) {
            (Value::Object(config), Value::Object(more)) => config.extend(more),
            _ => unreachable!("both are objects"),
        }
        let Value::Object(config) = config else { unreachable!("it is an object") };
        Ok(config)
    }

    /// Rotary positions as transformers 5 writes them.
    fn rope(&self, architecture: &str) -> Result<Value> {
        let float = |key: &str| self.read(self.metadata.optional_f64(&format!("{architecture}.rope.{key}")));
        let key = |key: &str| format!("{architecture}.rope.scaling.{key}");
        let kind = self.read(self.metadata.optional_text(&key("type")))?.filter(|&kind| kind != "none");
        // A file without a kind may have a factor nevertheless, by its older name as well.
        let factor = float("scaling.factor")?.or(float("scale_linear")?).filter(|&factor| factor > 1.0);
        let attention_factor = match (float("scaling.attn_factor")?, factor) {
            (Some(given), Some(factor)) if kind == Some("yarn") && given != 1.0 => {
                Some(given * (0.1 * factor.ln() + 1.0))
            }
            _ => None,
        };
        Ok(json!({
            "rope_theta": float("freq_base")?.unwrap_or(10_000.0),
            "rope_type": if factor.is_some() { kind.unwrap_or("linear") } else { "default" },
            "factor": factor,
            "attention_factor": attention_factor,
            "beta_fast": float("scaling.yarn_beta_fast")?,
            "beta_slow": float("scaling.yarn_beta_slow")?,
            "original_max_position_embeddings": self.read(self.metadata.optional_u64(&key("original_context_length")))?,
        }))
    }

    /// Frequencies divided by the factors that a file brings, as those of Llama 3 do.
    fn divided(&self, rope: &RopeSpec) -> Result<Option<RopeSpec>> {
        const NAME: &str = "rope_freqs.weight";
        let Some((info, data)) = self.file.tensor(NAME) else { return Ok(None) };
        let frequencies = rope.frequencies(0);
        if info.kind != bouquet_gguf::TensorKind::F32 || info.shape != [frequencies.len()] {
            let problem = format!("its {NAME} should hold {} numbers in F32", frequencies.len());
            return Err(self.file.damaged(problem));
        }
        let factors = decode(bouquet_kernels::FloatEncoding::F32, &data);
        if let Some(factor) = factors.iter().find(|factor| !(1e-6..=1e6).contains(*factor)) {
            return Err(self.file.damaged(format!("its {NAME} has {factor}")));
        }
        let divided = frequencies.iter().zip(&factors).map(|(frequency, factor)| frequency / factor).collect();
        Ok(Some(RopeSpec::new(divided, rope.scaling())))
    }

    /// Tokens that end a text, and a turn of a conversation.
    fn ends(&self) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for key in ["eos", "eot"] {
            let id = self.read(self.metadata.optional_u64(&format!("tokenizer.ggml.{key}_token_id")))?;
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    fn read<T>(&self, found: bouquet_gguf::Result<T>) -> Result<T> {
        found.map_err(|error| self.file.damaged(error))
    }
}
