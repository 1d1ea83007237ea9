//! Tests the guide: terminal, manual pages and rustdoc show the same chapters, and its tables are
//! complete.

use crate::holding_support::DONE;
use crate::support::{Home, run, through};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ERRORS: &str = include_str!("../../src/guide/errors.md");
const DJANGO: &str = include_str!("../../src/guide/django_lockmgr.md");
const EXIT_CODES: &str = include_str!("../../src/bin/lockmgr/exit_code.rs");
const ERROR: &str = include_str!("../../src/error.rs");
const HELP: &str = "lockmgr help ";

/// Returns the part of a text between these two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("{begin}"))
        .1;
    rest.split_once(end).unwrap_or_else(|| panic!("{end}")).0
}

/// Returns the names of a kind in a piece of code, as `Self::NAME`.
fn named<'a>(code: &'a str, of: &str) -> Vec<&'a str> {
    let names = code.split(of).skip(1);
    let is_name = |c: char| c.is_ascii_alphanumeric();
    names
        .map(|name| &name[..name.find(|c| !is_name(c)).unwrap_or(name.len())])
        .collect()
}

/// Returns the cells of the rows of a table, below its headings.
fn rows(chapter: &str, headings: &str) -> Vec<Vec<String>> {
    let table = chapter
        .split_once(headings)
        .unwrap_or_else(|| panic!("{headings}"))
        .1;
    let lines = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    lines.map(cells).collect()
}

/// Returns the output of the command.
fn shown<const N: usize>(home: &Home, arguments: [&str; N]) -> String {
    let mut command = through(&[]);
    command.args(arguments).env("HOME", home.path());
    let ran = run(&mut command);
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (DONE, ""),
        "{arguments:?}"
    );
    ran.stdout
}

#[test]
fn every_chapter_is_a_module_and_a_topic_of_the_help() {
    let home = Home::new();
    let topics = shown(&home, ["help", "topics"]);
    let guide = include_str!("../../src/guide.rs");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide");
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let title = fs::read_to_string(&path).unwrap();
        let title = title
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# ")
            .unwrap()
            .to_owned();
        let topic = module.replace('_', "-");
        assert!(guide.contains(&format!(
            "#[doc = include_str!(\"guide/{module}.md\")]\npub mod {module} {{}}"
        )));
        assert!(guide.contains(&format!("[`{module}`]")), "{module}");
        let is_listed = |line: &str| {
            let line = line.trim_start().strip_prefix(HELP);
            line.is_some_and(|line| {
                line.starts_with(&format!("{topic} ")) && line.ends_with(&title)
            })
        };
        assert!(topics.lines().any(is_listed), "{topic}: {topics}");
        let text = shown(&home, ["help", &topic]);
        assert!(text.starts_with(&title), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        count += 1;
    }
    assert_eq!(topics.matches(HELP).count(), count);
}

#[test]
fn help_of_the_command_names_the_guide() {
    let home = Home::new();
    for option in ["-h", "--help"] {
        let help = shown(&home, [option]);
        for said in [
            "lockmgr help topics",
            "lockmgr help recipes",
            "lockmgr-guide(7)",
        ] {
            assert!(help.replace('\n', " ").contains(said), "{help}");
        }
    }
    let help = home.lockmgr(["help", "nothing-of-that-name"]);
    assert_eq!(help.status, Some(64));
}

#[test]
fn errors_chapter_has_every_kind_and_variant_with_its_exit_status() {
    let kinds = named(between(ERROR, "fn as_str", "impl fmt::Display"), "Self::");
    let classify = between(
        EXIT_CODES,
        "match error.kind() {",
        "_ => ExitCode::Software",
    );
    let statuses = between(EXIT_CODES, "match code {", "ExitCode::Command");
    let status = |code: &str| {
        let begin = format!("ExitCode::{code} => ");
        between(statuses, &begin, ",").to_owned()
    };
    let rows = rows(ERRORS, "| kind | exit | cause | remedy |");
    let mut listed = BTreeSet::new();
    for row in &rows {
        let [kind, exit, cause, remedy] = row.as_slice() else {
            panic!("{row:?}");
        };
        assert!(!cause.is_empty() && !remedy.is_empty(), "{kind}");
        let exits: BTreeSet<&str> = exit.split(", ").collect();
        // `KIND | KIND => CODE`, or `KIND if … => CODE`.
        let arms = classify
            .split(",\n")
            .filter(|arm| named(arm, "ErrorKind::").contains(&kind.as_str()));
        let mut codes: BTreeSet<String> = arms
            .map(|arm| status(named(arm, "ExitCode::")[0]))
            .collect();
        if codes.is_empty() {
            codes.insert(status("Software"));
        }
        if kind == "Reserved" {
            // By `set --fail`.
            codes.insert(status("LockFail"));
        }
        assert_eq!(exits, codes.iter().map(String::as_str).collect(), "{kind}");
        listed.insert(kind.as_str());
    }
    assert_eq!(listed, kinds.into_iter().collect());
    let variants = between(ERROR, "pub enum Error {", "\n}\n");
    let is_variant =
        |line: &&str| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase();
    let variants = variants
        .lines()
        .filter(|line| line.len() > 4)
        .filter(is_variant);
    let mut count = 0;
    for variant in variants {
        let name = variant.trim_start();
        let name = &name[..name
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(name.len())];
        assert!(ERRORS.contains(&format!("`{name}`")), "{name}");
        count += 1;
    }
    assert!(count > 10);
}

#[test]
fn errors_chapter_has_every_exit_status() {
    let statuses = between(EXIT_CODES, "match code {", "ExitCode::Command");
    let numbers = statuses.split("=> ").skip(1);
    let numbers: BTreeSet<&str> = numbers
        .map(|rest| rest.split(',').next().unwrap())
        .collect();
    let rows = rows(ERRORS, "| exit status | meaning |");
    let listed: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(listed, numbers);
}

#[test]
fn django_chapter_has_all_of_django_lockmgr() {
    let first = DJANGO.lines().nth(2).unwrap();
    assert!(first.contains("one difference that matters"), "{first}");
    for name in [
        "get_lock",
        "renew_lock",
        "set_lock",
        "unlock",
        "is_locked",
        "clean_locks",
        "LockMgr",
        "Lock",
        "Locked",
        "LockFail",
        "LockNotFound",
        "LockSetResult",
        "LockSetStatus",
        "list_locks",
        "clear_lock",
        "reset_locks",
        "expires",
        "timeout",
        "locked_by",
        "lock_process",
        "process_id",
        "add_time=True",
        "create=True",
        "fail=True",
        "renew=False",
        "create=False",
        "wait",
        "ret=True",
        "main_lock",
        "expired",
        "expires_in",
        "expires_seconds",
        "was_locked",
        "counts",
        "statuses",
    ] {
        assert!(DJANGO.contains(name), "{name}");
    }
}
