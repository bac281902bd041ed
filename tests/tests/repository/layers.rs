//! The one-way dependencies between the crates: who may know whom, and who alone may know timely, Parquet or the command line.
//!
//! The table is checked against `cargo metadata`, and the sources against the calls that only some crates may make. A crate, or a
//! dependency in the table of [`RESERVED`], that breaks it fails here; so does a new crate that the table does not know.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A crate of the workspace and the crates of the workspace that it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("fisherflow-spectra", &[]),
    ("fisherflow-store", &["fisherflow-spectra"]),
    ("fisherflow-kernels", &[]),
    ("fisherflow-network", &["fisherflow-kernels"]),
    ("fisherflow-curvature", &["fisherflow-kernels", "fisherflow-network"]),
    (
        "fisherflow-posterior",
        &["fisherflow-kernels", "fisherflow-network", "fisherflow-curvature"],
    ),
    (
        "fisherflow-dataflow",
        &[
            "fisherflow-spectra",
            "fisherflow-store",
            "fisherflow-network",
            "fisherflow-curvature",
            "fisherflow-posterior",
        ],
    ),
    // The report draws from the written Parquet alone, which the store reads for it.
    ("fisherflow-report", &["fisherflow-store"]),
    // Spectra, store and network for `inspect`, `simulate` and `train`; curvature for the names of its structures; kernels for the allocator; never
    // posterior.
    (
        "fisherflow-cli",
        &[
            "fisherflow-dataflow",
            "fisherflow-report",
            "fisherflow-spectra",
            "fisherflow-store",
            "fisherflow-kernels",
            "fisherflow-network",
            "fisherflow-curvature",
        ],
    ),
];

/// The member that tests the others and may use anything.
const TESTS: &str = "fisherflow-tests";

/// A dependency (a trailing `*` stands for any end of its name) and the only crates that may have it.
const RESERVED: &[(&str, &[&str])] = &[
    ("timely*", &["fisherflow-dataflow"]),
    ("differential-dataflow", &["fisherflow-dataflow"]),
    ("object_store", &["fisherflow-store"]),
    ("parquet", &["fisherflow-store"]),
    ("tokio*", &["fisherflow-store"]),
    (
        "arrow*",
        &[
            "fisherflow-spectra",
            "fisherflow-store",
            "fisherflow-dataflow",
            "fisherflow-report",
            "fisherflow-cli",
        ],
    ),
    (
        "candle-core",
        &[
            "fisherflow-network",
            "fisherflow-curvature",
            "fisherflow-posterior",
            "fisherflow-dataflow",
        ],
    ),
    (
        "faer",
        &[
            "fisherflow-kernels",
            "fisherflow-network",
            "fisherflow-curvature",
            "fisherflow-posterior",
        ],
    ),
    ("safetensors", &["fisherflow-network"]),
    ("plotters", &["fisherflow-report"]),
    ("clap*", &["fisherflow-cli"]),
    ("indicatif", &["fisherflow-cli"]),
    ("toml", &["fisherflow-cli"]),
    ("tracing-subscriber", &["fisherflow-cli"]),
];

/// Words in a crate's sources (tests left out) and the only crates that may write them.
const CALLS: &[(&str, &[&str])] = &[
    ("env::args", &["fisherflow-cli"]),
    ("env::var", &["fisherflow-cli"]),
    ("process::exit", &["fisherflow-cli"]),
    (
        "std::fs",
        &["fisherflow-store", "fisherflow-dataflow", "fisherflow-cli"],
    ),
    ("std::net", &["fisherflow-dataflow", "fisherflow-cli"]),
];

/// What a table of `cargo metadata` breaks, one sentence each.
fn broken_layers(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for package in list(metadata, "packages") {
        let name = text(package, "name");
        if name == TESTS {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            broken.push(format!(
                "{name} is a crate that no layer knows: say in LAYERS what it may use"
            ));
            continue;
        };
        // Development dependencies are the tests' affair.
        for dependency in list(package, "dependencies").iter().filter(|d| d["kind"] != "dev") {
            let used = text(dependency, "name");
            if used.starts_with("fisherflow-") && !allowed.contains(&used) {
                broken.push(format!("{name} uses {used}, which is not below it"));
            }
            for (reserved, owners) in RESERVED {
                if matches(reserved, used) && !owners.contains(&name) {
                    broken.push(format!("{name} uses {used}, which only {} may", owners.join(", ")));
                }
            }
        }
    }
    broken
}

/// What one source file of a crate breaks. The part after `#[cfg(test)]` is free, and so are comments.
fn broken_calls(name: &str, file: &str, source: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (index, line) in source.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        for (call, owners) in CALLS {
            if code.contains(call) && !owners.contains(&name) {
                broken.push(format!(
                    "{file}:{}: {call} in {name}, which only {} may",
                    index + 1,
                    owners.join(", ")
                ));
            }
        }
    }
    broken
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn workspace_metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(workspace().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = workspace_metadata();
    let broken = broken_layers(&metadata);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // A crate that is gone would leave its rule unchecked.
    let names: Vec<&str> = list(&metadata, "packages")
        .iter()
        .map(|package| text(package, "name"))
        .collect();
    for (layer, _) in LAYERS {
        assert!(names.contains(layer), "{layer} is in LAYERS and not in the workspace");
    }
}

#[test]
fn only_some_crates_touch_files_sockets_and_the_environment() {
    let mut broken = Vec::new();
    for package in list(&workspace_metadata(), "packages") {
        let name = text(package, "name");
        if name == TESTS {
            continue;
        }
        let source_folder = Path::new(text(package, "manifest_path")).with_file_name("src");
        for file in sources(&source_folder) {
            let source = std::fs::read_to_string(&file).unwrap();
            broken.extend(broken_calls(name, &file.display().to_string(), &source));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
    let dependencies: Vec<Value> = dependencies
        .iter()
        .map(|(name, kind)| json!({ "name": name, "kind": kind }))
        .collect();
    json!({ "packages": [{ "name": name, "dependencies": dependencies }] })
}

#[test]
fn an_upward_dependency_is_found() {
    let broken = broken_layers(&package(
        "fisherflow-spectra",
        &[("fisherflow-store", None), ("serde", None)],
    ));
    assert_eq!(
        broken,
        ["fisherflow-spectra uses fisherflow-store, which is not below it"]
    );
}

#[test]
fn a_reserved_dependency_is_found_also_where_it_is_for_the_build() {
    let broken = broken_layers(&package(
        "fisherflow-network",
        &[("timely_communication", Some("build")), ("arrow-array", None)],
    ));
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].contains("only fisherflow-dataflow may"));
    assert!(broken_layers(&package("fisherflow-network", &[("tokio", Some("dev"))])).is_empty());
}

#[test]
fn an_unknown_crate_is_found() {
    let broken = broken_layers(&package("fisherflow-utils", &[]));
    assert_eq!(
        broken,
        ["fisherflow-utils is a crate that no layer knows: say in LAYERS what it may use"]
    );
}

#[test]
fn a_forbidden_call_is_found_and_a_test_may_make_it() {
    let source = "use std::fs; // files\n// env::var in a comment\n#[cfg(test)]\nmod tests { use std::env::var; }\n";
    let broken = broken_calls("fisherflow-curvature", "block.rs", source);
    assert_eq!(
        broken,
        [
            "block.rs:1: std::fs in fisherflow-curvature, which only fisherflow-store, fisherflow-dataflow, fisherflow-cli may"
        ]
    );
    assert!(broken_calls("fisherflow-store", "local.rs", source).is_empty());
}
