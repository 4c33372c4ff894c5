//! The vectors nearest to a query by cosine: exact, a block of vectors at a time, so that a file may be larger than the
//! memory. Scores are products of rule 1 of the kernels: the same bits, however the vectors are cut into blocks.

use bouquet_kernels::{Cpu, Matrix, MatrixView, product};
use bouquet_model::pooling::unit_rows;

use crate::vectors::{Label, Rows};

/// A vector that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its number, from 0.
    pub index: usize,
    /// Its cosine with the query, but for rounding between -1 and 1.
    pub score: f32,
    /// What its file says of it.
    pub label: Label,
}

/// The nearest vectors of some queries among those looked at so far.
pub struct Nearest {
    /// Of length 1.
    queries: Matrix,
    count: usize,
    looked_at: usize,
    hits: Vec<Vec<Hit>>,
}

impl Nearest {
    /// Nothing looked at yet; the `count` nearest of each query are to be found.
    pub fn new(queries: MatrixView<'_>, count: usize) -> Self {
        Nearest { queries: unit_rows(queries), count, looked_at: 0, hits: vec![Vec::new(); queries.rows()] }
    }

    /// Looks at the next vectors. Panics when they have another length than the queries.
    pub fn look(&mut self, cpu: &Cpu, rows: &Rows) {
        let units = unit_rows(rows.vectors.view());
        let mut scores = Matrix::zeros(self.queries.rows(), units.rows());
        product::product(cpu, self.queries.view(), units.view(), scores.view_mut());
        for (query, hits) in self.hits.iter_mut().enumerate() {
            for (row, &score) in scores.row(query).iter().enumerate() {
                // What is as near as another one comes behind it: the lower index first.
                let place = hits.partition_point(|hit| hit.score >= score);
                if place < self.count {
                    hits.truncate(self.count - 1);
                    hits.insert(place, Hit { index: self.looked_at + row, score, label: rows.labels[row].clone() });
                }
            }
        }
        self.looked_at += units.rows();
    }

    /// Vectors looked at.
    pub fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// What was found for each query, the nearest first.
    pub fn into_hits(self) -> Vec<Vec<Hit>> {
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nearest(queries: &Matrix, vectors: &Matrix, count: usize, block: usize) -> Vec<Vec<(usize, u32)>> {
        let mut nearest = Nearest::new(queries.view(), count);
        for first in (0..vectors.rows()).step_by(block) {
            let vectors = vectors.slice(first..(first + block).min(vectors.rows())).to_matrix();
            let labels = vec![Label::default(); vectors.rows()];
            nearest.look(&Cpu::new(1), &Rows { vectors, labels });
        }
        assert_eq!(nearest.looked_at(), vectors.rows());
        let found = nearest.into_hits().into_iter();
        found.map(|hits| hits.iter().map(|hit| (hit.index, hit.score.to_bits())).collect()).collect()
    }

    proptest! {
        /// Small whole numbers make many ties.
        #[test]
        fn blocks_find_what_sorting_finds(
            numbers in prop::collection::vec(-2i8..3, 3..90),
            count in 1usize..12,
            block in 1usize..9,
        ) {
            let rows = numbers.len() / 3;
            let vectors = Matrix::from_vec(rows, 3, numbers[..3 * rows].iter().map(|&x| f32::from(x)).collect());
            let queries = Matrix::from_vec(2, 3, vec![1.0, 2.0, -1.0, 0.0, 0.0, 0.0]);
            let (units, unit) = (unit_rows(vectors.view()), unit_rows(queries.view()));
            for (query, found) in nearest(&queries, &vectors, count, block).into_iter().enumerate() {
                let mut scores = Matrix::zeros(1, rows);
                product::product(&Cpu::new(1), unit.slice(query..query + 1), units.view(), scores.view_mut());
                let mut sorted: Vec<(usize, f32)> = scores.row(0).iter().copied().enumerate().collect();
                sorted.sort_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)));
                sorted.truncate(count);
                prop_assert_eq!(found, sorted.iter().map(|(row, score)| (*row, score.to_bits())).collect::<Vec<_>>());
            }
        }
    }
}
