//! The tensors of a GGUF file by the names that transformers has for them, and with their rows in its order ([`layout`]).
//! A matrix whose rows stand in another order is copied when it is asked for; all others stay in the mapped file.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::layout::{self, RowOrder};
use super::{GgufFile, dtype};
use crate::checkpoint::{Tensor, TensorSource};
use crate::spec::{AttentionSpec, ModelSpec};
use crate::{ModelError, Result};

/// The tensors of a file that its model needs.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensors {
    file: GgufFile,
    attention: AttentionSpec,
    /// By the names of the family.
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Place {
    /// Its name in the file.
    name: String,
    /// Which of the experts that lie in one tensor.
    expert: Option<usize>,
    order: RowOrder,
}

impl GgufTensors {
    /// Finds the tensors of the model that a file describes.
    ///
    /// # Errors
    /// Those of [`GgufFile::spec`].
    pub(crate) fn of(file: GgufFile) -> Result<GgufTensors> {
        let spec = file.spec()?;
        let tensors = places(&file, &spec).filter(|(_, place)| file.has(&place.name)).collect();
        Ok(GgufTensors { attention: spec.block.attention.clone(), tensors, file })
    }

    /// What a tensor that the file lacks would be called in it.
    pub(crate) fn name_in_file(&self, name: &str) -> Option<String> {
        let spec = self.file.spec().ok()?;
        places(&self.file, &spec).find(|(known, _)| known == name).map(|(_, place)| place.name)
    }

    fn read(&self, place: &Place) -> Result<Option<Tensor>> {
        let Some((info, mut data)) = self.file.tensor(&place.name) else { return Ok(None) };
        let mut shape = info.shape.clone();
        if let Some(expert) = place.expert {
            let wrong = || {
                let problem = format!("has shape {shape:?}, of which expert {expert} cannot be taken");
                ModelError::Tensor { name: place.name.clone(), problem }
            };
            let &[experts, rows, cols] = &shape[..] else { return Err(wrong()) };
            if expert >= experts {
                return Err(wrong());
            }
            let bytes = data.len() / experts;
            data = data.slice(expert * bytes..(expert + 1) * bytes);
            shape = vec![rows, cols];
        }
        if let Some(order) = place.order.rows(&self.attention, shape.first().copied().unwrap_or(0)) {
            data = reordered(&data, &order);
        }
        Ok(Some(Tensor { dtype: dtype(info.kind), shape, data }))
    }
}

impl TensorSource for GgufTensors {
    fn location(&self) -> &Path {
        self.file.path()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        self.tensors.get(name).map_or(Ok(None), |place| self.read(place))
    }

    fn release(&self, data: &[u8]) {
        self.file.release(data);
    }
}

/// Where a file has the tensors of its model, or would have them, by the names of the family.
fn places(file: &GgufFile, spec: &ModelSpec) -> impl Iterator<Item = (String, Place)> {
    let interleaved = matches!(file.metadata().optional_text("general.architecture"), Ok(Some("llama")));
    layout::places(spec, interleaved).into_iter().flat_map(|layout::Place { name, in_file, expert, order, .. }| {
        let (in_file, expert) = match expert {
            // Older files have a tensor for each expert.
            Some(number) if file.has(&format!("{in_file}.{number}.weight")) => (format!("{in_file}.{number}"), None),
            Some(_) => (format!("{in_file}_exps"), expert),
            None => (in_file, None),
        };
        ["weight", "bias"].map(|part| {
            let place = Place { name: format!("{in_file}.{part}"), expert, order };
            (spec.names.full_name(&format!("{name}.{part}")), place)
        })
    })
}

/// Rows put in order.
fn reordered(data: &Bytes, order: &[usize]) -> Bytes {
    let row_bytes = data.len() / order.len().max(1);
    let mut rows = Vec::with_capacity(data.len());
    for &row in order {
        rows.extend_from_slice(&data[row * row_bytes..(row + 1) * row_bytes]);
    }
    rows.into()
}
