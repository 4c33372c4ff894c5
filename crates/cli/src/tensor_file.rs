//! Writes a safetensors file a piece at a time, so that nothing has to be held whole. It comes into being under its name
//! when all of it is on the disk; until then it is a temporary file beside, which is removed if anything goes wrong.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::errors::{asked_wrongly, wrong};
use crate::interrupt::HalfWritten;

/// A tensor to come.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

/// Type of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    I64,
}

/// A file that is being written.
pub(crate) struct TensorFile {
    target: PathBuf,
    file: NamedTempFile,
    /// Where the bytes of each tensor are: first, and one beyond the last.
    places: BTreeMap<String, (u64, u64)>,
    _half_written: HalfWritten,
}

impl TensorFile {
    /// Begins a file, which shows whether it can be written at all.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        if target.file_name().is_none() || target.is_dir() {
            return Err(asked_wrongly(
                format!("{} is a folder, not a file to write", target.display()),
                "give the path of a file: out.safetensors",
            ));
        }
        if target.exists() && !target.is_file() {
            return Err(asked_wrongly(
                format!("{} is not a plain file, and would be replaced by one", target.display()),
                "give the path of a new file",
            ));
        }
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".bouquet-").suffix(".part");
        if let Some(permissions) = usual_permissions() {
            builder.permissions(permissions);
        }
        // By its kind alone: the error would name the temporary file, which the user never asked for.
        let file = builder.tempfile_in(folder).map_err(|error| std::io::Error::from(error.kind()));
        let file = file.with_context(|| format!("cannot write {}", target.display()))?;
        let half_written = HalfWritten::begin(file.path());
        Ok(TensorFile { target: target.to_owned(), file, places: BTreeMap::new(), _half_written: half_written })
    }

    /// Writes the header. Tensors of larger numbers should come first, so that all are aligned.
    pub(crate) fn plan(&mut self, tensors: &[Planned]) -> Result<()> {
        let (mut header, mut end) = (Map::new(), 0u64);
        let mut offsets = Vec::with_capacity(tensors.len());
        for Planned { name, dtype, shape } in tensors {
            let size = shape.iter().try_fold(dtype.bytes(), |size, &axis| size.checked_mul(axis as u64));
            let too_large = || wrong(format!("the tensor {name} would be too large for a file"), "give less at a time");
            let start = end;
            end = size.and_then(|size| start.checked_add(size)).ok_or_else(too_large)?;
            let entry = json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, end] });
            header.insert(name.clone(), entry);
            offsets.push((name.clone(), start, end));
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let data = 8 + header.len() as u64;
        self.places = offsets.into_iter().map(|(name, start, end)| (name, (data + start, data + end))).collect();
        self.write_at(0, &(header.len() as u64).to_le_bytes())?;
        self.write_at(8, header.as_bytes())
    }

    /// Writes a part of an f32 tensor, `first` numbers from its beginning.
    pub(crate) fn write_f32(&mut self, name: &str, first: usize, numbers: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write(name, first as u64 * Dtype::F32.bytes(), &bytes)
    }

    /// Writes a whole i64 tensor.
    pub(crate) fn write_i64(&mut self, name: &str, numbers: &[i64]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write(name, 0, &bytes)
    }

    /// Puts the file in its place, once the disk has it.
    pub(crate) fn finish(self) -> Result<()> {
        let failed = || format!("cannot write {}", self.target.display());
        self.file.as_file().sync_all().with_context(failed)?;
        self.file.persist(&self.target).map_err(|error| error.error).with_context(failed)?;
        // The name is on the disk when its folder is; where folders cannot be opened, the system sees to it.
        if let Some(Ok(folder)) = self.target.parent().map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let (start, end) = self.places[name];
        let place = start + offset;
        assert!(
            place + bytes.len() as u64 <= end,
            "{} bytes at {offset} of {name}, which has {}",
            bytes.len(),
            end - start
        );
        self.write_at(place, bytes)
    }

    fn write_at(&mut self, place: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_file_mut();
        let written = file.seek(SeekFrom::Start(place)).and_then(|_| file.write_all(bytes));
        written.with_context(|| format!("cannot write {}", self.target.display()))
    }
}

impl Dtype {
    fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::I64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::I64 => "I64",
        }
    }
}

/// What a program gives its files, before the user's mask: temporary ones are for their owner alone otherwise.
#[cfg(unix)]
fn usual_permissions() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn usual_permissions() -> Option<Permissions> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn what_is_written_in_pieces_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.safetensors");
        let mut file = TensorFile::create(&target).unwrap();
        let planned = |name: &str, dtype, shape: &[usize]| Planned { name: name.into(), dtype, shape: shape.into() };
        file.plan(&[planned("lengths", Dtype::I64, &[1]), planned("x", Dtype::F32, &[2, 2])]).unwrap();
        file.write_f32("x", 2, &[3.0, 4.0]).unwrap();
        file.write_f32("x", 0, &[1.0, 2.0]).unwrap();
        file.write_i64("lengths", &[2]).unwrap();
        assert!(!target.exists());
        file.finish().unwrap();

        let bytes = std::fs::read(&target).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("lengths").unwrap().data(), 2i64.to_le_bytes());
        let x = tensors.tensor("x").unwrap();
        assert_eq!(x.shape(), [2, 2]);
        assert_eq!(x.data(), [1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(TensorFile::create(&folder.path().join("out.safetensors")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_plain_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(TensorFile::create(folder.path()).is_err());
        assert!(TensorFile::create(&folder.path().join("missing/out.safetensors")).is_err());
        #[cfg(unix)]
        assert!(TensorFile::create(Path::new("/dev/null")).is_err());
    }
}
