//! A random model as a folder, for measuring what opens folders: start-up, servers, other programs.

use std::path::Path;

use bouquet_kernels::weight::{FloatEncoding, FloatWeight};
use bouquet_kernels::{Cpu, Weight};
use serde_json::{Value, json};

use super::{RandomModel, Shape};
use crate::checkpoint::encoded::Layout;
use crate::checkpoint::write::{Planned, Writer};
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::spec::ModelSpec;
use crate::staging::Staging;
use crate::stored::{FIELD, Stored};
use crate::{Encoding, ModelError, Result};

impl RandomModel {
    /// Writes a folder that does not exist yet, `config.json`, `tokenizer.json` and the weights: in f16 for
    /// [`Encoding::F32`], else encoded, one tensor at a time. It comes into being when all of it is on the disk. `more` is
    /// told how many tensors of how many are written, and says whether to go on; `Ok(false)` when it did not.
    ///
    /// # Errors
    /// [`ModelError::NotAFile`] for what is there already; [`ModelError::Busy`] while another program writes it;
    /// [`ModelError::Write`].
    pub fn write(
        &self,
        shape: &Shape,
        cpu: &Cpu,
        encoding: Encoding,
        folder: &Path,
        more: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool> {
        if folder.exists() {
            return Err(ModelError::NotAFile { path: folder.to_owned(), problem: "is there already".to_owned() });
        }
        let staging = Staging::anew(folder)?;
        match self.write_files(shape, cpu, encoding, &staging, more) {
            Ok(true) => staging.finish().map(|()| true),
            unfinished => {
                staging.remove();
                unfinished.map_err(|error| match error {
                    // In the user's words: of the folder that was asked for.
                    ModelError::Write { source, .. } => ModelError::Write { path: folder.to_owned(), source },
                    error => error,
                })
            }
        }
    }

    fn write_files(
        &self,
        shape: &Shape,
        cpu: &Cpu,
        encoding: Encoding,
        staging: &Staging,
        more: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool> {
        let stored =
            Stored { linears: encoding, embedding: encoding.of_vocabulary(), skipped: Vec::new(), kinds: None };
        let mut config = shape.config();
        if let Some(field) = stored.to_config(false) {
            config[FIELD] = field;
        }
        for (name, content) in [
            ("config.json", config),
            ("generation_config.json", json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3 })),
            ("tokenizer.json", tokenizer(shape.spec().vocab_size)),
        ] {
            staging.write(name, content.to_string().as_bytes())?;
        }
        self.write_weights(&shape.spec(), cpu, &stored, &staging.file("model.safetensors"), more)
    }

    fn write_weights(
        &self,
        spec: &ModelSpec,
        cpu: &Cpu,
        stored: &Stored,
        path: &Path,
        more: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool> {
        let vocabulary = [format!("{}{}", spec.names.prefix, spec.names.embedding), spec.names.head.to_owned()];
        // A weight in codes, by its name without `.weight` and its shape.
        let codes = |name: &str, shape: &[usize]| {
            let (module, &[rows, cols]) = (name.strip_suffix(".weight")?.to_owned(), shape) else { return None };
            let encoding = if vocabulary.contains(&module) { stored.embedding } else { stored.linears };
            (encoding != Encoding::F32).then_some((Layout { encoding, double: false }, module, rows, cols))
        };
        let planned = |name: &str, shape: &[usize]| match codes(name, shape) {
            Some((layout, module, rows, cols)) => layout.tensors(&module, rows, cols),
            None => vec![Planned::new(name, Dtype::F16, shape)],
        };
        let plan: Vec<Planned> = self.tensors.iter().flat_map(|(name, recipe)| planned(name, &recipe.shape)).collect();
        let mut writer = Writer::create(path)?;
        writer.plan(&plan)?;
        for (written, name) in self.tensors.keys().enumerate() {
            if !more(written, self.tensors.len()) {
                return Ok(false);
            }
            let Tensor { shape, data, .. } = self.tensor(name)?.expect("a name of its own");
            let Some((layout, _, rows, cols)) = codes(name, &shape) else {
                writer.write(name, 0, &data)?;
                continue;
            };
            let weight = Weight::Float(FloatWeight::new(FloatEncoding::F16, rows, cols, data));
            let weight = layout.encoding.encode(cpu, name, weight, &|_| ())?;
            for (planned, bytes) in planned(name, &shape).iter().zip(layout.contents(&weight, FloatEncoding::F16)) {
                writer.write(&planned.name, 0, &bytes)?;
            }
        }
        writer.finish()?;
        Ok(true)
    }
}

/// A tokenizer of as many tokens as a shape has rows: a token a byte, and words that no text is cut into, but that ids
/// are written as.
fn tokenizer(vocab_size: usize) -> Value {
    let special = ["<unk>", "<s>", "</s>", "<pad>"];
    let mut tokens: Vec<String> = special.map(str::to_owned).into();
    tokens.extend(byte_letters().map(String::from));
    tokens.extend((tokens.len()..vocab_size).map(|id| format!("{SPACE}w{id}")));
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let vocab: serde_json::Map<String, Value> =
        tokens.into_iter().take(vocab_size).enumerate().map(|(id, token)| (token, id.into())).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": bytes, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

/// The letter of a space among [`byte_letters`].
const SPACE: char = 'Ġ';

/// What stands for each byte in the vocabulary of GPT-2 and its followers: itself where it can be seen, else the next
/// letter after Latin-1.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut next = 256;
    (0..=255u8).map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("a letter beyond Latin-1")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::ShapeFamily;
    use crate::{Model, OpenOptions};

    const SMALL: Shape =
        Shape { name: "small", hidden_size: 64, num_blocks: 2, heads: 4, vocab_size: 700, family: ShapeFamily::Bloom };

    #[test]
    fn a_folder_is_the_model_that_was_written() {
        let parent = tempfile::tempdir().unwrap();
        let source = RandomModel::new(&SMALL.spec(), 5, true, 2);
        for encoding in Encoding::OF_FOLDERS {
            let options = OpenOptions::new(Cpu::new(2), 1 << 30, encoding);
            let folder = parent.path().join(encoding.name());
            assert!(source.write(&SMALL, &options.cpu, encoding, &folder, &mut |_, _| true).unwrap());
            let written = Model::open(&folder, &options).unwrap();
            let made = crate::Network::from_source(&source, SMALL.spec(), &options).unwrap();
            assert_eq!(written.spec.stored.linears, encoding);
            let same = written.weights().zip(made.weights()).all(|(a, b)| a.data() == b.data());
            assert!(same && written.linears.len() == made.linears.len(), "{encoding}");
            let ids = written.tokenizer.encode("Grüße 1", false).unwrap().ids;
            assert_eq!(ids.len(), "Grüße 1".len());
            assert_eq!(written.tokenizer.decode(&ids, true).unwrap(), "Grüße 1");
            assert_eq!(written.tokenizer.decode(&[699], true).unwrap().trim(), "w699");
            assert!(source.write(&SMALL, &options.cpu, encoding, &folder, &mut |_, _| true).is_err(), "is there");
        }
        let killed = parent.path().join(".stopped.bouquet-part");
        std::fs::create_dir(&killed).unwrap();
        std::fs::write(killed.join(".bouquet-x.part"), "of a process that was killed").unwrap();
        let stopped = parent.path().join("stopped");
        let cpu = Cpu::new(1);
        assert!(!source.write(&SMALL, &cpu, Encoding::F32, &stopped, &mut |written, _| written < 3).unwrap());
        assert_eq!(
            std::fs::read_dir(parent.path()).unwrap().count(),
            Encoding::OF_FOLDERS.len(),
            "nothing half-written"
        );
    }
}
