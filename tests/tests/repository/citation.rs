//! `CITATION.cff` names the version and the licence that `Cargo.toml` does.

use fisherflow_tests::repository;

#[test]
fn the_citation_is_of_this_version() {
    let cited = std::fs::read_to_string(repository().join("CITATION.cff")).unwrap();
    let value = |key: &str| cited.lines().find_map(|line| line.strip_prefix(key));
    assert_eq!(value("version: "), Some(env!("CARGO_PKG_VERSION")));
    let licences = env!("CARGO_PKG_LICENSE").replace(" OR ", ", ");
    assert_eq!(value("license: "), Some(format!("[{licences}]").as_str()));
}
