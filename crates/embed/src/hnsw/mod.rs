//! An index for many searches in many vectors: it finds nearly always what comparing all would find, and looks at a few
//! thousand of them.
//!
//! The index is a graph, "hierarchical navigable small world" (Malkov and Yashunin, <https://arxiv.org/abs/1603.09320>).
//! Each vector is a node with links to vectors near it. A search begins at one node and walks along links, always from the
//! nearest node that it has seen and not yet looked behind, until the best of those is farther than all that it keeps.
//! Some nodes are in a second layer as well, few of these in a third: the long ways are made up there.
//!
//! ```text
//! layer 2        o-----------------o
//! layer 1        o-----o-----------o------o
//! layer 0        o-o-o-o-o-o-o-o-o-o-o-o--o-o-o
//! ```
//!
//! Where this differs from the paper:
//!
//! - The layer of a node is a hash of its number, and nodes are added in the order of their numbers, in batches that are a
//!   function of how many there are: the same vectors give the same graph, with any number of threads, and whether the
//!   building was interrupted or not.
//! - Nodes of a batch do not see each other's links while they look for their own; that is what threads have to do. They do
//!   see each other.
//! - The graph holds numbers of vectors only, and scores are taken from the vectors, as the exact search does. So an index
//!   that is not quite right, or that somebody has made up, may hide a vector, and never invents a score.
//!
//! | module | job |
//! |---|---|
//! | [`build`](Graph::extend) | adds vectors |
//! | [`file`](Graph::read) | the file beside the vectors |

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};

use bouquet_kernels::{Cpu, Matrix, MatrixView, product};

mod build;
mod file;

pub use file::{Key, Stored, path_beside};

/// Links of a node in a layer above the lowest, at most; `M` in the paper.
const LINKS: usize = 16;

/// Nodes that a search keeps at least; `ef` in the paper. What is asked for more than a fourth of widens it.
const SEARCH_WIDTH: usize = 128;

/// Layers at most: enough for more nodes than numbers of 32 bits have.
const MAX_LAYERS: usize = 8;

/// The links of vectors to others near them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The lowest has all nodes.
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layer {
    /// Numbers of vectors, ascending.
    nodes: Vec<u32>,
    /// Those that each is linked to; all are in this layer.
    links: Vec<Vec<u32>>,
}

/// A node and its cosine with what is looked for. The nearer one is the greater. Of two that are as near it is the one with
/// the higher number: vectors that are the same are a chain of links, which so is walked to its end.
#[derive(Clone, Copy, Debug)]
struct Near {
    score: f32,
    node: u32,
}

impl Graph {
    /// Vectors that are in it.
    pub fn nodes(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.nodes.len())
    }

    /// The numbers of the `count` vectors nearest to some query, nearest first, with their scores; fewer where there are
    /// not as many. `scores` compares the query with vectors of these numbers.
    ///
    /// # Errors
    /// Those of `scores`.
    pub fn search<E>(
        &self,
        count: usize,
        scores: impl Fn(&[u32]) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<(usize, f32)>, E> {
        let Some((lowest, above)) = self.layers.split_first() else { return Ok(Vec::new()) };
        let mut near = self.entry(&scores)?;
        for layer in above.iter().rev() {
            near = layer.search(near, 1, &scores)?;
        }
        let mut found = lowest.search(near, SEARCH_WIDTH.max(4 * count), &scores)?;
        // Of what is as near the lower number comes first, as in an exact search; the sort is stable.
        found.sort_by_key(|near| near.node);
        found.sort_by(|one, other| other.score.partial_cmp(&one.score).unwrap_or(Ordering::Equal));
        found.truncate(count);
        Ok(found.iter().map(|near| (near.node as usize, near.score)).collect())
    }

    /// Where every search begins: the first node of the highest layer.
    fn entry<E>(&self, scores: &impl Fn(&[u32]) -> Result<Vec<f32>, E>) -> Result<Vec<Near>, E> {
        let node = self.layers.last().and_then(|layer| layer.nodes.first());
        let nodes: Vec<u32> = node.copied().into_iter().collect();
        Ok(nodes.iter().zip(scores(&nodes)?).map(|(&node, score)| Near { score, node }).collect())
    }
}

impl Layer {
    fn links(&self, node: u32) -> &[u32] {
        self.nodes.binary_search(&node).map_or(&[], |place| &self.links[place])
    }

    /// The `width` nearest nodes that can be reached from `begin`, nearest first: algorithm 2 of the paper.
    fn search<E>(
        &self,
        begin: Vec<Near>,
        width: usize,
        scores: &impl Fn(&[u32]) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<Near>, E> {
        let mut seen: HashSet<u32> = begin.iter().map(|near| near.node).collect();
        let mut found: BinaryHeap<Reverse<Near>> = begin.iter().copied().map(Reverse).collect();
        let mut open = BinaryHeap::from(begin);
        while let Some(nearest) = open.pop() {
            if found.len() >= width && found.peek().is_some_and(|farthest| nearest < farthest.0) {
                break;
            }
            let links = self.links(nearest.node).iter().copied();
            let nodes: Vec<u32> = links.filter(|&node| seen.insert(node)).collect();
            for (&node, score) in nodes.iter().zip(scores(&nodes)?) {
                let near = Near { score, node };
                if found.len() >= width && found.peek().is_some_and(|farthest| near < farthest.0) {
                    continue;
                }
                open.push(near);
                found.push(Reverse(near));
                if found.len() > width {
                    found.pop();
                }
            }
        }
        Ok(found.into_sorted_vec().into_iter().map(|near| near.0).collect())
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        // Zeros of either sign are as near, as in an exact search.
        let by_score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        by_score.then(self.node.cmp(&other.node))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Near {}

/// The cosines of a query with vectors, all of length 1.
pub fn scores(cpu: &Cpu, query: &[f32], units: MatrixView<'_>) -> Vec<f32> {
    let mut scores = Matrix::zeros(1, units.rows());
    product::product(cpu, MatrixView::new(1, query.len(), query), units, scores.view_mut());
    scores.into_vec()
}

/// Layers that a node is in: one of 16 nodes is in a second one, one of 16 of those in a third.
fn layers_of(node: u32) -> usize {
    // splitmix64 (Steele et al. 2014). Four zeros at its beginning are as rare as one in 16.
    let mut hash = (u64::from(node) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (1 + hash.leading_zeros() as usize / 4).min(MAX_LAYERS)
}

/// Links of a node at most. The lowest layer has twice as many, as in the paper.
fn most_links(layer: usize) -> usize {
    if layer == 0 { 2 * LINKS } else { LINKS }
}

#[cfg(test)]
mod tests;
