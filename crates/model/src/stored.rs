//! How the weights of a folder are stored, as `quantization_config` in its `config.json` says: by bitsandbytes, or by
//! Bouquet where bitsandbytes has no such layout. Which tensors that makes is told in
//! [`checkpoint::encoded`](crate::checkpoint::encoded).

use serde_json::{Value, json};

use crate::config::{Bounds, Config};
use crate::encoding::Encoding;
use crate::files::shown;
use crate::{ModelError, Result};

/// The field of `config.json`.
pub const FIELD: &str = "quantization_config";

/// Version of the layouts that are Bouquet's own.
const VERSION: u64 = 1;

/// What bitsandbytes calls itself.
const BITSANDBYTES: &str = "bitsandbytes";

/// What Bouquet calls itself.
const BOUQUET: &str = "bouquet";

/// How weights are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The linears of blocks; [`Encoding::F32`] stands for floats of any size.
    pub linears: Encoding,
    /// Embedding and head.
    pub embedding: Encoding,
    /// Linears that are floats nevertheless: beginnings or ends of their names.
    pub skipped: Vec<String>,
    /// What a GGUF file has its weights in, where that is more than floats.
    pub kinds: Option<Kinds>,
}

/// Kinds of blocks (and `f32` for floats of any size), joined by `+` where there are several: `q4_k+q6_k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Of the linears of blocks.
    pub linears: String,
    /// Of embedding and head.
    pub embedding: String,
}

impl Default for Stored {
    /// Floats, all of them.
    fn default() -> Self {
        Stored::floats()
    }
}

impl Stored {
    /// Floats, all of them.
    pub const fn floats() -> Self {
        Stored { linears: Encoding::F32, embedding: Encoding::F32, skipped: Vec::new(), kinds: None }
    }

    /// What a configuration says.
    ///
    /// # Errors
    /// [`ModelError::Config`] for encodings that are not read.
    pub fn read(config: &Config) -> Result<Stored> {
        if config.has("compression_config") {
            return Err(config.error("compression_config", "says that the weights are encoded, which is not read yet"));
        }
        let Some(field) = config.optional_object(FIELD)? else { return Ok(Stored::floats()) };
        let [in_8_bits, in_4_bits] = ["load_in_8bit", "load_in_4bit"].map(|name| field.optional_flag(name));
        let (in_8_bits, in_4_bits) = (in_8_bits?.unwrap_or(false), in_4_bits?.unwrap_or(false));
        match field.optional_text("quant_method")? {
            // Older files of bitsandbytes do not name it.
            Some(BITSANDBYTES) | None if in_8_bits != in_4_bits => bitsandbytes(&field, in_4_bits),
            Some(BOUQUET) => bouquet(&field),
            method => {
                let method = method.map_or_else(|| "unnamed".to_owned(), shown);
                Err(config.error(FIELD, format!("says that the weights are encoded ({method}), which is not read yet")))
            }
        }
    }

    /// Whether weights that are stored so can be computed in `asked`.
    ///
    /// # Errors
    /// [`ModelError::StoredEncoding`] for codes of another kind.
    pub fn check(&self, asked: Encoding) -> Result<()> {
        match self.linears {
            Encoding::F32 => Ok(()),
            stored if matches!(asked, Encoding::F32 | Encoding::Stored) || asked == stored => Ok(()),
            stored => Err(ModelError::StoredEncoding { stored, asked }),
        }
    }

    /// What this is computed in where nobody asks for anything else: int8 for floats, otherwise the codes as they are.
    pub fn usual(&self) -> Encoding {
        if self.linears == Encoding::F32 { Encoding::Int8 } else { self.linears }
    }

    /// Whether a linear, by its name without `.weight`, is stored in floats though others are not.
    pub(crate) fn skips(&self, linear: &str) -> bool {
        self.skipped.iter().any(|part| linear.starts_with(part.as_str()) || linear.ends_with(part.as_str()))
    }

    /// Whether bitsandbytes has such a layout, which transformers opens with it.
    pub fn is_of_bitsandbytes(&self) -> bool {
        self.embedding == Encoding::F32 && matches!(self.linears, Encoding::Int8 | Encoding::Nf4)
    }

    /// The field of `config.json` that says this: that of bitsandbytes, as transformers writes it, where it has such a
    /// layout, else Bouquet's own; `double` is for nf4 alone. `None` for floats.
    pub fn to_config(&self, double: bool) -> Option<Value> {
        match self.linears {
            Encoding::F32 => None,
            encoding if self.is_of_bitsandbytes() => {
                let in_8_bits = encoding == Encoding::Int8;
                Some(json!({
                    "_load_in_4bit": !in_8_bits,
                    "_load_in_8bit": in_8_bits,
                    "bnb_4bit_compute_dtype": "float32",
                    "bnb_4bit_quant_storage": "uint8",
                    "bnb_4bit_quant_type": if in_8_bits { "fp4" } else { "nf4" },
                    "bnb_4bit_use_double_quant": double,
                    "llm_int8_enable_fp32_cpu_offload": false,
                    "llm_int8_has_fp16_weight": false,
                    "llm_int8_skip_modules": null,
                    "llm_int8_threshold": 6.0,
                    "load_in_4bit": !in_8_bits,
                    "load_in_8bit": in_8_bits,
                    "quant_method": BITSANDBYTES,
                }))
            }
            encoding => Some(json!({
                "quant_method": BOUQUET,
                "version": VERSION,
                "encoding": encoding.name(),
                "embedding": self.embedding.name(),
            })),
        }
    }
}

/// The field as transformers writes it.
fn bitsandbytes(field: &Config, in_4_bits: bool) -> Result<Stored> {
    let skipped = field.optional_texts("llm_int8_skip_modules")?;
    let linears = if in_4_bits {
        for (name, known) in [("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_quant_storage", "uint8")] {
            match field.optional_text(name)? {
                Some(found) if found == known => {}
                None if known == "uint8" => {}
                found => {
                    let found = found.map_or_else(|| "missing".to_owned(), shown);
                    return Err(field.error(name, format!("is {found}, and only {known:?} is read")));
                }
            }
        }
        Encoding::Nf4
    } else if field.optional_flag("llm_int8_has_fp16_weight")?.unwrap_or(false) {
        return Err(field.error("llm_int8_has_fp16_weight", "is true, but only weights in int8 are read"));
    } else {
        Encoding::Int8
    };
    Ok(Stored { linears, embedding: Encoding::F32, skipped, kinds: None })
}

/// The field as Bouquet writes it.
fn bouquet(field: &Config) -> Result<Stored> {
    let version = field.number(&["version"], Bounds { min: 0, max: u32::MAX.into() })? as u64;
    if version != VERSION {
        return Err(field.error("version", format!("is {version}, and this program knows version {VERSION} only")));
    }
    let encoding = |name: &str| -> Result<Encoding> {
        let text = field.optional_text(name)?.unwrap_or(Encoding::F32.name());
        let found = Encoding::OF_FOLDERS.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| {
            let known = Encoding::OF_FOLDERS.map(Encoding::name).join(", ");
            field.error(name, format!("is {}, which is not known (known: {known})", shown(text)))
        })
    };
    let (linears, embedding) = (encoding("encoding")?, encoding("embedding")?);
    if linears == Encoding::F32 {
        return Err(field.error("encoding", "says that linears are floats, where nothing should be said at all"));
    }
    Ok(Stored { linears, embedding, skipped: Vec::new(), kinds: None })
}
