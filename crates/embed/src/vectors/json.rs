//! Vectors as JSON lines: `{"id": "a", "text": "One.", "embedding": [0.5, 1e-3]}`, numbers in as many digits as they need.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bouquet_kernels::{Matrix, MatrixView};
use serde::{Deserialize, Serialize};

use super::{Label, MAX_COLS, Rows, block_rows, check};
use crate::texts::{Lines, Text, TextName};
use crate::{EmbedError, Result};

/// A line.
#[derive(Deserialize, Serialize)]
struct Line<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<TextName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    embedding: Cow<'a, [f32]>,
}

/// A file that is being read.
pub struct Reader {
    lines: Lines,
    cols: Option<usize>,
    /// Vectors that have been read.
    done: usize,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Reader { lines: Lines::open(path)?, cols: None, done: 0 })
    }

    pub(super) fn next_rows(&mut self) -> Result<Option<Rows>> {
        let (mut numbers, mut labels) = (Vec::new(), Vec::new());
        while labels.len() < block_rows(self.cols.unwrap_or(MAX_COLS)) {
            let Some(line) = self.lines.next().transpose()? else { break };
            if line.trim().is_empty() {
                continue;
            }
            let fail = |problem: String| EmbedError::line(self.lines.origin(), self.lines.number(), problem);
            let Line { id, text, embedding } = serde_json::from_str(&line)
                .map_err(|error| fail(format!("it is not an object with an embedding: {error}")))?;
            let cols = *self.cols.get_or_insert(embedding.len());
            if embedding.len() != cols || cols == 0 || cols > MAX_COLS {
                return Err(fail(format!("its embedding has {} numbers, where {cols} belong", embedding.len())));
            }
            check(self.lines.origin(), self.done, &embedding)?;
            self.done += 1;
            numbers.extend_from_slice(&embedding);
            labels.push(Label { id, text: text.map(Cow::into_owned) });
        }
        match self.cols {
            Some(cols) if !labels.is_empty() => {
                Ok(Some(Rows { vectors: Matrix::from_vec(labels.len(), cols, numbers), labels }))
            }
            _ => Ok(None),
        }
    }
}

/// Appends lines.
pub(super) fn write(file: &mut impl Write, texts: &[Text], vectors: MatrixView<'_>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for (row, Text { id, text }) in texts.iter().enumerate() {
        let line = Line { id: id.clone(), text: Some(text.into()), embedding: vectors.row(row).into() };
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}
