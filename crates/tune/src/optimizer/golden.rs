//! For tests: tensors that others computed, in `tests/fixtures/goldens`.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// The tensors of one file.
pub(super) struct Golden(Vec<u8>);

impl Golden {
    /// `name` below `goldens`, without ending.
    pub(super) fn load(name: &str) -> Golden {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens");
        Golden(fs::read(folder.join(format!("{name}.safetensors"))).unwrap())
    }

    /// A tensor of f32.
    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name, Dtype::F32).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// A tensor of f64.
    pub(super) fn doubles(&self, name: &str) -> Vec<f64> {
        self.bytes(name, Dtype::F64).as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
    }

    /// A tensor of bytes.
    pub(super) fn codes(&self, name: &str) -> Vec<u8> {
        self.bytes(name, Dtype::U8)
    }

    /// All tensors of f32 whose name begins so, by the rest of it, in order.
    pub(super) fn floats_below(&self, prefix: &str) -> Vec<(String, Vec<f32>)> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let mut names: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).collect();
        names.sort_unstable();
        names.into_iter().map(|name| (name.to_owned(), self.floats(&format!("{prefix}{name}")))).collect()
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().to_vec()
    }
}
