//! int4, whose layout is Bouquet's own.

use bouquet_kernels::weight::{Int4Weight, int4};
use bouquet_kernels::{Arithmetic, Weight};
use bytes::Bytes;

use super::{beside, module, scales, vector};
use crate::Result;
use crate::checkpoint::parts::check;
use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource};

pub(super) fn load(source: &dyn TensorSource, name: &str, codes: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    let (module, groups) = (module(name), int4::groups(cols));
    let group_scales = beside(source, name, &format!("{module}.group_scales"), Dtype::U8, &[rows, groups])?;
    check(name, &codes, &[Dtype::U8], &[rows, groups * int4::GROUP / 2])?;
    let row_scales = scales(source, name, &format!("{module}.row_scales"), rows)?;
    let weight = Int4Weight::new(rows, cols, codes.data, group_scales.data, row_scales);
    Ok(Weight::Int4(weight.into(), Arithmetic::Float))
}

pub(super) fn tensors(module: &str, weight: &Int4Weight) -> Vec<(Planned, Bytes)> {
    let (rows, groups) = (weight.rows(), int4::groups(weight.cols()));
    let codes = Planned::new(format!("{module}.weight"), Dtype::U8, &[rows, groups * int4::GROUP / 2]);
    let group_scales = Planned::new(format!("{module}.group_scales"), Dtype::U8, &[rows, groups]);
    vec![
        vector(format!("{module}.row_scales"), weight.row_scales()),
        (group_scales, weight.group_scales().clone()),
        (codes, weight.codes().clone()),
    ]
}
