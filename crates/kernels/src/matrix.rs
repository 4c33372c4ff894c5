//! Row-major f32 matrices: owned, borrowed, and borrowed for writing. Rows are contiguous and follow each other
//! without gaps, so a range of rows is again a matrix.

use std::ops::Range;

/// An owned matrix `[rows, cols]`, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

/// A borrowed matrix `[rows, cols]`, row-major.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    rows: usize,
    cols: usize,
    data: &'a [f32],
}

/// A matrix `[rows, cols]` borrowed for writing, row-major.
#[derive(Debug)]
pub struct MatrixViewMut<'a> {
    rows: usize,
    cols: usize,
    data: &'a mut [f32],
}

impl Matrix {
    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Takes `data` as `[rows, cols]`. Panics when the length is another.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), rows * cols, "{} values cannot be a [{rows}, {cols}] matrix", data.len());
        Matrix { rows, cols, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row after row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values for writing, row after row.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// One row for writing.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// The whole matrix, borrowed.
    pub fn view(&self) -> MatrixView<'_> {
        MatrixView { rows: self.rows, cols: self.cols, data: &self.data }
    }

    /// The whole matrix, borrowed for writing.
    pub fn view_mut(&mut self) -> MatrixViewMut<'_> {
        MatrixViewMut { rows: self.rows, cols: self.cols, data: &mut self.data }
    }

    /// A range of rows, borrowed.
    pub fn slice(&self, rows: Range<usize>) -> MatrixView<'_> {
        self.view().slice(rows)
    }

    /// A range of rows, borrowed for writing.
    pub fn slice_mut(&mut self, rows: Range<usize>) -> MatrixViewMut<'_> {
        let cols = self.cols;
        MatrixViewMut { rows: rows.len(), cols, data: &mut self.data[rows.start * cols..rows.end * cols] }
    }

    /// Appends rows. Panics when their width is another.
    pub fn push_rows(&mut self, rows: MatrixView<'_>) {
        assert_eq!(rows.cols, self.cols, "rows of {} appended to rows of {}", rows.cols, self.cols);
        self.data.extend_from_slice(rows.data);
        self.rows += rows.rows;
    }

    /// The values, row after row.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }
}

impl<'a> MatrixView<'a> {
    /// Borrows `data` as `[rows, cols]`. Panics when the length is another.
    pub fn new(rows: usize, cols: usize, data: &'a [f32]) -> Self {
        assert_eq!(data.len(), rows * cols, "{} values cannot be a [{rows}, {cols}] matrix", data.len());
        MatrixView { rows, cols, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row after row.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// One row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// A range of rows.
    pub fn slice(&self, rows: Range<usize>) -> MatrixView<'a> {
        let data = &self.data[rows.start * self.cols..rows.end * self.cols];
        MatrixView { rows: rows.len(), cols: self.cols, data }
    }

    /// An owned copy.
    pub fn to_matrix(&self) -> Matrix {
        Matrix::from_vec(self.rows, self.cols, self.data.to_vec())
    }
}

impl<'a> MatrixViewMut<'a> {
    /// Borrows `data` as `[rows, cols]`. Panics when the length is another.
    pub fn new(rows: usize, cols: usize, data: &'a mut [f32]) -> Self {
        assert_eq!(data.len(), rows * cols, "{} values cannot be a [{rows}, {cols}] matrix", data.len());
        MatrixViewMut { rows, cols, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values for writing, row after row.
    pub fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }

    /// One row for writing.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// A range of rows for writing.
    pub fn slice_mut(&mut self, rows: Range<usize>) -> MatrixViewMut<'_> {
        let data = &mut self.data[rows.start * self.cols..rows.end * self.cols];
        MatrixViewMut { rows: rows.len(), cols: self.cols, data }
    }

    /// The same rows, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> MatrixViewMut<'_> {
        MatrixViewMut { rows: self.rows, cols: self.cols, data: self.data }
    }

    /// The same rows, to read.
    pub fn view(&self) -> MatrixView<'_> {
        MatrixView { rows: self.rows, cols: self.cols, data: self.data }
    }
}
