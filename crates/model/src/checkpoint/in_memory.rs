//! Tensors made by a program.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::{Dtype, Tensor, TensorSource};
use crate::Result;

/// Named tensors in memory: what tests and converters read a model from.
#[derive(Clone, Debug, Default)]
pub struct InMemory {
    /// The tensors.
    pub tensors: BTreeMap<String, Tensor>,
}

impl InMemory {
    /// Copies every tensor of another source, by name; big ones stay where they are.
    ///
    /// # Errors
    /// Those of the source.
    pub fn copy_of(source: &dyn TensorSource) -> Result<InMemory> {
        let mut tensors = BTreeMap::new();
        for name in source.names() {
            if let Some(tensor) = source.tensor(name)? {
                tensors.insert(name.to_owned(), tensor);
            }
        }
        Ok(InMemory { tensors })
    }

    /// Adds a tensor, in place of another of that name. Panics when there are not as many numbers as `shape` says.
    pub fn insert_f32(&mut self, name: &str, shape: &[usize], numbers: &[f32]) {
        assert_eq!(numbers.len(), shape.iter().product::<usize>(), "numbers of {name}, of shape {shape:?}");
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let tensor = Tensor { dtype: Dtype::F32, shape: shape.to_vec(), data: Bytes::from(data) };
        self.tensors.insert(name.to_owned(), tensor);
    }
}

impl TensorSource for InMemory {
    fn location(&self) -> &Path {
        Path::new("memory")
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.tensors.get(name).cloned())
    }
}
