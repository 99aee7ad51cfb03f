//! What the manual says of the tests.

use std::{fs, path::Path};

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for folder in ["src", "tests", "auth/src"] {
        read(&root.join(folder), &mut code);
    }
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once("| `"));
    let mut count = 0;
    for name in rows.flat_map(|(_, tests)| tests.trim_end_matches('`').split("`, `")) {
        assert!(code.contains(&format!("fn {name}(")), "there is no test {name}");
        count += 1;
    }
    assert!(count > 30, "the page has a table");
}

fn read(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
