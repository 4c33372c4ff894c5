//! A search by the index beside the vectors.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_embed::EmbedError;
use bouquet_embed::hnsw::{self, Graph, Key, Stored};
use bouquet_embed::search::Hit;
use bouquet_embed::vectors::{Label, VectorFormat, VectorReader, npy::Table};
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_model::pooling::unit_rows;
use bouquet_span::SpanError;

use crate::errors::wrong;
use crate::interrupt::Work;
use crate::output;
use crate::system;

/// Vectors from which on an index that is there is used unasked: comparing all of them takes longer than one notices.
pub(super) const MANY_VECTORS: usize = 100_000;

/// Time after which an index that is being built is written, as far as it is.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Vectors and their index.
pub(super) struct Index {
    table: Table,
    graph: Graph,
}

impl Index {
    /// The index that lies beside the vectors, whole, if it does and there are many.
    pub(super) fn of_many(vectors: &Path, table: Table) -> Result<Option<Index>> {
        let path = hnsw::path_beside(vectors);
        if table.rows() < MANY_VECTORS || !path.exists() {
            return Ok(None);
        }
        match Graph::read(&path, &table.key()?, table.rows()) {
            Ok(Stored::Index(graph)) if graph.nodes() == table.rows() => Ok(Some(Index { table, graph })),
            Ok(Stored::Index(_)) => Ok(None),
            Ok(Stored::OfOthers | Stored::Nothing) => {
                output::note(&format!(
                    "{} is of other vectors; all are compared (--index builds it anew)",
                    path.display()
                ));
                Ok(None)
            }
            Err(error) => {
                output::note(&format!("{error}; all vectors are compared (--index builds it anew)"));
                Ok(None)
            }
        }
    }

    /// The index beside the vectors, built where it is not there, not complete, or of other vectors.
    pub(super) fn open_or_build(vectors: &Path, table: Table, cpu: &Cpu, work: &Work) -> Result<Index> {
        let (path, key) = (hnsw::path_beside(vectors), table.key()?);
        let shown = path.display();
        let graph = match Graph::read(&path, &key, table.rows()) {
            Ok(Stored::Index(graph)) if graph.nodes() == table.rows() => return Ok(Index { table, graph }),
            Ok(Stored::Index(graph)) => graph,
            Ok(Stored::Nothing) => Graph::default(),
            Ok(Stored::OfOthers) => {
                output::note(&format!("{shown} is of other vectors and is built anew"));
                Graph::default()
            }
            Err(error @ EmbedError::File { .. }) => {
                output::note(&format!("{error}; it is built anew"));
                Graph::default()
            }
            Err(error) => return Err(error.into()),
        };
        let building = Building { path, key, units: units(vectors, &table, work)?, cpu, work };
        Ok(Index { graph: building.complete(graph)?, table })
    }

    /// Vectors.
    pub(super) fn rows(&self) -> usize {
        self.table.rows()
    }

    /// What is nearest to each query.
    pub(super) fn search(&self, cpu: &Cpu, queries: MatrixView<'_>, count: usize) -> Result<Vec<Vec<Hit>>> {
        let queries = unit_rows(queries);
        let search = |query: usize| {
            let scores = |nodes: &[u32]| -> Result<Vec<f32>, EmbedError> {
                let units = unit_rows(self.table.gather(nodes)?.view());
                Ok(hnsw::scores(cpu, queries.row(query), units.view()))
            };
            let found = self.graph.search(count, scores)?.into_iter();
            Ok(found.map(|(index, score)| Hit { index, score, label: Label::default() }).collect())
        };
        (0..queries.rows()).map(search).collect()
    }
}

/// All vectors, of length 1.
fn units(vectors: &Path, table: &Table, work: &Work) -> Result<Matrix> {
    let (rows, cols) = (table.rows(), table.cols());
    if u32::try_from(rows).is_err() {
        return Err(wrong(format!("{rows} vectors are too many for an index"), "leave --index out: all are compared"));
    }
    let needed = (rows * cols * size_of::<f32>()) as u64;
    if let Some(available) = system::available_memory_bytes().filter(|available| *available < needed) {
        let (needed, available) = (output::bytes(needed), output::bytes(available));
        let message = format!("to build the index, {needed} of vectors have to be in memory, and {available} are free");
        return Err(wrong(message, "leave --index out: all vectors are compared, a block at a time"));
    }
    let mut units = Matrix::zeros(0, cols);
    let mut reader = VectorReader::open(vectors, VectorFormat::Npy)?;
    while let Some(rows) = reader.next_rows()? {
        if work.cancel.is_cancelled() {
            return Err(SpanError::Cancelled.into());
        }
        units.push_rows(unit_rows(rows.vectors.view()).view());
    }
    Ok(units)
}

/// An index that is being built.
struct Building<'a> {
    path: PathBuf,
    key: Key,
    units: Matrix,
    cpu: &'a Cpu,
    work: &'a Work,
}

impl Building<'_> {
    /// Adds what is missing. What there is when it is interrupted is written, and the next try goes on from there.
    fn complete(self, mut graph: Graph) -> Result<Graph> {
        let total = output::grouped(self.units.rows() as u64);
        let (start, mut progress) = (Instant::now(), output::Progress::new());
        loop {
            let written = Instant::now();
            let whole = graph.extend(self.cpu, self.units.view(), |graph| {
                progress
                    .show(&format!("building the index: {} of {total} vectors", output::grouped(graph.nodes() as u64)));
                !self.work.cancel.is_cancelled() && written.elapsed() < WRITE_EVERY
            });
            graph.write(&self.path, &self.key)?;
            if whole {
                break;
            }
            if self.work.cancel.is_cancelled() {
                let done = output::grouped(graph.nodes() as u64);
                progress.note(&format!("the index has {done} of {total} vectors; the next try goes on from there"));
                return Err(SpanError::Cancelled.into());
            }
        }
        let time = output::seconds(start.elapsed());
        progress.note(&format!("{}: an index of {total} vectors, built in {time}", self.path.display()));
        Ok(graph)
    }
}
