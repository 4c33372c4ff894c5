//! The form that a model is in: a folder, or a GGUF file, which is opened once for all that is read of it.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::gguf::{GgufFile, is_gguf};

/// A folder, of which nothing is read yet, or an open GGUF file. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// As Hugging Face has them.
    Folder(PathBuf),
    /// With all that a folder says in its metadata.
    Gguf(GgufFile),
}

impl Form {
    /// Opens what is at a path, if it is a GGUF file.
    ///
    /// # Errors
    /// Those of [`GgufFile::open`].
    pub(crate) fn open(model: &Path) -> Result<Form> {
        Ok(if is_gguf(model) { Form::Gguf(GgufFile::open(model)?) } else { Form::Folder(model.to_owned()) })
    }
}
