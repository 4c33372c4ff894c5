//! Pages and pictures of what a run did: files that open anywhere, run nothing and fetch nothing.
//!
//! | function | what it draws |
//! |---|---|
//! | [`run()`] | `report.html` of a run: its curves, evaluations, settings, memory, time, and an estimate of its energy |
//! | [`comparison()`] | tasks by models: a table and bars |
//! | [`Bars::document`] | bars alone, as an SVG file |
//!
//! They are text made from data: nothing here reads a clock, a system or a network. All names and values of the user are
//! escaped. [`save`] puts them in their place whole.

mod axis;
mod bars;
mod comparison;
mod energy;
mod frame;
mod lines;
mod page;
mod run;
mod style;
mod text;
mod thin;

use std::path::Path;

use bouquet_model::checkpoint::new_file::write_whole;

pub use bars::Bars;
pub use comparison::{Comparison, Task, comparison};
pub use energy::Footprint;
pub use run::{Run, run};

/// Writes a page or a picture: whole, or not at all.
///
/// # Errors
/// [`ModelError::Write`](bouquet_model::ModelError::Write).
pub fn save(path: &Path, text: &str) -> bouquet_model::Result<()> {
    write_whole(path, text.as_bytes())
}
