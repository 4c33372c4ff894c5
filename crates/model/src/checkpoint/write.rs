//! Writes a safetensors file a piece at a time, so that nothing has to be held whole. Sizes are declared first; then
//! tensors come one after another ([`write()`]), or in pieces in any order ([`Writer`]). A file comes into being under its
//! name when all of it is on the disk; until then it is a temporary file beside, which is removed if anything goes wrong.
//!
//! ```
//! use bouquet_model::checkpoint::write::{Planned, write};
//! use bouquet_model::checkpoint::{Dtype, safetensors::SafetensorsFile};
//! # let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("model.safetensors");
//! let plan = [Planned::new("norm.weight", Dtype::F32, &[2])];
//! write(&path, &plan, [1.0f32, 2.0].map(f32::to_le_bytes).chunks(2).map(|numbers| Ok(numbers.concat())))?;
//! let tensor = SafetensorsFile::open(&path)?.unwrap().tensor("norm.weight").unwrap();
//! assert_eq!((tensor.shape, tensor.data.len()), (vec![2], 8));
//! # Ok::<(), bouquet_model::ModelError>(())
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::{NamedTempFile, TempPath};

use super::Dtype;
use super::new_file::{self, cannot_write};
use super::parts::wrong;
use super::safetensors::MAX_HEADER_BYTES;
use crate::Result;

/// A tensor to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name; no other has it.
    pub name: String,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// A file that is being written.
pub struct Writer {
    target: PathBuf,
    file: NamedTempFile,
    places: BTreeMap<String, Place>,
}

/// Where the bytes of a tensor are, from the beginning of the file.
#[derive(Clone, Copy)]
struct Place {
    start: u64,
    end: u64,
    /// How many of them have been written.
    written: u64,
}

impl Planned {
    /// A tensor to come.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize]) -> Self {
        Planned { name: name.into(), dtype, shape: shape.to_vec() }
    }

    /// Bytes that it will have; `None` when they are more than can be counted, or a number is of an unknown size.
    pub fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.dtype.bytes()?, |bytes, &axis| bytes.checked_mul(axis as u64))
    }
}

/// Writes a whole file: `tensors` gives the bytes of each planned tensor in the order of the plan, row-major and
/// little-endian, and is asked for the next one when the one before is written.
///
/// # Errors
/// Those of [`Writer`] and of `tensors`; nothing is left then, and a file that was there before is as it was. Panics
/// when there are more or fewer tensors than planned, or one of another length.
pub fn write<B: AsRef<[u8]>>(
    path: &Path,
    plan: &[Planned],
    tensors: impl IntoIterator<Item = Result<B>>,
) -> Result<()> {
    let mut writer = Writer::create(path)?;
    writer.plan(plan)?;
    let mut tensors = tensors.into_iter();
    for Planned { name, .. } in plan {
        let tensor = tensors.next().unwrap_or_else(|| panic!("{name} was planned, and no bytes of it came"));
        writer.write(name, 0, tensor?.as_ref())?;
    }
    assert!(tensors.next().is_none(), "more tensors came than were planned");
    writer.finish()
}

impl Writer {
    /// Begins a file, which shows whether it can be written at all.
    ///
    /// # Errors
    /// [`ModelError::NotAFile`](crate::ModelError::NotAFile) for a folder, or for what is there and no plain file;
    /// [`ModelError::Write`](crate::ModelError::Write).
    pub fn create(target: &Path) -> Result<Self> {
        let file = new_file::begin(target)?;
        Ok(Writer { target: target.to_owned(), file, places: BTreeMap::new() })
    }

    /// The same for a file that is long in the making: it lies beside the target, under its name with `.part` behind
    /// ([`unfinished`](Self::unfinished)), and stays there when the writer is dropped or the program ends, so that the next
    /// one goes on with it. The same plan and [`skip`](Self::skip) of what is written already make it whole.
    ///
    /// # Errors
    /// [`ModelError::Write`](crate::ModelError::Write).
    pub fn resume(target: &Path) -> Result<Self> {
        let failed = |source| cannot_write(target, source);
        let part = Writer::unfinished(target);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&part).map_err(failed)?;
        let mut file = NamedTempFile::from_parts(file, TempPath::try_from_path(part).map_err(failed)?);
        file.disable_cleanup(true);
        Ok(Writer { target: target.to_owned(), file, places: BTreeMap::new() })
    }

    /// Where [`resume`](Self::resume) has the file until it is whole.
    pub fn unfinished(target: &Path) -> PathBuf {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        path.into()
    }

    /// The temporary file, for a program that is ended from outside to remove.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the header. Those of larger numbers come first in the file, so that all are aligned.
    ///
    /// # Errors
    /// [`ModelError::Tensor`](crate::ModelError::Tensor) for a name that stands twice, for a type whose size is not known,
    /// and for what no file can hold; [`ModelError::Write`](crate::ModelError::Write).
    pub fn plan(&mut self, tensors: &[Planned]) -> Result<()> {
        let refuse = |name: &str, problem: &str| wrong(name, problem.to_owned());
        let mut in_order: Vec<&Planned> = tensors.iter().collect();
        in_order.sort_by_key(|planned| std::cmp::Reverse(planned.dtype.bytes()));
        // transformers opens files that say whose tensors they are, and no others.
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
        let mut end = 0u64;
        for planned in in_order {
            let Planned { name, dtype, shape } = planned;
            let start = end;
            match planned.bytes().and_then(|bytes| start.checked_add(bytes)) {
                Some(next) => end = next,
                None => return refuse(name, "would be too large for a file, or holds numbers of an unknown size"),
            }
            let entry = json!({ "dtype": dtype.to_string(), "shape": shape, "data_offsets": [start, end] });
            if header.insert(name.clone(), entry).is_some() {
                return refuse(name, "was to be written twice");
            }
            self.places.insert(name.clone(), Place { start, end, written: 0 });
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let data = 8 + header.len() as u64;
        if header.len() as u64 > MAX_HEADER_BYTES || data.checked_add(end).is_none() {
            let name = tensors.first().map_or("", |planned| &planned.name);
            return refuse(name, "and those beside it are too many for a file");
        }
        for place in self.places.values_mut() {
            (place.start, place.end) = (place.start + data, place.end + data);
        }
        self.write_at(0, &(header.len() as u64).to_le_bytes())?;
        self.write_at(8, header.as_bytes())
    }

    /// Writes a part of a planned tensor, `offset` bytes from its beginning. No byte may be written twice. Panics for a
    /// tensor that was not planned, and beyond its end.
    ///
    /// # Errors
    /// [`ModelError::Write`](crate::ModelError::Write).
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.places.get_mut(name).unwrap_or_else(|| panic!("{name} was not planned"));
        let (length, planned) = (bytes.len() as u64, place.end - place.start);
        let inside = offset.checked_add(length).is_some_and(|end| end <= planned);
        assert!(inside, "{length} bytes at {offset} of {name}, which has {planned}");
        place.written += length;
        let start = place.start + offset;
        self.write_at(start, bytes)
    }

    /// The same for f32, `first` numbers from the beginning of the tensor.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_f32(&mut self, name: &str, first: usize, numbers: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write(name, 4 * first as u64, &bytes)
    }

    /// The same for a whole i64 tensor.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_i64(&mut self, name: &str, numbers: &[i64]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write(name, 0, &bytes)
    }

    /// Takes a planned tensor for written, as it was before [`resume`](Self::resume). Panics for one that was not planned.
    pub fn skip(&mut self, name: &str) {
        let place = self.places.get_mut(name).unwrap_or_else(|| panic!("{name} was not planned"));
        place.written = place.end - place.start;
    }

    /// Waits until the disk has all that was written.
    ///
    /// # Errors
    /// [`ModelError::Write`](crate::ModelError::Write).
    pub fn sync(&self) -> Result<()> {
        self.file.as_file().sync_data().map_err(|source| cannot_write(&self.target, source))
    }

    /// Puts the file in its place, once the disk has it. Panics when a planned tensor was not written whole.
    ///
    /// # Errors
    /// [`ModelError::Write`](crate::ModelError::Write).
    pub fn finish(self) -> Result<()> {
        for (name, Place { start, end, written }) in &self.places {
            assert_eq!(*written, end - start, "bytes written of {name}");
        }
        new_file::put_in_place(self.file, &self.target)
    }

    fn write_at(&mut self, place: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_file_mut();
        let written = file.seek(SeekFrom::Start(place)).and_then(|_| file.write_all(bytes));
        written.map_err(|source| cannot_write(&self.target, source))
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::SafeTensors;

    use super::*;
    use crate::ModelError;

    #[test]
    fn what_is_written_in_pieces_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.safetensors");
        let mut file = Writer::create(&target).unwrap();
        let plan = [
            Planned::new("x", Dtype::F32, &[2, 2]),
            Planned::new("u", Dtype::U8, &[3]),
            Planned::new("lengths", Dtype::I64, &[1]),
        ];
        file.plan(&plan).unwrap();
        file.write_f32("x", 2, &[3.0, 4.0]).unwrap();
        file.write("u", 0, &[7, 8, 9]).unwrap();
        file.write_f32("x", 0, &[1.0, 2.0]).unwrap();
        file.write_i64("lengths", &[2]).unwrap();
        assert!(!target.exists());
        file.finish().unwrap();

        let bytes = std::fs::read(&target).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("lengths").unwrap().data(), 2i64.to_le_bytes());
        assert_eq!(tensors.tensor("u").unwrap().data(), [7, 8, 9]);
        let x = tensors.tensor("x").unwrap();
        assert_eq!(x.shape(), [2, 2]);
        assert_eq!(x.data(), [1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
        // Larger numbers first: each is aligned to its own size.
        for (name, alignment) in [("lengths", 8), ("x", 4)] {
            let place = tensors.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(place % alignment, 0, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn tensors_are_asked_for_one_by_one_and_one_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.safetensors");
        std::fs::write(&target, "what was there before").unwrap();
        let plan = [Planned::new("a", Dtype::I8, &[1]), Planned::new("b", Dtype::F16, &[1])];
        let failing = [Ok(vec![1]), Err(ModelError::Config("a tensor that cannot be made".into()))];
        assert!(matches!(write(&target, &plan, failing), Err(ModelError::Config(_))));
        assert_eq!(std::fs::read(&target).unwrap(), b"what was there before");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        write(&target, &plan, [Ok(vec![1]), Ok(vec![2, 3])]).unwrap();
        let bytes = std::fs::read(&target).unwrap();
        assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("b").unwrap().data(), [2, 3]);
    }

    #[test]
    fn plans_that_no_file_can_hold_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for plan in [
            vec![Planned::new("x", Dtype::F32, &[usize::MAX, 2])],
            vec![Planned::new("x", Dtype::I8, &[usize::MAX]), Planned::new("y", Dtype::I8, &[usize::MAX])],
            vec![Planned::new("x", Dtype::F32, &[1]), Planned::new("x", Dtype::F32, &[2])],
            vec![Planned::new("__metadata__", Dtype::F32, &[1])],
            vec![Planned::new("x", Dtype::Other("C64".into()), &[1])],
        ] {
            let mut file = Writer::create(&folder.path().join("out.safetensors")).unwrap();
            assert!(matches!(file.plan(&plan), Err(ModelError::Tensor { .. })), "{plan:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    #[should_panic(expected = "bytes written of x")]
    fn a_tensor_that_is_missing_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Writer::create(&folder.path().join("out.safetensors")).unwrap();
        file.plan(&[Planned::new("x", Dtype::F32, &[2])]).unwrap();
        file.write_f32("x", 1, &[1.0]).unwrap();
        let _ = file.finish();
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(Writer::create(&folder.path().join("out.safetensors")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_plain_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Writer::create(folder.path()), Err(ModelError::NotAFile { .. })));
        let missing = folder.path().join("missing/out.safetensors");
        let (found, problem) = (Writer::create(&missing).err().unwrap(), File::open(&missing).err().unwrap());
        assert_eq!(found.to_string(), format!("cannot write {}: {problem}", missing.display()));
        #[cfg(unix)]
        assert!(matches!(Writer::create(Path::new("/dev/null")), Err(ModelError::NotAFile { .. })));
    }
}
