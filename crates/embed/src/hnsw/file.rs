//! The file of an index, beside the vectors that it is of: `vectors.npy.hnsw`.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | a name that ends with the version of the format |
//! | 32 | which vectors: [`key`](crate::vectors::npy::Table::key) |
//! | 4 | nodes: fewer than vectors, where it is not complete |
//! | a node of a layer | the number of links (1), and the node that each leads to (4), layer by layer, the lowest first |
//! | 32 | SHA-256 of all before |
//!
//! All numbers are little-endian. Which node is in which layer follows from its number, so that the file has nothing to say
//! of it, and cannot say wrong.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bouquet_model::ModelError;
use bouquet_model::checkpoint::new_file;
use sha2::{Digest, Sha256};

use super::{Graph, Layer, MAX_LAYERS, layers_of, most_links};
use crate::{EmbedError, Result};

const MAGIC: &[u8; 16] = b"BOUQUET HNSW  1\n";

/// Which vectors an index is of.
pub type Key = [u8; 32];

/// What lies beside vectors.
#[derive(Debug, PartialEq)]
pub enum Stored {
    /// Their index; complete if it has as many nodes.
    Index(Graph),
    /// That of other vectors, or of an earlier state of these.
    OfOthers,
    /// No file.
    Nothing,
}

/// Where the index of vectors lies.
pub fn path_beside(vectors: &Path) -> PathBuf {
    let mut name = vectors.as_os_str().to_owned();
    name.push(".hnsw");
    name.into()
}

impl Graph {
    /// Reads the index of `vectors` vectors. What it takes is in proportion to these, whatever the file says.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn read(path: &Path, key: &Key, vectors: usize) -> Result<Stored> {
        let origin = path.display().to_string();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::Nothing),
            Err(source) => return Err(EmbedError::read(&origin, source)),
        };
        read(Hashed::new(BufReader::new(file)), key, vectors).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => EmbedError::file(&origin, "is damaged: it ends too early"),
            io::ErrorKind::InvalidData => EmbedError::file(&origin, format!("is damaged: {error}")),
            _ => EmbedError::read(&origin, error),
        })
    }

    /// Writes the file, which gets its name when it is whole.
    ///
    /// # Errors
    /// A path that cannot be written to, a disk that is full.
    pub fn write(&self, path: &Path, key: &Key) -> Result<()> {
        let mut file = new_file::begin(path)?;
        let written = write(self, Hashed::new(BufWriter::new(&mut file)), key);
        written.map_err(|source| ModelError::Write { path: path.to_owned(), source })?;
        Ok(new_file::put_in_place(file, path)?)
    }
}

fn write(graph: &Graph, mut file: Hashed<impl Write>, key: &Key) -> io::Result<()> {
    file.write_all(MAGIC)?;
    file.write_all(key)?;
    file.write_all(&(graph.nodes() as u32).to_le_bytes())?;
    for links in graph.layers.iter().flat_map(|layer| &layer.links) {
        file.write_all(&[links.len() as u8])?;
        links.iter().try_for_each(|link| file.write_all(&link.to_le_bytes()))?;
    }
    let hash = file.hash.finalize();
    file.inner.write_all(&hash)?;
    file.inner.flush()
}

fn read(mut file: Hashed<impl Read>, key: &Key, vectors: usize) -> io::Result<Stored> {
    if file.bytes()? != *MAGIC {
        return Err(wrong("it is no index of this version"));
    }
    if file.bytes()? != *key {
        return Ok(Stored::OfOthers);
    }
    let nodes = u32::from_le_bytes(file.bytes()?);
    if nodes as usize > vectors {
        return Err(wrong("it has more nodes than there are vectors"));
    }
    let mut graph = Graph::default();
    for index in 0..MAX_LAYERS {
        let mut layer = Layer::default();
        for node in (0..nodes).filter(|&node| layers_of(node) > index) {
            let [count] = file.bytes()?;
            if usize::from(count) > most_links(index) {
                return Err(wrong("a node has more links than one may have"));
            }
            let links = (0..count).map(|_| file.bytes().map(u32::from_le_bytes)).collect::<io::Result<Vec<u32>>>()?;
            if links.iter().any(|&link| link >= nodes || layers_of(link) <= index) {
                return Err(wrong("a link leads to no node"));
            }
            layer.nodes.push(node);
            layer.links.push(links);
        }
        if !layer.nodes.is_empty() {
            graph.layers.push(layer);
        }
    }
    let hash = file.hash.finalize();
    let mut end = Vec::new();
    file.inner.take(hash.len() as u64 + 1).read_to_end(&mut end)?;
    if end != hash.as_slice() { Err(wrong("its checksum is another")) } else { Ok(Stored::Index(graph)) }
}

/// What goes through it is hashed.
struct Hashed<F> {
    inner: F,
    hash: Sha256,
}

impl<F> Hashed<F> {
    fn new(inner: F) -> Self {
        Hashed { inner, hash: Sha256::new() }
    }
}

impl<F: Write> Hashed<F> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<F: Read> Hashed<F> {
    fn bytes<const COUNT: usize>(&mut self) -> io::Result<[u8; COUNT]> {
        let mut bytes = [0; COUNT];
        self.inner.read_exact(&mut bytes)?;
        self.hash.update(bytes);
        Ok(bytes)
    }
}

fn wrong(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
