//! bouquet
fn main() {}
