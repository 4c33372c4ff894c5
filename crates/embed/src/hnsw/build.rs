//! Adds vectors to the graph.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::OnceLock;

use bouquet_kernels::{Cpu, Matrix, MatrixView};

use super::{Graph, LINKS, Layer, Near, layers_of, most_links, scores};

/// Nodes among which a new one chooses its links; `efConstruction` in the paper.
const BUILD_WIDTH: usize = 100;

/// Nodes of a batch: a share of those that are there, since they know little of each other, and so many at most.
const BATCH_SHARE: usize = 32;
const MAX_BATCH: usize = 512;

impl Graph {
    /// Adds the vectors behind those that are in it, all of length 1, in batches. After each, `go_on` is asked; returns
    /// whether all vectors are in. Panics where there are more than numbers of 32 bits can name.
    pub fn extend(&mut self, cpu: &Cpu, units: MatrixView<'_>, mut go_on: impl FnMut(&Graph) -> bool) -> bool {
        assert!(u32::try_from(units.rows()).is_ok(), "{} vectors are too many for an index", units.rows());
        while self.nodes() < units.rows() {
            let begin = self.nodes();
            let end = (begin + (begin / BATCH_SHARE).clamp(1, MAX_BATCH)).min(units.rows());
            Builder { cpu, units }.add(self, begin as u32..end as u32);
            if !go_on(self) && end < units.rows() {
                return false;
            }
        }
        true
    }
}

/// What the vectors are compared with.
#[derive(Clone, Copy)]
struct Builder<'a> {
    cpu: &'a Cpu,
    units: MatrixView<'a>,
}

impl Builder<'_> {
    /// Algorithm 1 of the paper, for a batch: its nodes choose their links, and then those that they have chosen link back.
    fn add(self, graph: &mut Graph, batch: Range<u32>) {
        let chosen =
            in_parallel(self.cpu, batch.len(), |index| self.links(graph, batch.start, batch.start + index as u32));
        let mut back: Vec<Vec<(u32, u32)>> = Vec::new();
        for (node, links) in batch.zip(chosen) {
            for (layer, links) in links.into_iter().enumerate() {
                if layer == graph.layers.len() {
                    graph.layers.push(Layer::default());
                }
                back.resize_with(back.len().max(layer + 1), Vec::new);
                back[layer].extend(links.iter().map(|&to| (to, node)));
                graph.layers[layer].nodes.push(node);
                graph.layers[layer].links.push(links);
            }
        }
        for (index, mut back) in back.into_iter().enumerate() {
            back.sort_unstable();
            let groups: Vec<&[(u32, u32)]> = back.chunk_by(|one, next| one.0 == next.0).collect();
            let layer = &mut graph.layers[index];
            let links = in_parallel(self.cpu, groups.len(), |group| {
                let more = groups[group].iter().map(|&(_, from)| from);
                self.with_more(layer, groups[group][0].0, more, most_links(index))
            });
            for (group, links) in groups.iter().zip(links) {
                let place = layer.nodes.binary_search(&group[0].0).expect("a node of this layer was chosen");
                layer.links[place] = links;
            }
        }
    }

    /// The links of a new node, the lowest layer first.
    fn links(self, graph: &Graph, batch_begin: u32, node: u32) -> Vec<Vec<u32>> {
        let query = self.units.row(node as usize);
        let scores_of = |nodes: &[u32]| Ok::<_, Infallible>(self.scores(query, nodes));
        let Ok(mut near) = graph.entry(&scores_of);
        let layers = layers_of(node);
        let mut links = vec![Vec::new(); layers];
        for (index, layer) in graph.layers.iter().enumerate().rev() {
            let width = if index < layers { BUILD_WIDTH } else { 1 };
            let Ok(found) = layer.search(near, width, &scores_of);
            near = found;
            if index < layers {
                links[index] = self.choose(self.with_batch(query, near.clone(), batch_begin..node, index), LINKS);
            }
        }
        for index in graph.layers.len()..layers {
            links[index] = self.choose(self.with_batch(query, Vec::new(), batch_begin..node, index), LINKS);
        }
        links
    }

    /// What was found, and the nodes of the batch that come before.
    fn with_batch(self, query: &[f32], mut near: Vec<Near>, batch: Range<u32>, layer: usize) -> Vec<Near> {
        let nodes: Vec<u32> = batch.filter(|&node| layers_of(node) > layer).collect();
        near.extend(self.near(query, &nodes));
        near
    }

    /// The links of a node that others have chosen.
    fn with_more(self, layer: &Layer, node: u32, more: impl Iterator<Item = u32>, most: usize) -> Vec<u32> {
        let mut links = layer.links(node).to_vec();
        links.extend(more);
        if links.len() <= most {
            return links;
        }
        self.choose(self.near(self.units.row(node as usize), &links), most)
    }

    /// Those of some nodes to link to: algorithm 4 of the paper. What is as near to one that was chosen is reached through
    /// that one, so that links point in different directions, and many vectors that are the same do not fill them.
    fn choose(self, mut near: Vec<Near>, most: usize) -> Vec<u32> {
        near.sort_unstable_by(|one, other| other.cmp(one));
        let mut links: Vec<u32> = Vec::with_capacity(most);
        let mut chosen = Matrix::zeros(0, self.units.cols());
        for near in near {
            if links.len() == most {
                break;
            }
            let unit = self.units.row(near.node as usize);
            if scores(self.cpu, unit, chosen.view()).iter().all(|&score| score < near.score) {
                links.push(near.node);
                chosen.push_rows(MatrixView::new(1, unit.len(), unit));
            }
        }
        links
    }

    fn near(self, query: &[f32], nodes: &[u32]) -> Vec<Near> {
        nodes.iter().zip(self.scores(query, nodes)).map(|(&node, score)| Near { score, node }).collect()
    }

    fn scores(self, query: &[f32], nodes: &[u32]) -> Vec<f32> {
        let mut units = Matrix::unset(nodes.len(), self.units.cols());
        for (row, &node) in nodes.iter().enumerate() {
            units.row_mut(row).copy_from_slice(self.units.row(node as usize));
        }
        scores(self.cpu, query, units.view())
    }
}

/// What `work` returns for each number below `count`, on all threads.
fn in_parallel<T: Send + Sync>(cpu: &Cpu, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let done: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    cpu.run(count, |index| {
        let _ = done[index].set(work(index));
    });
    done.into_iter().map(|done| done.into_inner().expect("each task has run")).collect()
}
