//! Checks the source tree: no module imports one below it in the table, and no code is unfinished.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules in reading order: each may import the modules before it.
const ORDER: [&str; 31] = [
    "clock", "process", "spawn", "name", "claim", "timeout", "beacon", "lock", "queue", "error",
    "set", "record", "holds", "wait", "storage", "store", "grant", "observe", "base", "held",
    "keeper", "worker", "builder", "manager", "inspect", "waiter", "ask", "guard", "acquire",
    "future", "guide",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the Rust files under a directory of the package, with their text.
fn rust_files(directory: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// Returns the files of the library, each with its top-level module.
fn modules() -> Vec<(String, String)> {
    let src = root().join("src");
    let in_library = rust_files("src").into_iter().filter_map(|(path, text)| {
        let path = path.strip_prefix(&src).unwrap().with_extension("");
        let module = path.iter().next().unwrap().to_str().unwrap().to_owned();
        (module != "bin" && module != "lib").then_some((module, text))
    });
    in_library.collect()
}

/// Returns the lines that are not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn position(module: &str) -> usize {
    let position = ORDER.iter().position(|&known| known == module);
    position.unwrap_or_else(|| panic!("the module {module} has no place in the order"))
}

#[test]
fn every_source_file_says_first_why_it_exists() {
    for (path, text) in rust_files("src").iter().chain(&rust_files("tests")) {
        assert!(text.starts_with("//! "), "{}", path.display());
    }
}

#[test]
fn imports_point_only_up_the_order_of_the_modules() {
    let mut imports = 0;
    for (module, text) in modules() {
        for line in code(&text) {
            for path in line.split("crate::").skip(1) {
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                let imported = &path[..path.find(|c| !is_name(c)).unwrap_or(path.len())];
                if imported.is_empty() || imported == module {
                    continue;
                }
                imports += 1;
                assert!(position(imported) < position(&module), "{module}: {line}");
            }
        }
    }
    assert!(imports > 0);
}

#[test]
fn only_store_and_beacon_name_redb() {
    for (module, text) in modules() {
        let is_known = code(&text).any(|line| line.contains("redb::"));
        let may = ["store", "beacon"].contains(&module.as_str());
        assert!(may || !is_known, "{module}");
    }
}

#[test]
fn architecture_stays_on_a_page() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() < 80);
}

#[test]
fn no_line_ends_in_blanks_and_nothing_is_unfinished() {
    let unfinished = [
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("FIX", "ME"),
    ];
    let tests = rust_files("tests");
    for (path, text) in rust_files("src").iter().chain(&tests) {
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{}:{number}", path.display());
            assert_eq!(line, line.trim_end(), "{place}");
            for word in unfinished {
                assert!(!line.contains(word), "{place}");
            }
        }
    }
}
