//! The examples of the library: each runs to its end, and says what it shows.

use crate::support::{run, skip};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Lines that they print.
const SAID: [(&str, &str); 6] = [
    ("fencing", "refused: token 1 is older than 2"),
    ("leader", "leading, with token 1\nstep 1\nstep 2\nstep 3"),
    ("leader_async", "leads, with token 3"),
    ("manual_clock", "an hour passed in no time"),
    ("semaphore", "six workers, and never more than 2 at once"),
    ("transfer", "20 transfers, and the sum is still 0"),
];

#[test]
fn each_example_runs_to_its_end_and_says_its_lines() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    // Built beside the command, if the features that they need are on.
    let built = Path::new(env!("CARGO_BIN_EXE_lockmgr")).with_file_name("examples");
    let mut names: Vec<String> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, SAID.map(|(name, _)| name));
    if !built.join(SAID[0].0).exists() {
        skip("`cargo test` builds the examples, `cargo test --test it` does not");
        return;
    }
    for (name, said) in SAID {
        if name.ends_with("_async") && cfg!(not(feature = "async")) {
            continue;
        }
        let ran = run(&mut Command::new(built.join(name)));
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(ran.stdout.contains(said), "{name}: {}", ran.stdout);
    }
}
