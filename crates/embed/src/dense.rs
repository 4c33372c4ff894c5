//! A linear map behind the pooling, `y = W x + b`: the step that sentence-transformers calls Dense, and its folder:
//!
//! ```text
//! config.json         {"in_features": ..., "out_features": ..., "bias": true, "activation_function": ...Identity}
//! model.safetensors   linear.weight [out_features, in_features], linear.bias [out_features]
//! ```

use std::fs;
use std::path::Path;

use bouquet_kernels::product::product;
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_model::ModelError;
use bouquet_model::checkpoint::Dtype;
use bouquet_model::checkpoint::new_file::write_whole;
use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use bouquet_model::checkpoint::write::{Planned, write};
use serde_json::{Map, Value, json};

use crate::sentence_transformers::read_object;
use crate::{EmbedError, Result};

const CONFIG: &str = "config.json";
const TENSORS: &str = "model.safetensors";
const WEIGHT: &str = "linear.weight";
const BIAS: &str = "linear.bias";

/// What follows the map: nothing. Where a folder does not say so, sentence-transformers takes a tanh.
const IDENTITY: &str = "torch.nn.modules.linear.Identity";

/// What is read and written by it. Another is refused.
const EMBEDDING: &str = "sentence_embedding";

/// Channels of an embedding at most, before and behind the map: more than any model has.
const MAX_FEATURES: u64 = 1 << 16;

/// A linear map of embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[out_features, in_features]`.
    pub weight: Matrix,
    /// `[out_features]`.
    pub bias: Vec<f32>,
}

impl Dense {
    /// `rows`, `[sentences, in_features]`, to `[sentences, out_features]`: products by rule 1 of the kernels, then the
    /// bias added. Panics on another number of channels.
    pub fn forward(&self, cpu: &Cpu, rows: MatrixView<'_>) -> Matrix {
        let mut out = Matrix::zeros(rows.rows(), self.bias.len());
        product(cpu, rows, self.weight.view(), out.view_mut());
        for row in 0..out.rows() {
            out.row_mut(row).iter_mut().zip(&self.bias).for_each(|(y, bias)| *y += bias);
        }
        out
    }

    /// Opens the folder of such a step.
    ///
    /// # Errors
    /// Files that are not there, cannot be read or do not belong together; numbers that are not finite; what is not done
    /// here, by name: an activation, a residual, other inputs than the embedding.
    pub fn open(folder: &Path) -> Result<Dense> {
        let path = folder.join(CONFIG);
        let origin = path.display().to_string();
        let config = read_object(&path)?.ok_or_else(|| EmbedError::file(&origin, "is missing"))?;
        let fail = |problem: String| EmbedError::file(&origin, problem);
        check_known(&config).map_err(fail)?;
        let features = |name: &str| match config.get(name).and_then(Value::as_u64) {
            Some(number @ 1..=MAX_FEATURES) => Ok(number as usize),
            _ => Err(fail(format!("should have from 1 to {MAX_FEATURES} {name}"))),
        };
        let (inputs, outputs) = (features("in_features")?, features("out_features")?);

        let path = folder.join(TENSORS);
        let fail = |problem: String| EmbedError::file(&path.display().to_string(), problem);
        let file = SafetensorsFile::open(&path)?
            .ok_or_else(|| fail("is missing, and weights are read from no other file".to_owned()))?;
        let has_bias = config.get("bias").and_then(Value::as_bool) != Some(false);
        let weight = floats(&file, WEIGHT, &[outputs, inputs]).map_err(fail)?;
        let bias = if has_bias { floats(&file, BIAS, &[outputs]).map_err(fail)? } else { vec![0.0; outputs] };
        Ok(Dense { weight: Matrix::from_vec(outputs, inputs, weight), bias })
    }

    /// Writes such a folder; makes it if it is not there. Each file is whole or not there at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &Path) -> bouquet_model::Result<()> {
        fs::create_dir_all(folder).map_err(|source| ModelError::Write { path: folder.to_owned(), source })?;
        let (outputs, inputs) = (self.weight.rows(), self.weight.cols());
        let plan = [Planned::new(WEIGHT, Dtype::F32, &[outputs, inputs]), Planned::new(BIAS, Dtype::F32, &[outputs])];
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        write(&folder.join(TENSORS), &plan, [self.weight.data(), &self.bias].into_iter().map(|part| Ok(bytes(part))))?;
        let config = json!({
            "in_features": inputs,
            "out_features": outputs,
            "bias": true,
            "activation_function": IDENTITY,
        });
        write_whole(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())
    }
}

/// Whether settings ask for no more than `W x + b`; else what for, as the end of a sentence.
fn check_known(config: &Map<String, Value>) -> std::result::Result<(), String> {
    match config.get("activation_function").and_then(Value::as_str) {
        Some(IDENTITY) => {}
        Some(other) => return Err(format!("asks for the activation {other:?}, and only {IDENTITY} is done here")),
        None => return Err(format!("names no activation, which is a tanh, and only {IDENTITY} is done here")),
    }
    if config.get("use_residual").is_some_and(|value| *value != false) {
        return Err("asks for a residual (use_residual), which is not done here".to_owned());
    }
    for name in ["module_input_name", "module_output_name"] {
        if config.get(name).is_some_and(|value| !value.is_null() && *value != EMBEDDING) {
            return Err(format!("has a {name} that is not {EMBEDDING}, which is not done here"));
        }
    }
    Ok(())
}

/// A tensor of this shape.
fn floats(file: &SafetensorsFile, name: &str, shape: &[usize]) -> std::result::Result<Vec<f32>, String> {
    let tensor = file.tensor(name).ok_or_else(|| format!("has no {name}"))?;
    if tensor.shape != shape || tensor.dtype != Dtype::F32 {
        let found = format!("{} numbers in shape {:?}", tensor.dtype, tensor.shape);
        return Err(format!("should have F32 numbers in shape {shape:?} as {name}, but has {found}"));
    }
    // As many as the shape says: that is checked when a file is opened.
    let numbers: Vec<f32> = tensor.data.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect();
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(numbers),
        Some(index) => Err(format!("has {} at index {index} of {name}", numbers[index])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outputs: usize, inputs: usize) -> Dense {
        let number = |i: usize| ((i * 37 % 29) as f32 - 13.0) / 8.0;
        let weight = Matrix::from_vec(outputs, inputs, (0..outputs * inputs).map(number).collect());
        Dense { weight, bias: (0..outputs).map(number).collect() }
    }

    #[test]
    fn the_map_is_a_product_and_a_bias_with_the_same_bits_on_any_threads() {
        let rows = Matrix::from_vec(2, 2, vec![1.0, 2.0, 0.0, 0.0]);
        let dense = Dense { weight: Matrix::from_vec(1, 2, vec![3.0, 0.5]), bias: vec![10.0] };
        assert_eq!(dense.forward(&Cpu::new(1), rows.view()).data(), [14.0, 10.0]);
        let (rows, dense) = (sample(50, 70).weight, sample(33, 70));
        let whole = dense.forward(&Cpu::new(1), rows.view());
        assert_eq!(dense.forward(&Cpu::new(3), rows.view()), whole);
        let alone = dense.forward(&Cpu::new(2), rows.slice(7..8));
        assert_eq!(alone.row(0), whole.row(7));
    }

    #[test]
    fn a_folder_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2_Dense");
        sample(3, 5).write(&path).unwrap();
        assert_eq!(Dense::open(&path).unwrap(), sample(3, 5));
        // Without a bias it is 0.
        let config = fs::read_to_string(path.join(CONFIG)).unwrap().replace("\"bias\": true", "\"bias\": false");
        fs::write(path.join(CONFIG), config).unwrap();
        assert_eq!(Dense::open(&path).unwrap().bias, [0.0; 3]);
    }

    #[test]
    fn every_lie_of_a_folder_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let refused = |problem: &str| {
            let found = Dense::open(path).unwrap_err().to_string();
            assert!(found.contains(problem), "{problem}: {found}");
        };
        refused("config.json is missing");
        sample(3, 5).write(path).unwrap();
        let config = fs::read_to_string(path.join(CONFIG)).unwrap();
        for (from, to, problem) in [
            ("\"in_features\": 5", "\"in_features\": 6", "should have F32 numbers in shape [3, 6] as linear.weight"),
            ("\"in_features\": 5", "\"in_features\": 99999999999999", "should have from 1 to 65536 in_features"),
            ("\"out_features\": 3", "\"out_features\": 0", "should have from 1 to 65536 out_features"),
            ("\"out_features\": 3", "\"out_features\": -3", "should have from 1 to 65536 out_features"),
            (
                IDENTITY,
                "torch.nn.modules.activation.Tanh",
                "asks for the activation \"torch.nn.modules.activation.Tanh\"",
            ),
            ("\"activation_function\"", "\"activation\"", "names no activation, which is a tanh"),
            ("\"bias\": true", "\"use_residual\": true", "asks for a residual"),
            ("\"bias\": true", "\"module_input_name\": \"token_embeddings\"", "has a module_input_name"),
        ] {
            fs::write(path.join(CONFIG), config.replace(from, to)).unwrap();
            refused(problem);
        }
        fs::write(path.join(CONFIG), &config).unwrap();
        let mut broken = sample(3, 5);
        broken.weight.row_mut(1)[2] = f32::NAN;
        broken.write(path).unwrap();
        refused("has NaN at index 7 of linear.weight");
        sample(3, 5).write(path).unwrap();
        let bytes = fs::read(path.join(TENSORS)).unwrap();
        fs::write(path.join(TENSORS), &bytes[..bytes.len() - 1]).unwrap();
        refused(TENSORS);
        fs::write(path.join(TENSORS), b"\x80\x02}q\x00.").unwrap();
        refused(TENSORS);
        fs::remove_file(path.join(TENSORS)).unwrap();
        refused("model.safetensors is missing");
    }
}
