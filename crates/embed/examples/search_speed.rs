//! How long a search takes that compares all vectors, and one by the index; how much of the first the second finds.
//!
//! ```text
//! cargo run --release -p bouquet-embed --example search_speed -- ROWS COLS THREADS
//! ```
//!
//! The vectors are made up: points of 32 dimensions, turned into COLS and with a little noise, so that some are near others,
//! as among embeddings. (Without that, in so many dimensions, all are as far from each other.)

use std::error::Error;
use std::time::Instant;

use bouquet_embed::EmbedError;
use bouquet_embed::hnsw::{Graph, Stored, path_beside, scores};
use bouquet_embed::search::Nearest;
use bouquet_embed::texts::Text;
use bouquet_embed::vectors::{VectorFormat, VectorReader, VectorWriter, npy::Table};
use bouquet_kernels::{Cpu, Matrix, product};
use bouquet_model::pooling::unit_rows;

const INNER: usize = 32;
const QUERIES: usize = 100;
const COUNT: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let args = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [rows, cols, threads] = args[..] else { return Err("give ROWS COLS THREADS".into()) };
    let cpu = Cpu::new(threads);
    let all = points(&cpu, rows + QUERIES, cols);
    let (vectors, queries) = (all.slice(0..rows), all.slice(rows..rows + QUERIES));

    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("vectors.npy");
    let mut writer = VectorWriter::create(&path, VectorFormat::Npy, cols)?;
    writer.write(&vec![Text { id: None, text: String::new() }; rows], vectors)?;
    writer.finish()?;

    let exactly = |queries| -> Result<_, EmbedError> {
        let (mut reader, mut nearest) = (VectorReader::open(&path, VectorFormat::Npy)?, Nearest::new(queries, COUNT));
        while let Some(rows) = reader.next_rows()? {
            nearest.look(&cpu, &rows);
        }
        Ok(nearest.into_hits())
    };
    let exact = exactly(queries)?;
    let start = Instant::now();
    exactly(queries.slice(0..1))?;
    println!("{rows} vectors of {cols}: a search that compares all takes {:.3} s", start.elapsed().as_secs_f64());

    let table = Table::open(&path)?;
    let (key, index) = (table.key()?, path_beside(&path));
    let start = Instant::now();
    let mut graph = Graph::default();
    graph.extend(&cpu, unit_rows(vectors).view(), |_| true);
    let built = start.elapsed().as_secs_f64();
    graph.write(&index, &key)?;
    println!("building the index takes {built:.1} s; it has {} bytes", index.metadata()?.len());

    let start = Instant::now();
    let Stored::Index(graph) = Graph::read(&index, &table.key()?, rows)? else { return Err("no index".into()) };
    println!("reading it takes {:.3} s", start.elapsed().as_secs_f64());
    let units = unit_rows(queries);
    let (start, mut hits) = (Instant::now(), 0);
    for (query, exact) in exact.iter().enumerate() {
        let compare = |nodes: &[u32]| Ok(scores(&cpu, units.row(query), unit_rows(table.gather(nodes)?.view()).view()));
        let found = graph.search(COUNT, compare).map_err(|error: EmbedError| error)?;
        hits += exact.iter().filter(|hit| found.contains(&(hit.index, hit.score))).count();
    }
    let time = start.elapsed().as_secs_f64() / QUERIES as f64;
    println!("a search by it takes {time:.4} s, recall@{COUNT} {:.3}", hits as f64 / (QUERIES * COUNT) as f64);
    Ok(())
}

fn points(cpu: &Cpu, rows: usize, cols: usize) -> Matrix {
    let numbers = |seed: u64, rows: usize, cols: usize| {
        let number = |place: u64| {
            let sum = (0..4).map(|part| hash((seed << 48) + place * 4 + part) as f32 / u64::MAX as f32 - 0.5);
            sum.sum::<f32>()
        };
        Matrix::from_vec(rows, cols, (0..(rows * cols) as u64).map(number).collect())
    };
    let mut points = Matrix::zeros(rows, cols);
    product::product(cpu, numbers(1, rows, INNER).view(), numbers(2, cols, INNER).view(), points.view_mut());
    for (place, number) in points.data_mut().iter_mut().enumerate() {
        *number += 0.2 * (hash((3 << 48) + place as u64) as f32 / u64::MAX as f32 - 0.5);
    }
    points
}

/// splitmix64 (Steele et al. 2014).
fn hash(counter: u64) -> u64 {
    let mut hash = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}
