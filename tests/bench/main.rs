//! Benchmarks: `cargo bench --bench carillon -- SUBJECT`. The last line on standard output is one JSON object.

fn main() {}
