//! Checks of the `Cargo.toml` files: which room may use which, and what every crate says of itself.

use super::{File, Finding, line_of};
use toml::{Table, Value};

/// The rooms of the house and what each stands on; what those stand on is allowed as well. A new room is a new line.
///
/// ```text
/// kernels <- span <- model <- {compress, embed, generate};  gguf <- model;  embed <- tune;  generate <- serve;
/// span <- swarm;  gguf <- hub;  all <- cli
/// ```
const ROOMS: [(&str, &[&str]); 13] = [
    ("kernels", &[]),
    ("span", &["kernels"]),
    ("gguf", &[]),
    ("model", &["span", "gguf"]),
    ("compress", &["model"]),
    ("embed", &["model"]),
    ("tune", &["embed"]),
    ("generate", &["model"]),
    ("swarm", &["span"]),
    ("serve", &["generate"]),
    ("hub", &["gguf"]),
    ("cli", &["hub", "compress", "tune", "generate", "serve", "swarm"]),
    ("xtask", &[]),
];

/// Dependencies between crates of this repository that [`ROOMS`] does not allow, in any of their tables: tests of a room
/// must not need more of the house than the room.
pub(super) fn arrows(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in manifests(files) {
        let room = room_of_folder(&file.path);
        if !ROOMS.iter().any(|(name, _)| *name == room) {
            let what = format!("`{room}` is not a known room; say what it stands on in xtask/src/tidy/manifests.rs");
            findings.push(Finding::new(file, 0, what));
            continue;
        }
        let manifest = match file.text.parse::<Table>() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::new(file, 0, format!("not TOML: {}", error.message())));
                continue;
            }
        };
        for dependency in dependencies(&manifest) {
            let Some(used) = room_of_package(dependency) else { continue };
            if !may_use(room, used) {
                let what = format!(
                    "`{room}` must not use `{used}` (ARCHITECTURE.md has the arrows); move the code that needs it, or \
                     the code that is needed"
                );
                findings.push(Finding::new(file, line_of(&file.text, dependency), what));
            }
        }
    }
    findings
}

/// Crates without a description, the licence of the workspace, or its lints.
pub(super) fn fields(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in manifests(files) {
        let Ok(manifest) = file.text.parse::<Table>() else { continue };
        let inherits = |table: Option<&Value>| table.and_then(|t| t.get("workspace")) == Some(&Value::Boolean(true));
        let package = manifest.get("package");
        let description = package.and_then(|p| p.get("description")).and_then(Value::as_str).unwrap_or_default();
        let mut ask = |what: &str| findings.push(Finding::new(file, line_of(&file.text, "[package]"), what));
        if description.trim().is_empty() {
            ask("no `description`; say the job of the crate in a line");
        }
        if !inherits(package.and_then(|p| p.get("license"))) {
            ask("write `license.workspace = true`: all crates have the licence of the workspace");
        }
        if !inherits(manifest.get("lints")) {
            ask("write `workspace = true` under `[lints]`: all crates have the lints of the workspace");
        }
    }
    findings
}

/// The manifests of crates; the root's is of the workspace alone.
fn manifests(files: &[File]) -> impl Iterator<Item = &File> {
    // `fuzz` is a workspace of its own, which needs a nightly toolchain.
    files.iter().filter(|file| file.path.ends_with("/Cargo.toml") && file.path != "fuzz/Cargo.toml")
}

/// `crates/span/Cargo.toml` is of the room `span`.
fn room_of_folder(path: &str) -> &str {
    path.trim_end_matches("/Cargo.toml").trim_start_matches("crates/")
}

/// The package `bouquet-span` is the room `span`, `bouquet` is `cli`; other packages are no rooms.
fn room_of_package(package: &str) -> Option<&str> {
    match package {
        "bouquet" => Some("cli"),
        "xtask" => Some("xtask"),
        _ => package.strip_prefix("bouquet-"),
    }
}

fn may_use(room: &str, used: &str) -> bool {
    let (_, stands_on) = ROOMS.iter().find(|(name, _)| *name == room).expect("the caller looked the room up");
    stands_on.iter().any(|below| *below == used || may_use(below, used))
}

/// The packages in every dependency table: plain, for tests, for build scripts, and each of these by target.
fn dependencies(manifest: &Table) -> Vec<&str> {
    let mut packages = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, dependency) in manifest.get(kind).and_then(Value::as_table).into_iter().flatten() {
            packages.push(dependency.get("package").and_then(Value::as_str).unwrap_or(name));
        }
    }
    for (_, target) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        packages.extend(target.as_table().into_iter().flat_map(dependencies));
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::super::{file, places};
    use super::*;

    #[test]
    fn arrows_point_down_and_may_skip_rooms() {
        for (room, used, allowed) in [
            ("span", "kernels", true),
            ("model", "kernels", true),
            ("cli", "kernels", true),
            ("serve", "model", true),
            ("kernels", "span", false),
            ("swarm", "model", false),
            ("model", "generate", false),
            ("tune", "generate", false),
            ("generate", "cli", false),
            ("cli", "hub", true),
            ("model", "hub", false),
            ("hub", "model", false),
            ("model", "gguf", true),
            ("gguf", "kernels", false),
            ("xtask", "kernels", false),
            ("span", "span", false),
        ] {
            assert_eq!(may_use(room, used), allowed, "{room} -> {used}");
        }
    }

    #[test]
    fn forbidden_arrows_are_found_in_every_table() {
        for table in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.dependencies"] {
            for dependency in ["bouquet-model.workspace = true", "other = { package = 'bouquet-model', path = '.' }"] {
                let manifest = file("crates/swarm/Cargo.toml", &format!("[{table}]\n{dependency}\n"));
                assert_eq!(places(arrows(&[manifest])), ["crates/swarm/Cargo.toml:2"], "{table} {dependency}");
            }
        }
        let manifest = file("crates/swarm/Cargo.toml", "[dependencies]\nbouquet-span.workspace = true\nserde = '1'\n");
        assert_eq!(arrows(&[manifest]), []);
    }

    #[test]
    fn unknown_rooms_and_broken_manifests_are_found() {
        let files = [file("crates/attic/Cargo.toml", ""), file("crates/span/Cargo.toml", "[")];
        assert_eq!(places(arrows(&files)), ["crates/attic/Cargo.toml:0", "crates/span/Cargo.toml:0"]);
    }

    #[test]
    fn every_crate_has_its_fields() {
        let good = "[package]\ndescription = 'd'\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(fields(&[file("crates/span/Cargo.toml", good)]), []);
        assert_eq!(fields(&[file("crates/span/Cargo.toml", "[package]\nlicense = 'MIT'\n")]).len(), 3);
        assert_eq!(fields(&[file("Cargo.toml", "[workspace]\n")]), [], "the workspace is no crate");
    }
}
