//! nf4 as bitsandbytes stores it, with magnitudes in f32 or, doubly quantized, in 8 bits.

use bouquet_kernels::Weight;
use bouquet_kernels::weight::nf4::{BLOCK, LEVELS, NESTED_BLOCK, Nested, blocks, code_bytes};
use bouquet_kernels::weight::{FloatEncoding, Nf4Weight, dynamic};
use bouquet_span::counted;
use bytes::Bytes;
use serde::Deserialize;

use super::{beside, floats, floats_of, scales, vector_bytes};
use crate::Result;
use crate::checkpoint::parts::{check, wrong};
use crate::checkpoint::unique::Shape;
use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::files::shown;

/// Behind the name of the codes: a JSON object that says what they are.
pub(super) const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// Bytes that the object may have; bitsandbytes writes less than 200.
const MAX_STATE_BYTES: usize = 4096;

/// Bytes that the object has where it is written here: its numbers may be longer or shorter, and spaces follow it.
const STATE_BYTES: usize = 256;

/// How far levels of a file may be from ours, which other ways of computing them are.
const LEVEL_TOLERANCE: f32 = 1e-6;

/// The object. What it says of the numbers that were encoded (`dtype`) is for programs that decode to them.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: u64,
    shape: Shape,
    nested_blocksize: Option<u64>,
    nested_dtype: Option<String>,
    nested_offset: Option<f32>,
}

pub(super) fn load(source: &dyn TensorSource, name: &str, codes: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    let state_name = format!("{name}{STATE}");
    let state = state(source, name, &state_name)?;
    if state.quant_type != "nf4" || state.blocksize != BLOCK as u64 {
        let (kind, size) = (shown(&state.quant_type), state.blocksize);
        return wrong(
            &state_name,
            format!("says {kind} in blocks of {size}, and only \"nf4\" in blocks of 64 is read"),
        );
    }
    if state.shape.0 != [rows, cols] {
        return wrong(&state_name, format!("says shape {:?}, but it should be {:?}", state.shape.0, [rows, cols]));
    }
    check(name, &codes, &[Dtype::U8], &[code_bytes(rows, cols), 1])?;
    let map_name = format!("{name}.quant_map");
    let levels = floats(source, name, &map_name, LEVELS.len())?;
    if let Some(code) = (0..LEVELS.len()).find(|&code| (levels[code] - LEVELS[code]).abs() > LEVEL_TOLERANCE) {
        return wrong(&map_name, format!("has {} at index {code}, where nf4 has {}", levels[code], LEVELS[code]));
    }
    let blocks = blocks(rows, cols);
    let absmax_name = format!("{name}.absmax");
    let Some(offset) = state.nested_offset else {
        let absmax = scales(source, name, &absmax_name, blocks)?;
        return Ok(Weight::Nf4(Nf4Weight::new(rows, cols, codes.data, absmax).into()));
    };
    let (size, dtype) = (state.nested_blocksize, state.nested_dtype.as_deref());
    if size != Some(NESTED_BLOCK as u64) || dtype != Some("float32") {
        return wrong(
            &state_name,
            "says of its magnitudes what is not read: only blocks of 256 in float32 are".to_owned(),
        );
    }
    let nested = Nested {
        codes: beside(source, name, &absmax_name, Dtype::U8, &[blocks])?.data.to_vec(),
        absmax: scales(source, name, &format!("{name}.nested_absmax"), blocks.div_ceil(NESTED_BLOCK))?,
        map: nested_map(source, name)?,
        offset,
    };
    Ok(Weight::Nf4(Nf4Weight::nested(rows, cols, codes.data, &nested).into()))
}

/// The object beside the codes called `codes`.
fn state(source: &dyn TensorSource, codes: &str, name: &str) -> Result<State> {
    let length = source.tensor(name)?.map_or(0, |tensor| tensor.data.len());
    if length > MAX_STATE_BYTES {
        return wrong(
            name,
            format!("has {}, and more than {MAX_STATE_BYTES} are not read", counted(length as u64, "byte")),
        );
    }
    let tensor = beside(source, codes, name, Dtype::U8, &[length])?;
    match serde_json::from_slice(&tensor.data) {
        Ok(state) => Ok(state),
        Err(error) => wrong(name, format!("is not what bitsandbytes writes there: {error}")),
    }
}

/// What codes of magnitudes mean.
fn nested_map(source: &dyn TensorSource, codes: &str) -> Result<Box<[f32; dynamic::LEVELS]>> {
    let name = format!("{codes}.nested_quant_map");
    let map = floats(source, codes, &name, dynamic::LEVELS)?;
    match map.windows(2).position(|pair| pair[0] > pair[1]) {
        None => Ok(map.into_boxed_slice().try_into().expect("as many as were checked for")),
        Some(index) => wrong(&name, format!("falls at index {index}, but levels ascend")),
    }
}

pub(super) fn layout(module: &str, rows: usize, cols: usize, double: bool) -> Vec<Planned> {
    let codes = format!("{module}.weight");
    let planned = |end: &str, dtype, length| Planned::new(format!("{codes}{end}"), dtype, &[length]);
    let blocks = blocks(rows, cols);
    let mut tensors = vec![
        Planned::new(codes.clone(), Dtype::U8, &[code_bytes(rows, cols), 1]),
        planned(".quant_map", Dtype::F32, LEVELS.len()),
        planned(STATE, Dtype::U8, STATE_BYTES),
        planned(".absmax", if double { Dtype::U8 } else { Dtype::F32 }, blocks),
    ];
    if double {
        tensors.push(planned(".nested_absmax", Dtype::F32, blocks.div_ceil(NESTED_BLOCK)));
        tensors.push(planned(".nested_quant_map", Dtype::F32, dynamic::LEVELS));
    }
    tensors
}

pub(super) fn contents(weight: &Nf4Weight, double: bool, was: FloatEncoding) -> Vec<Bytes> {
    let nested = double.then(|| Nested::encode(weight.absmax()));
    let mut contents = vec![
        weight.codes().clone(),
        vector_bytes(&LEVELS),
        written_state([weight.rows(), weight.cols()], was, nested.as_ref().map(|nested| nested.offset)),
    ];
    match nested {
        None => contents.push(vector_bytes(weight.absmax())),
        Some(Nested { codes, absmax, map, .. }) => {
            contents.extend([codes.into(), vector_bytes(&absmax), vector_bytes(&*map)]);
        }
    }
    contents
}

/// The object as bitsandbytes writes it, and spaces, which readers of JSON pass over.
fn written_state(shape: [usize; 2], was: FloatEncoding, nested_offset: Option<f32>) -> Bytes {
    let mut state = serde_json::json!({
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": floats_of(was),
        "shape": shape,
    });
    if let Some(offset) = nested_offset {
        state["nested_blocksize"] = NESTED_BLOCK.into();
        state["nested_dtype"] = "float32".into();
        state["nested_offset"] = f64::from(offset).into();
    }
    format!("{:<STATE_BYTES$}", state.to_string()).into()
}
