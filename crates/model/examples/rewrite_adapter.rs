//! Opens an adapter of a model and writes it again, for the base with a head or without: what the checks in
//! `tests/interop` give to PEFT.
//!
//! ```text
//! cargo run --example rewrite_adapter -- MODEL ADAPTER OUT [CAUSAL_LM | FEATURE_EXTRACTION]
//! ```

use std::error::Error;
use std::path::Path;

use bouquet_model::adapter::{Learned, Task};
use bouquet_model::families::load_spec;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, out, task @ ..] = args.as_slice() else {
        return Err("give MODEL ADAPTER OUT, and a task or none".into());
    };
    let spec = load_spec(Path::new(model))?;
    let (learned, mut settings) = Learned::open(Path::new(adapter), &spec)?;
    if let [name] = task {
        settings.task = Task::of_name(name).ok_or("the task is CAUSAL_LM or FEATURE_EXTRACTION")?;
    }
    Ok(learned.write(Path::new(out), &settings, &spec)?)
}
