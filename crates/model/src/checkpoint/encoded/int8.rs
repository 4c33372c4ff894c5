//! int8 as bitsandbytes stores it.

use bouquet_kernels::weight::Int8Weight;
use bouquet_kernels::{Arithmetic, Weight};
use bytes::Bytes;

use super::{beside, module, scales, vector_bytes};
use crate::Result;
use crate::checkpoint::parts::{check, wrong};
use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource};

pub(super) fn load(source: &dyn TensorSource, name: &str, codes: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    check(name, &codes, &[Dtype::I8], &[rows, cols])?;
    let module = module(name);
    let format = format!("{module}.weight_format");
    // Files older than this tensor are row by row, too.
    if source.tensor(&format)?.is_some() {
        let found = beside(source, name, &format, Dtype::U8, &[])?.data[0];
        if found != 0 {
            return wrong(&format, format!("is {found}, and only 0 (row by row) is read"));
        }
    }
    let absmax = scales(source, name, &format!("{module}.SCB"), rows)?;
    Ok(Weight::Int8(Int8Weight::new(rows, cols, codes.data, absmax).into(), Arithmetic::Float))
}

pub(super) fn layout(module: &str, rows: usize, cols: usize) -> Vec<Planned> {
    vec![
        Planned::new(format!("{module}.weight"), Dtype::I8, &[rows, cols]),
        Planned::new(format!("{module}.SCB"), Dtype::F32, &[rows]),
        Planned::new(format!("{module}.weight_format"), Dtype::U8, &[]),
    ]
}

pub(super) fn contents(weight: &Int8Weight) -> Vec<Bytes> {
    vec![weight.codes().clone(), vector_bytes(weight.absmax()), Bytes::from_static(&[0])]
}
