//! Reads a GGUF file and writes the same again: what programs that share the format find in ours.

use std::error::Error;
use std::fs;

use bouquet_gguf::{Gguf, Planned, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { return Err("give the file to read and the file to write".into()) };
    let bytes = fs::read(from)?;
    let file = Gguf::parse(&bytes)?;
    let plan: Vec<Planned> = file.tensors.iter().map(|t| Planned::new(&t.name, &t.shape, t.kind)).collect();
    let mut writer = Writer::begin(fs::File::create(to)?, &file.metadata, &plan)?;
    for tensor in file.tensors.iter().filter(|tensor| !tensor.data.is_empty()) {
        writer.write(&tensor.name, &bytes[tensor.data.clone()])?;
    }
    writer.finish()?;
    Ok(())
}
