//! Which columns of a file make a record: as the user says, or guessed from names that such files usually have.
//!
//! A guess is never silent: [`Reading`] says which column became what, for the command line to print.

use serde::Serialize;

use super::{DataError, RecordKind, Result};

mod guess;

/// What a column can be in a record, as the user names it.
const ROLES: [&str; 10] =
    ["anchor", "positive", "negative", "sentence1", "sentence2", "score", "text", "prompt", "completion", "messages"];

/// Which column is which, as the user says it: `anchor=premise,positive=hypothesis`. A column is a name, or its position
/// from 0. Columns alone (`premise,hypothesis`) are taken in the order of the record's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap {
    /// The role, where one was named, and the column.
    entries: Vec<(Option<String>, String)>,
}

impl ColumnMap {
    /// Reads `role=column,role=column` or `column,column`. Roles are `anchor`, `positive`, `negative` (also several
    /// times), `sentence1`, `sentence2`, `score`, `text`, `prompt`, `completion` and `messages`.
    ///
    /// # Errors
    /// [`DataError::ColumnMap`].
    pub fn parse(given: &str) -> Result<Self> {
        let wrong = |problem: String| DataError::ColumnMap { given: given.to_owned(), problem };
        let mut entries: Vec<(Option<String>, String)> = Vec::new();
        for part in given.split(',') {
            let (role, column) = match part.split_once('=') {
                Some((role, column)) => (Some(role.trim().to_lowercase()), column.trim()),
                None => (None, part.trim()),
            };
            if column.is_empty() {
                return Err(wrong("a column has no name".to_owned()));
            }
            if let Some(role) = &role {
                if !ROLES.contains(&role.as_str()) {
                    return Err(wrong(format!("there is no {role:?}, only {}", ROLES.join(", "))));
                }
                let twice = entries.iter().any(|(other, _)| other.as_ref() == Some(role));
                if twice && role != "negative" && role != "text" {
                    return Err(wrong(format!("{role} is there twice")));
                }
            }
            if entries.first().is_some_and(|(first, _)| first.is_some() != role.is_some()) {
                return Err(wrong("either all columns have a role before them, or none".to_owned()));
            }
            entries.push((role, column.to_owned()));
        }
        Ok(ColumnMap { entries })
    }

    /// Whether nothing was said, so that columns are guessed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A column that is read, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The column's name, or its position (from 0) where the file has no names.
    pub column: String,
    /// What it is in a record: `anchor`, `positive`, `negative`, `text`, ...
    pub role: &'static str,
}

/// The columns of a file.
pub(super) struct Columns<'a> {
    /// Their names; positions, where the file has none.
    pub(super) names: &'a [String],
    /// The first row of a file without names.
    pub(super) first_row: Option<&'a [String]>,
}

/// What the columns of a [`Mapping`] make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Anchor, positive, and negatives.
    Pair,
    /// Two texts and a score.
    Scored,
    /// Each column is a text of its own.
    Texts,
    /// Prompt and completion.
    Completion,
    /// A list of messages.
    Chat,
}

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::Pair => "pairs",
            Shape::Scored => "pairs with scores",
            Shape::Texts => "texts",
            Shape::Completion => "prompts with completions",
            Shape::Chat => "conversations",
        }
    }
}

/// Which columns make a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) shape: Shape,
    /// In the order of the record's parts.
    pub(super) columns: Vec<Column>,
}

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) role: &'static str,
    pub(super) name: String,
    /// From 0. What JSON objects have at a position differs from row to row; they are asked by name.
    pub(super) index: usize,
}

impl Mapping {
    fn new(shape: Shape, names: &[String], columns: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        let column = |(role, index): (&'static str, usize)| Column { role, name: names[index].clone(), index };
        Mapping { shape, columns: columns.into_iter().map(column).collect() }
    }

    pub(super) fn readings(&self) -> impl Iterator<Item = Reading> {
        self.columns.iter().map(|column| Reading { column: column.name.clone(), role: column.role })
    }
}

/// Whether a first row of cells names columns: the user names one of them, or they are names that some kind of record
/// has, and none is a number.
pub(super) fn is_header(cells: &[String], map: &ColumnMap) -> bool {
    let mapped = |cell: &String| map.entries.iter().any(|(_, column)| column == cell && column.parse::<u64>().is_err());
    if cells.iter().any(mapped) {
        return true;
    }
    let number = |cell: &String| cell.trim().parse::<f64>().is_ok();
    guess::are_names(cells) && !cells.iter().any(number)
}

/// Which columns make a record of `kind`.
pub(super) fn choose(file: &str, columns: &Columns<'_>, kind: RecordKind, map: &ColumnMap) -> Result<Mapping> {
    let refuse = |problem: String| DataError::Columns {
        file: file.to_owned(),
        kind,
        problem,
        found: columns.first_row.unwrap_or(columns.names).to_vec(),
    };
    // What is evaluated on may have other columns than what is learned from, for which they were named.
    let meant = |(role, column): &(Option<String>, String)| role.is_some() && columns.names.contains(column);
    if map.is_empty() || kind == RecordKind::Compared && !map.entries.iter().all(meant) {
        return guess::guess(columns, kind).map_err(refuse);
    }
    let index = |column: &str| {
        let by_name = columns.names.iter().position(|name| name == column);
        let by_position = || column.parse().ok().filter(|&position: &usize| position < columns.names.len());
        by_name.or_else(by_position).ok_or_else(|| DataError::NoSuchColumn {
            file: file.to_owned(),
            column: column.to_owned(),
            found: columns.names.to_vec(),
        })
    };
    let shape = map.shape(kind);
    let told = map.with_roles(kind, shape);
    let mut chosen = Vec::new();
    for &role in parts(shape) {
        let before = chosen.len();
        for (_, column) in told.iter().filter(|(other, _)| *other == role) {
            chosen.push((role, index(column)?));
        }
        if chosen.len() == before && role != "negative" {
            return Err(refuse(format!("no column was named for its {role}")));
        }
    }
    if let Some((role, _)) = told.iter().find(|(role, _)| !parts(shape).contains(role)) {
        return Err(refuse(format!("they have no {role}")));
    }
    Ok(Mapping::new(shape, columns.names, chosen))
}

/// The parts of a record, in their order.
fn parts(shape: Shape) -> &'static [&'static str] {
    match shape {
        Shape::Pair => &["anchor", "positive", "negative"],
        Shape::Scored => &["sentence1", "sentence2", "score"],
        Shape::Texts => &["text"],
        Shape::Completion => &["prompt", "completion"],
        Shape::Chat => &["messages"],
    }
}

impl ColumnMap {
    /// What the columns make.
    fn shape(&self, kind: RecordKind) -> Shape {
        let has = |role: &str| self.entries.iter().any(|(other, _)| other.as_deref() == Some(role));
        match kind {
            RecordKind::ScoredPairs => Shape::Scored,
            RecordKind::Compared if has("score") => Shape::Scored,
            RecordKind::Pairs | RecordKind::Compared => Shape::Pair,
            RecordKind::Texts => Shape::Texts,
            RecordKind::Continuations if has("messages") => Shape::Chat,
            RecordKind::Continuations if has("text") => Shape::Texts,
            RecordKind::Continuations if !has("prompt") && self.entries.len() == 1 => Shape::Texts,
            RecordKind::Continuations => Shape::Completion,
        }
    }

    /// The columns with their roles; where none was named, the parts of a record in their order.
    fn with_roles(&self, kind: RecordKind, shape: Shape) -> Vec<(&'static str, &str)> {
        let role = |place: usize, named: Option<&str>| match named {
            // Texts may be told as the parts of pairs as well: each is a text.
            Some(role) if kind == RecordKind::Texts && role != "score" => "text",
            Some(role) => ROLES.into_iter().find(|known| *known == role).expect("parsed roles are known"),
            None if shape == Shape::Texts => "text",
            // The last part is the one of which there may be several.
            None => parts(shape).get(place).copied().unwrap_or("negative"),
        };
        let entries = self.entries.iter().enumerate();
        entries.map(|(place, (named, column))| (role(place, named.as_deref()), column.as_str())).collect()
    }
}
