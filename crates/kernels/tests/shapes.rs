//! Shapes that lie: sizes whose product wraps, and ranges that are none. Safe code gets a panic, in release builds too,
//! and never a matrix that is larger than its numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bouquet_kernels::{FloatEncoding, Matrix, MatrixView, MatrixViewMut, Weight};
use bytes::Bytes;

/// What `f` panics with.
#[track_caller]
fn refusal<T>(f: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).err().expect("it is refused");
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

/// Half of the numbers that a machine tells apart: twice it is 0.
const HALF: usize = 1 << 63;

#[test]
fn sizes_that_wrap_are_refused() {
    let refusals = [
        refusal(|| Matrix::zeros(HALF, 2)),
        refusal(|| Matrix::from_vec(2, HALF, Vec::new())),
        refusal(|| MatrixView::new(HALF, 2, &[])),
        refusal(|| MatrixViewMut::new(HALF + 1, 2, &mut [0.0, 0.0]).rows()),
        refusal(|| Weight::from_f32(HALF, 2, &[])),
        refusal(|| Weight::from_bytes(FloatEncoding::Bf16, HALF, 2, Bytes::new())),
        // Only the bytes wrap.
        refusal(|| Weight::from_bytes(FloatEncoding::Bf16, HALF, 1, Bytes::new())),
        refusal(|| Weight::from_bytes(FloatEncoding::F32, 1 << 31, 1 << 31, Bytes::new())),
    ];
    for refusal in refusals {
        assert!(refusal.contains("more numbers than can be counted"), "{refusal}");
    }
}

#[test]
fn numbers_that_do_not_fill_a_shape_are_refused() {
    assert!(refusal(|| Matrix::from_vec(2, 3, vec![0.0; 5])).contains("5 values cannot be a [2, 3] matrix"));
    assert!(refusal(|| Weight::from_f32(2, 3, &[0.0; 7])).contains("bytes of a [2, 3] F32 weight"));
}

#[test]
fn rows_that_are_not_there_are_refused() {
    // Read from data, so that no lint finds the range out.
    let backwards = |from: usize, to: usize| from..to;
    for cols in [0, 2] {
        let mut matrix = Matrix::zeros(4, cols);
        for rows in [backwards(3, 1), backwards(0, 5), backwards(5, 5), backwards(HALF, HALF + 1), backwards(HALF, 0)] {
            let expected = format!("rows {rows:?} of 4");
            assert_eq!(refusal(|| matrix.slice(rows.clone())), expected);
            assert_eq!(refusal(|| matrix.view().slice(rows.clone())), expected);
            assert_eq!(refusal(|| matrix.slice_mut(rows.clone()).rows()), expected);
        }
        for row in [4, HALF] {
            let expected = format!("rows {row}..{} of 4", row + 1);
            assert_eq!(refusal(|| matrix.row(row).len()), expected);
            assert_eq!(refusal(|| matrix.view().row(row).len()), expected);
            assert_eq!(refusal(|| matrix.row_mut(row).len()), expected);
            assert_eq!(refusal(|| matrix.view_mut().row_mut(row).len()), expected);
        }
        assert_eq!((matrix.slice(4..4).rows(), matrix.slice_mut(1..3).rows()), (0, 2));
    }
}
