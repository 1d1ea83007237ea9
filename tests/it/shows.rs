//! Tests the lists of the command at any width, and with settings of its environment.

use crate::holding_support::{DONE, Kept, USAGE, until};
use crate::support::{Home, run, works};
use lockmgr::SetOptions;
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use unicode_width::UnicodeWidthStr;

#[test]
fn old_names_of_the_management_commands_still_work() {
    let home = Home::new();
    assert_eq!(home.json(["set_lock", "a", "b"]).0, DONE);
    assert_eq!(home.json(["list_locks"]).1.as_array().unwrap().len(), 2);
    assert_eq!(home.json(["clear_lock", "a"]).1, json!([["a", true]]));
    assert_eq!(home.json(["reset_locks", "-f"]).1, json!({ "removed": 1 }));
    let help = home.lockmgr(["--help"]).stdout;
    assert!(!help.contains("set_lock"), "{help}");
}

#[test]
fn holder_of_the_environment_is_used_unless_one_is_named() {
    let home = Home::new();
    let by = |args: &[&str], value: &[u8]| {
        let mut command = home.command();
        let value = OsStr::from_bytes(value);
        run(command.args(args).env("LOCKMGR_LOCKED_BY", value))
    };
    for (args, value, holder) in [
        (&["--json", "get", "a"][..], "edge-7", "edge-7"),
        (&["--json", "get", "b", "--locked-by", "x"], "edge-7", "x"),
    ] {
        let lock = by(args, value.as_bytes()).document();
        assert_eq!(lock["locked_by"], json!(holder));
    }
    // An empty variable counts as unset.
    assert_eq!(by(&["get", "c"], b"").status, DONE);
    let long = [b'x'; 256];
    for nonsense in [&b"\xff"[..], b"a\nb", &long] {
        let ran = by(&["get", "z"], nonsense);
        assert_eq!((ran.status, ran.stdout.as_str()), (USAGE, ""));
        assert!(ran.stderr.contains("LOCKMGR_LOCKED_BY"), "{}", ran.stderr);
    }
    assert_eq!(home.json(["find", "z"]).1, json!(null));
}

#[test]
fn long_version_names_the_redb_of_the_lock_file() {
    let home = Home::new();
    let long = home.lockmgr(["--version"]).stdout;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let (_, redb) = lock.split_once("name = \"redb\"\nversion = \"").unwrap();
    let (redb, _) = redb.split_once('"').unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("lockmgr {version}\nstore format 1\nredb {redb}\n");
    assert_eq!(long, expected);
    assert_eq!(home.lockmgr(["-V"]).stdout, format!("lockmgr {version}\n"));
}

/// Returns the output of a command on a terminal of this width.
fn on_terminal(home: &Home, columns: usize, term: &str, args: &str) -> Option<String> {
    if !works(&["script", "--version"]) {
        return None;
    }
    let line = format!(
        "stty cols {columns}; exec '{}' --db '{}' {args}",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display()
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]);
    terminal.env("SHELL", "/bin/sh").env("TERM", term);
    terminal.env_remove("NO_COLOR");
    let ran = run(&mut terminal);
    assert_eq!(ran.status, DONE, "{ran:?}");
    Some(ran.stdout.replace("\r\n", "\n"))
}

const HARD_NAMES: [&str; 6] = [
    "a name that is much longer than a narrow terminal is wide, and then some",
    "日本語の長い名前日本語の長い名前日本語の長い名前",
    "e\u{301}e\u{301}e\u{301} combining e\u{301}e\u{301}e\u{301}",
    "👩\u{200d}🚀👩\u{200d}🚀👩\u{200d}🚀👩\u{200d}🚀👩\u{200d}🚀👩\u{200d}🚀",
    "שלום עולם שלום עולם שלום עולם",
    "\u{202e}reversed\u{202c} \u{2066}isolated\u{2069}",
];

#[test]
fn list_fits_the_terminal_whatever_the_names() {
    let home = Home::new();
    home.json(["set"].iter().chain(&HARD_NAMES));
    for columns in [100, 80, 40, 20] {
        let Some(shown) = on_terminal(&home, columns, "dumb", "list") else {
            return;
        };
        assert!(
            !shown.contains(['\u{1b}', '\u{202e}', '\u{2066}']),
            "{shown:?}"
        );
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 1 + HARD_NAMES.len() + 1, "{shown}");
        assert!(lines[0].starts_with("NAME") && lines[0].contains("TIME LEFT"));
        for line in &lines {
            assert!(line.width() <= columns, "{columns}: {line}");
        }
        assert!(lines.last().unwrap().starts_with("6 locks in "), "{shown}");
    }
}

#[test]
fn list_has_colours_only_on_a_terminal_that_wants_them() {
    let home = Home::new();
    home.json(["set", "a"]);
    let Some(shown) = on_terminal(&home, 80, "xterm", "list") else {
        return;
    };
    assert!(shown.starts_with("\u{1b}[1mNAME"), "{shown:?}");
    let quiet = on_terminal(&home, 80, "xterm", "list -q");
    assert_eq!(quiet.as_deref(), Some("a\n"));
    let json = on_terminal(&home, 80, "xterm", "list --json").unwrap();
    assert!(
        json.starts_with("[{") && json.lines().count() == 1,
        "{json}"
    );
    let mut refused = home.command();
    let piped = run(refused.arg("list").env("TERM", "xterm")).stdout;
    assert!(
        !piped.contains('\u{1b}') && piped.lines().count() == 2,
        "{piped}"
    );
}

#[test]
fn list_takes_prefixes_and_orders() {
    let home = Home::new();
    for (name, by, timeout) in [
        ("c", "x", "90"),
        ("a1", "z", "0"),
        ("a2", "y", "30"),
        ("b", "w", "60"),
    ] {
        home.json(["get", name, "--locked-by", by, "-t", timeout]);
    }
    let names = |args: &[&str]| {
        let names = home.lockmgr([&["list", "-q"], args].concat()).stdout;
        names.lines().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[]), "a1 a2 b c");
    assert_eq!(names(&["a"]), "a1 a2");
    assert_eq!(names(&["c", "a", "c"]), "a1 a2 c");
    for (order, expected) in [
        ("name", "a1 a2 b c"),
        ("until", "a2 b c a1"),
        ("age", "c a1 a2 b"),
        ("holder", "b c a2 a1"),
    ] {
        assert_eq!(names(&["--sort", order]), expected, "{order}");
    }
    let json = home.json(["list", "a", "c", "--sort", "age"]).1;
    let listed = json.as_array().unwrap().iter();
    let listed: Vec<_> = listed.map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(listed, ["c", "a1", "a2"]);
    assert_eq!(home.lockmgr(["list", "--sort", "size"]).status, USAGE);
}

#[test]
fn list_of_a_hundred_thousand_locks_is_whole() {
    let home = Home::in_memory();
    let names: Vec<String> = (0..100_000).map(|i| format!("lock:{i:06}")).collect();
    home.open().set_lock(&names, SetOptions::new()).unwrap();
    for (args, lines) in [
        (&["list"][..], 100_001),
        (&["list", "-q", "--sort", "until"], 100_000),
    ] {
        // The output is larger than a pipe holds.
        let output = home.command().args(args).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.lines().count(), lines);
    }
}

#[test]
fn list_shows_the_command_of_a_job_once_and_not_this_host() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["job"]);
    home.json(["get", "else", "--locked-by", "edge-7"]);
    let shown = home.lockmgr(["list"]).stdout;
    let rows: Vec<&str> = shown.lines().collect();
    assert!(
        rows[1].starts_with("else  ") && rows[1].contains("  edge-7  "),
        "{shown}"
    );
    assert!(rows[2].contains("  lockmgr run  "), "{shown}");
    assert!(rows[2].ends_with("  cat"), "{shown}");
    assert!(
        rows[2].contains(&format!("{} alive", holder.pid())),
        "{shown}"
    );
    let host = gethostname::gethostname();
    assert!(
        !rows[2].contains(&format!("  {}  ", host.display())),
        "{shown}"
    );
    // A command that the note does not show stays, and so does a program that is no `lockmgr run`.
    let _noted = Kept::holder(&home, &["noted", "--note", "why"]);
    let _became = Kept::holder(&home, &["became", "-F"]);
    let row = |name: &str| {
        let shown = home.lockmgr(["list"]).stdout;
        let row = shown.lines().find(|row| row.starts_with(name));
        row.unwrap().to_owned()
    };
    let noted = row("noted ");
    assert!(noted.contains(" run noted --note why -- cat  "), "{noted}");
    until("it became the command", || {
        row("became ").contains("  cat  ")
    });
}
