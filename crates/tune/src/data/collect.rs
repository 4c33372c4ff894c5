//! What rows of all formats become: records, counted bad rows, a fingerprint.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::columns::{Columns, Mapping, Reading, Shape, choose};
use super::record::records;
use super::{BadRow, DataError, DataSet, Place, ReadOptions, Record, Result};

/// Bad rows that are kept; all are counted.
const KEPT_BAD_ROWS: usize = 20;

/// Records after which it is told how far reading is.
const TELL_EVERY: u64 = 4096;

/// Gathers what is in files, one after another.
pub(super) struct Collector<'a> {
    options: &'a ReadOptions,
    /// Takes the file and the number of records.
    tell: &'a mut dyn FnMut(&str, u64),
    file: String,
    /// Of this file; nothing until its columns are known.
    mapping: Option<Mapping>,
    /// What all files have.
    shape: Option<Shape>,
    /// How many negatives all records have, once one is there.
    negatives: Option<usize>,
    /// Bytes that the records take in memory, about.
    held: u64,
    fingerprint: Sha256,
    data: DataSet,
}

impl<'a> Collector<'a> {
    pub(super) fn new(options: &'a ReadOptions, tell: &'a mut dyn FnMut(&str, u64)) -> Self {
        Collector {
            options,
            tell,
            file: String::new(),
            mapping: None,
            shape: None,
            negatives: None,
            held: 0,
            fingerprint: Sha256::new(),
            data: DataSet::default(),
        }
    }

    pub(super) fn options(&self) -> &'a ReadOptions {
        self.options
    }

    /// Goes on with another file.
    pub(super) fn begin(&mut self, file: &str) {
        self.file = file.to_owned();
        self.mapping = None;
    }

    pub(super) fn has_mapping(&self) -> bool {
        self.mapping.is_some()
    }

    /// The names of this file's columns, or their positions and the first row.
    pub(super) fn columns(&mut self, names: &[String], first_row: Option<&[String]>) -> Result<()> {
        let columns = Columns { names, first_row };
        let mapping = choose(&self.file, &columns, self.options.kind, &self.options.columns)?;
        let shape = *self.shape.get_or_insert(mapping.shape);
        if shape != mapping.shape {
            let (found, expected) = (mapping.shape.name(), shape.name());
            return Err(DataError::Mixed { file: self.file.clone(), found, expected });
        }
        let readings: Vec<Reading> = mapping.readings().collect();
        if !self.data.readings.iter().any(|(_, known)| *known == readings) {
            self.data.readings.push((self.file.clone(), readings));
        }
        self.mapping = Some(mapping);
        Ok(())
    }

    /// The columns that are read of this file.
    pub(super) fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("columns come before rows")
    }

    /// Takes a row, whose cells are asked for by the name and position of their columns. `spelled` says that numbers are
    /// texts in this file.
    pub(super) fn row(
        &mut self,
        place: Place,
        mut cell: impl FnMut(&str, usize) -> Value,
        spelled: bool,
    ) -> Result<()> {
        let mapping = self.mapping();
        let mut cells: Vec<Value> = Vec::with_capacity(mapping.columns.len());
        for (place, column) in mapping.columns.iter().enumerate() {
            // A column may be several parts of a record: its cell is taken once.
            let same = mapping.columns[..place].iter().position(|other| other.index == column.index);
            cells.push(same.map_or_else(|| cell(&column.name, column.index), |same| cells[same].clone()));
        }
        match records(mapping, cells, spelled).and_then(|records| self.even(records)) {
            Ok(records) => records.into_iter().try_for_each(|record| self.keep(record)),
            Err(reason) => self.bad(place, reason),
        }
    }

    /// Counts a row that cannot be used.
    pub(super) fn bad(&mut self, place: Place, reason: String) -> Result<()> {
        let row = BadRow { file: self.file.clone(), place, reason };
        if self.options.strict {
            return Err(DataError::BadRow(row));
        }
        self.data.bad_rows += 1;
        if self.data.bad.len() < KEPT_BAD_ROWS {
            self.data.bad.push(row);
        }
        Ok(())
    }

    /// Counts a row of a file in which rows need take no bytes.
    pub(super) fn count_row(&mut self) -> Result<()> {
        self.hold(size_of::<Record>() as u64)
    }

    /// Refuses what is larger than all data may be.
    pub(super) fn check_size(&self, bytes: u64) -> Result<()> {
        let limit = self.options.max_bytes;
        if bytes > limit { Err(DataError::TooLarge { file: self.file.clone(), limit }) } else { Ok(()) }
    }

    /// Why a long row is a bad one.
    pub(super) fn too_long(&self) -> String {
        format!("it is longer than {} bytes", self.options.max_row_bytes)
    }

    /// The data, once all files are read.
    pub(super) fn finish(mut self) -> Result<DataSet> {
        if self.data.records.is_empty() {
            return Err(DataError::Empty { bad: self.data.bad_rows, first: self.data.bad.into_iter().next() });
        }
        self.data.fingerprint = self.fingerprint.finalize().into();
        Ok(self.data)
    }

    /// Refuses records whose number of negatives is not that of the others.
    fn even(&mut self, records: Vec<Record>) -> std::result::Result<Vec<Record>, String> {
        for record in &records {
            if let Record::Pair { negatives, .. } = record {
                let expected = *self.negatives.get_or_insert(negatives.len());
                if negatives.len() != expected {
                    return Err(format!("it has {} negatives where others have {expected}", negatives.len()));
                }
            }
        }
        Ok(records)
    }

    fn keep(&mut self, record: Record) -> Result<()> {
        // A record, and what the allocator keeps beside each of its texts.
        self.hold((size_of::<Record>() + texts(&record).map(|text| text.len() + 48).sum::<usize>()) as u64)?;
        hash(&mut self.fingerprint, &record);
        self.data.records.push(record);
        let records = self.data.records.len() as u64;
        if records.is_multiple_of(TELL_EVERY) {
            (self.tell)(&self.file, records);
        }
        Ok(())
    }

    fn hold(&mut self, bytes: u64) -> Result<()> {
        self.held += bytes;
        self.check_size(self.held)
    }
}

/// All texts of a record, roles of a conversation among them, in order.
pub(super) fn texts(record: &Record) -> Box<dyn Iterator<Item = &str> + '_> {
    match record {
        Record::Pair { anchor, positive, negatives } => {
            Box::new([anchor, positive].into_iter().chain(negatives).map(String::as_str))
        }
        Record::Scored { first, second, .. } => Box::new([first.as_str(), second].into_iter()),
        Record::Text(text) => Box::new(std::iter::once(text.as_str())),
        Record::Completion { prompt, completion } => Box::new([prompt.as_str(), completion].into_iter()),
        Record::Chat(messages) => {
            Box::new(messages.iter().flat_map(|message| [message.role.as_str(), &message.content]))
        }
    }
}

/// What no other record gives: its kind, the number of its texts, each text behind its length, and the bits of the score.
fn hash(sha: &mut Sha256, record: &Record) {
    let kind: u8 = match record {
        Record::Pair { .. } => 0,
        Record::Scored { .. } => 1,
        Record::Text(_) => 2,
        Record::Completion { .. } => 3,
        Record::Chat(_) => 4,
    };
    sha.update([kind]);
    sha.update((texts(record).count() as u64).to_le_bytes());
    for text in texts(record) {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    }
    if let Record::Scored { score, .. } = record {
        sha.update(score.to_bits().to_le_bytes());
    }
}
