//! What an index finds, that it is the same each time, and that no file of one is believed.

use std::convert::Infallible;
use std::fs;

use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::pooling::unit_rows;
use sha2::{Digest, Sha256};

use super::{Graph, Key, Stored, layers_of, path_beside, scores};

const KEY: Key = [7; 32];

/// Units that lie near a surface of few dimensions, as embeddings do.
fn units(count: usize) -> Matrix {
    let (cols, inner) = (24, 6);
    let wave = |place: usize| ((place * place % 9973) as f32 * 0.37).sin();
    let mut numbers = Vec::new();
    for row in 0..count {
        for col in 0..cols {
            let along = (0..inner).map(|axis| wave(row * inner + axis) * wave(col * inner + axis + 5000));
            numbers.push(along.sum::<f32>());
        }
    }
    unit_rows(Matrix::from_vec(count, cols, numbers).view())
}

fn built(units: &Matrix, threads: usize) -> Graph {
    let mut graph = Graph::default();
    assert!(graph.extend(&Cpu::new(threads), units.view(), |_| true));
    graph
}

fn found(graph: &Graph, units: &Matrix, query: &[f32], count: usize) -> Vec<(usize, f32)> {
    let cpu = Cpu::new(1);
    let gather = |nodes: &[u32]| {
        let rows: Vec<f32> = nodes.iter().flat_map(|&node| units.row(node as usize).to_vec()).collect();
        Ok::<_, Infallible>(scores(&cpu, query, Matrix::from_vec(nodes.len(), units.cols(), rows).view()))
    };
    let Ok(found) = graph.search(count, gather);
    found
}

/// By comparing all.
fn nearest(units: &Matrix, query: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> = scores(&Cpu::new(1), query, units.view()).into_iter().enumerate().collect();
    all.sort_by(|one, other| other.1.partial_cmp(&one.1).expect("finite"));
    all.truncate(count);
    all
}

#[test]
fn nearly_all_that_is_nearest_is_found_and_scored_as_by_comparing_all() {
    let units = units(3000);
    let graph = built(&units, 2);
    let mut hits = 0;
    for query in (0..3000).step_by(30) {
        let (near, exact) = (found(&graph, &units, units.row(query), 10), nearest(&units, units.row(query), 10));
        assert_eq!(near.len(), 10);
        hits += exact.iter().filter(|hit| near.contains(hit)).count();
    }
    assert!(hits >= 990, "{hits} of 1000");
}

#[test]
fn few_vectors_are_all_found() {
    for count in [0, 1, 2, 40] {
        let units = units(count);
        let graph = built(&units, 1);
        assert_eq!(found(&graph, &units, &[0.5; 24], 50), nearest(&units, &[0.5; 24], 50));
    }
}

/// Many lines of a file may be the same, or empty.
#[test]
fn vectors_that_are_the_same_are_found() {
    let some = units(400);
    let mut all = Matrix::zeros(300, 24);
    all.push_rows(some.view());
    for _ in 0..300 {
        all.push_rows(some.slice(9..10));
    }
    let graph = built(&all, 2);
    let near = found(&graph, &all, some.row(9), 50);
    assert!(near.iter().all(|hit| hit.1 > 0.999) && near.len() == 50, "{near:?}");
    assert_eq!(found(&graph, &all, some.row(50), 10), nearest(&all, some.row(50), 10));
}

#[test]
fn the_graph_is_the_same_for_any_number_of_threads_and_after_interruptions() {
    let units = units(1200);
    let graph = built(&units, 1);
    assert_eq!(graph, built(&units, 3));
    let (mut parts, mut calls) = (Graph::default(), 0);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.npy.hnsw");
    while !parts.extend(&Cpu::new(2), units.view(), |_| false) {
        parts.write(&path, &KEY).expect("it is written");
        let Ok(Stored::Index(read)) = Graph::read(&path, &KEY, 1200) else { panic!("no index") };
        assert_eq!(read, parts);
        parts = read;
        calls += 1;
    }
    assert!(calls > 50);
    assert_eq!(graph, parts);
}

#[test]
fn one_node_of_16_is_in_a_second_layer() {
    let above = |layer: usize| (0..160_000).filter(|&node| layers_of(node) > layer).count();
    assert_eq!([above(0), above(1), above(2)], [160_000, 9898, 629]);
}

#[test]
fn other_vectors_have_another_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = path_beside(&folder.path().join("a.npy"));
    assert_eq!(path, folder.path().join("a.npy.hnsw"));
    assert_eq!(Graph::read(&path, &KEY, 40).expect("nothing"), Stored::Nothing);
    built(&units(40), 1).write(&path, &KEY).expect("it is written");
    assert_eq!(Graph::read(&path, &[8; 32], 40).expect("another"), Stored::OfOthers);
}

/// A file with a true checksum, whatever it says.
fn with_checksum(body: &[u8]) -> Vec<u8> {
    [body, Sha256::digest(body).as_slice()].concat()
}

#[test]
fn files_that_lie_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.npy.hnsw");
    built(&units(40), 1).write(&path, &KEY).expect("it is written");
    let whole = fs::read(&path).expect("the file");
    let body = &whole[..whole.len() - 32];
    let changed = |place: usize, bytes: &[u8]| {
        let mut body = body.to_vec();
        body[place..place + bytes.len()].copy_from_slice(bytes);
        with_checksum(&body)
    };
    let mut damage = whole.clone();
    damage[54] ^= 1;
    for (bytes, problem) in [
        (changed(0, b"x"), "it is no index of this version"),
        (changed(48, &41u32.to_le_bytes()), "it has more nodes than there are vectors"),
        (changed(48, &u32::MAX.to_le_bytes()), "it has more nodes than there are vectors"),
        (changed(52, &[33]), "a node has more links than one may have"),
        (changed(53, &40u32.to_le_bytes()), "a link leads to no node"),
        (with_checksum(&body[..body.len() - 1]), "is damaged"),
        (with_checksum(&[body, &[0]].concat()), "its checksum is another"),
        (body[..body.len() / 2].to_vec(), "it ends too early"),
        (Vec::new(), "it ends too early"),
        (damage, "is damaged"),
    ] {
        fs::write(&path, bytes).expect("written");
        let error = Graph::read(&path, &KEY, 40).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}, not {problem}");
    }
}

/// Every byte is changed, with a true checksum and without: what is not refused can be searched.
#[test]
fn a_graph_that_somebody_made_up_hides_vectors_and_invents_no_score() {
    let units = units(40);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.npy.hnsw");
    built(&units, 1).write(&path, &KEY).expect("it is written");
    let whole = fs::read(&path).expect("the file");
    let exact = nearest(&units, units.row(3), 40);
    let mut searched = 0;
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).expect("written");
        assert!(!matches!(Graph::read(&path, &KEY, 40), Ok(Stored::Index(_))), "byte {place}");
        fs::write(&path, with_checksum(&changed[..whole.len() - 32])).expect("written");
        if let Ok(Stored::Index(graph)) = Graph::read(&path, &KEY, 40) {
            assert!(found(&graph, &units, units.row(3), 40).iter().all(|hit| exact.contains(hit)), "byte {place}");
            searched += 1;
        }
    }
    assert!(searched > 100);
}
