//! Hashes of what is served: of the ends of a model and of each block, over the weights as they are held in memory.
//!
//! A part's hash is the SHA-256 of a line for each of its weights and vectors: its name here, what it is stored and computed
//! in, its shape, and the SHA-256 of its bytes. Names are those of sites, not of tensors; so what is equal in memory has one
//! hash, whatever files it came from: codes that are made when floats are loaded, and the same codes of a folder.
//!
//! Bytes are hashed in pieces of fixed length, on all threads, and the pieces' hashes once more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use bouquet_kernels::{Cpu, Weight};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::Ends;
use crate::block::Block;
use crate::norm::Norm;

/// Bytes of a weight that are hashed together.
const PIECE_BYTES: usize = 4 << 20;

/// A SHA-256, in hexadecimal where it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// That of some bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a hash has 64 hexadecimal digits".to_owned());
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
            *byte = digit(digits[0]) << 4 | digit(digits[1]);
        }
        Ok(Hash(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a weight or a vector is called, what it is, and its bytes one after the other.
struct Named<'a> {
    line: String,
    bytes: Vec<Cow<'a, [u8]>>,
}

/// The hash of both ends; `release` is told of every piece that is done with.
pub(crate) fn of_ends(ends: &Ends, release: &(dyn Fn(&[u8]) + Sync)) -> Hash {
    let (embedding, head) = (&ends.embedding, &ends.head);
    let mut parts = vec![of_weight("embedding", &embedding.weight), of_weight("head", &head.weight)];
    let positions = embedding.positions.as_ref().map(|positions| &positions.weight);
    for (name, weight) in [
        ("project_in", embedding.projection.as_ref()),
        ("positions", positions),
        ("project_out", head.projection.as_ref()),
    ] {
        parts.extend(weight.map(|weight| of_weight(name, weight)));
    }
    for (name, norm) in [("embedding_norm", &embedding.norm), ("final_norm", &head.norm)] {
        parts.extend(norm.iter().flat_map(|norm| of_norm(name, norm)));
    }
    hash(&ends.cpu, parts, release)
}

/// The hash of a block.
pub(crate) fn of_block(cpu: &Cpu, block: &Block, release: &(dyn Fn(&[u8]) + Sync)) -> Hash {
    let mut parts: Vec<Named<'_>> = Vec::new();
    for (site, linear) in block.linears() {
        parts.push(of_weight(&site.to_string(), &linear.weight));
        parts.extend(linear.bias.as_ref().map(|bias| of_vector(format!("{site} bias"), bias)));
    }
    parts.extend(of_norm("attention_norm", &block.attention_norm));
    parts.extend(of_norm("feed_forward_norm", &block.feed_forward_norm));
    if let Some(norms) = block.attention.head_norms() {
        parts.extend(of_norm("query_norm", &norms.query));
        parts.extend(of_norm("key_norm", &norms.key));
    }
    hash(cpu, parts, release)
}

fn of_weight<'a>(name: &str, weight: &'a Weight) -> Named<'a> {
    let (kind, bytes) = weight.contents();
    let line = format!("{name}: {kind} [{}, {}]", weight.rows(), weight.cols());
    Named { line, bytes: bytes.into_iter().map(Cow::Borrowed).collect() }
}

fn of_norm<'a>(name: &str, norm: &'a Norm) -> [Named<'a>; 2] {
    [of_vector(format!("{name} weight"), &norm.weight), of_vector(format!("{name} bias"), &norm.bias)]
}

fn of_vector(name: String, numbers: &[f32]) -> Named<'_> {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Named { line: format!("{name}: f32 [{}]", numbers.len()), bytes: vec![Cow::Owned(bytes)] }
}

fn hash(cpu: &Cpu, parts: Vec<Named<'_>>, release: &(dyn Fn(&[u8]) + Sync)) -> Hash {
    // A head that is the embedding is hashed once.
    let mut known: BTreeMap<(*const u8, usize), usize> = BTreeMap::new();
    let (mut pieces, mut firsts) = (Vec::new(), Vec::new());
    for bytes in parts.iter().flat_map(|part| &part.bytes) {
        let first = *known.entry((bytes.as_ptr(), bytes.len())).or_insert(pieces.len());
        firsts.push(first);
        if first == pieces.len() {
            pieces.extend(bytes.chunks(PIECE_BYTES));
        }
    }
    let hashed: Vec<Mutex<[u8; 32]>> = pieces.iter().map(|_| Mutex::new([0; 32])).collect();
    cpu.run(pieces.len(), |index| {
        let hash = Sha256::digest(pieces[index]).into();
        release(pieces[index]);
        *hashed[index].lock().expect("no task panics while it holds this") = hash;
    });
    let hashed: Vec<[u8; 32]> =
        hashed.into_iter().map(|hash| hash.into_inner().expect("no task panics while it holds this")).collect();
    let (mut all, mut firsts) = (Sha256::new(), firsts.into_iter());
    for part in &parts {
        let mut of_part = Sha256::new();
        for (bytes, first) in part.bytes.iter().zip(&mut firsts) {
            of_part.update((bytes.len() as u64).to_le_bytes());
            hashed[first..][..bytes.len().div_ceil(PIECE_BYTES)].iter().for_each(|hash| of_part.update(hash));
        }
        all.update(format!("{} {}\n", part.line, Hash(of_part.finalize().into())));
    }
    Hash(all.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_and_read() {
        let hash = Hash::of("abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in ["", "ba78", &"g".repeat(64), &"é".repeat(32)] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_byte_of_every_piece_counts() {
        let cpu = Cpu::new(2);
        let of =
            |bytes: &[u8]| hash(&cpu, vec![Named { line: "x".to_owned(), bytes: vec![Cow::Borrowed(bytes)] }], &|_| ());
        let mut bytes = vec![0u8; 2 * PIECE_BYTES + 5];
        let before = of(&bytes);
        for place in [0, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 4] {
            bytes[place] = 1;
            assert_ne!(of(&bytes), before, "{place}");
            bytes[place] = 0;
        }
        assert_ne!(of(&bytes[1..]), before);
        assert_eq!(of(&bytes), before);
    }
}
