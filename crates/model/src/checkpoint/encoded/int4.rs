//! int4, whose layout is Bouquet's own.

use bouquet_kernels::weight::{Int4Weight, int4};
use bouquet_kernels::{Arithmetic, Weight};
use bytes::Bytes;

use super::{beside, module, scales, vector_bytes};
use crate::Result;
use crate::checkpoint::parts::check;
use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource};

/// Behind the name of a module: the scales of its groups.
pub(super) const GROUP_SCALES: &str = ".group_scales";

/// Behind the name of a module: the scales of its rows.
const ROW_SCALES: &str = ".row_scales";

pub(super) fn load(source: &dyn TensorSource, name: &str, codes: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    let (module, groups) = (module(name), int4::groups(cols));
    let group_scales = beside(source, name, &format!("{module}{GROUP_SCALES}"), Dtype::I8, &[rows, groups])?;
    check(name, &codes, &[Dtype::U8], &[rows, groups * int4::GROUP / 2])?;
    let row_scales = scales(source, name, &format!("{module}{ROW_SCALES}"), rows)?;
    let weight = Int4Weight::new(rows, cols, codes.data, group_scales.data, row_scales);
    Ok(Weight::Int4(weight.into(), Arithmetic::Float))
}

pub(super) fn layout(module: &str, rows: usize, cols: usize) -> Vec<Planned> {
    let groups = int4::groups(cols);
    vec![
        Planned::new(format!("{module}.weight"), Dtype::U8, &[rows, groups * int4::GROUP / 2]),
        Planned::new(format!("{module}{GROUP_SCALES}"), Dtype::I8, &[rows, groups]),
        Planned::new(format!("{module}{ROW_SCALES}"), Dtype::F32, &[rows]),
    ]
}

pub(super) fn contents(weight: &Int4Weight) -> Vec<Bytes> {
    vec![weight.codes().clone(), weight.group_scales().clone(), vector_bytes(weight.row_scales())]
}
