//! Row-major f32 matrices: owned, borrowed, and borrowed for writing. Rows are contiguous and follow each other
//! without gaps, so a range of rows is again a matrix.

use std::ops::Range;

use crate::recycle;

/// An owned matrix `[rows, cols]`, row-major. Its memory goes to the next one.
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

/// `rows * cols`. Panics where that is more than can be counted: a product that wraps would let a few numbers pass for
/// a huge matrix.
pub(crate) fn numbers(rows: usize, cols: usize) -> usize {
    rows.checked_mul(cols).unwrap_or_else(|| panic!("[{rows}, {cols}] are more numbers than can be counted"))
}

/// From the first of `rows` rows of `cols` numbers, `stride` apart, to the end of the last. Panics as [`numbers`] does.
pub(crate) fn extent(rows: usize, stride: usize, cols: usize) -> usize {
    match rows.checked_sub(1) {
        None => 0,
        Some(before) => numbers(before, stride).checked_add(cols).unwrap_or_else(|| {
            panic!("{rows} rows of {cols} numbers, {stride} apart, are more than can be counted");
        }),
    }
}

/// Where some of a matrix' rows lie in its data. Panics unless it has them.
fn within(rows: &Range<usize>, count: usize, cols: usize) -> Range<usize> {
    assert!(rows.start <= rows.end && rows.end <= count, "rows {rows:?} of {count}");
    rows.start * cols..rows.end * cols
}

impl Matrix {
    /// All zeros. Panics when the numbers cannot be counted.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; numbers(rows, cols)] }
    }

    /// Numbers of no meaning, for an output that is written whole. Panics when they cannot be counted.
    pub fn unset(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: recycle::take(numbers(rows, cols)) }
    }

    /// Takes `data` as `[rows, cols]`. Panics when the length is another.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), numbers(rows, cols), "{} values cannot be a [{rows}, {cols}] matrix", data.len());
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

    /// One row. Panics when there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[within(&(row..row + 1), self.rows, self.cols)]
    }

    /// One row for writing. Panics when there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[within(&(row..row + 1), self.rows, self.cols)]
    }

    /// The whole matrix, borrowed.
    pub fn view(&self) -> MatrixView<'_> {
        MatrixView { rows: self.rows, cols: self.cols, data: &self.data }
    }

    /// The whole matrix, borrowed for writing.
    pub fn view_mut(&mut self) -> MatrixViewMut<'_> {
        MatrixViewMut { rows: self.rows, cols: self.cols, data: &mut self.data }
    }

    /// A range of rows, borrowed. Panics when the matrix does not have them.
    pub fn slice(&self, rows: Range<usize>) -> MatrixView<'_> {
        self.view().slice(rows)
    }

    /// A range of rows, borrowed for writing. Panics when the matrix does not have them.
    pub fn slice_mut(&mut self, rows: Range<usize>) -> MatrixViewMut<'_> {
        let place = within(&rows, self.rows, self.cols);
        MatrixViewMut { rows: rows.len(), cols: self.cols, data: &mut self.data[place] }
    }

    /// Appends rows. Panics when their width is another.
    pub fn push_rows(&mut self, rows: MatrixView<'_>) {
        assert_eq!(rows.cols, self.cols, "rows of {} appended to rows of {}", rows.cols, self.cols);
        self.data.extend_from_slice(rows.data);
        self.rows += rows.rows;
    }

    /// The values, row after row.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.data)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        recycle::give(std::mem::take(&mut self.data));
    }
}

impl<'a> MatrixView<'a> {
    /// Borrows `data` as `[rows, cols]`. Panics when the length is another.
    pub fn new(rows: usize, cols: usize, data: &'a [f32]) -> Self {
        assert_eq!(data.len(), numbers(rows, cols), "{} values cannot be a [{rows}, {cols}] matrix", data.len());
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

    /// One row. Panics when there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[within(&(row..row + 1), self.rows, self.cols)]
    }

    /// A range of rows. Panics when the matrix does not have them.
    pub fn slice(&self, rows: Range<usize>) -> MatrixView<'a> {
        let place = within(&rows, self.rows, self.cols);
        MatrixView { rows: rows.len(), cols: self.cols, data: &self.data[place] }
    }

    /// An owned copy.
    pub fn to_matrix(&self) -> Matrix {
        let mut matrix = Matrix::unset(self.rows, self.cols);
        matrix.data.copy_from_slice(self.data);
        matrix
    }
}

impl<'a> MatrixViewMut<'a> {
    /// Borrows `data` as `[rows, cols]`. Panics when the length is another.
    pub fn new(rows: usize, cols: usize, data: &'a mut [f32]) -> Self {
        assert_eq!(data.len(), numbers(rows, cols), "{} values cannot be a [{rows}, {cols}] matrix", data.len());
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

    /// One row for writing. Panics when there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[within(&(row..row + 1), self.rows, self.cols)]
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
