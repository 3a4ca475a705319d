//! Builds what is in folders into the program: macros that embed files see changed ones, but not new ones.
//!
//! Migrations only need to be looked at again. Of `config/prices` a list of names and texts is written, so that a new price
//! table is a new file and no code.

use std::{env, fs, io, path::Path};

const PRICES: &str = "config/prices";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed={PRICES}");
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(PRICES)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Some(version) = name.strip_suffix(".toml") {
            names.push(version.to_owned());
        }
    }
    names.sort_unstable();
    let lines: Vec<String> = names
        .iter()
        .map(|name| {
            let path = Path::new(&root).join(PRICES).join(format!("{name}.toml"));
            format!("({name:?}, include_str!({:?}))", path.display().to_string())
        })
        .collect();
    let list = format!("[\n{}\n]\n", lines.join(",\n"));
    fs::write(Path::new(&out).join("price_files.rs"), list)
}
