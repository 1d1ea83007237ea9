//! Tests the options and habits of flock(1) in `lockmgr run`, beside the installed flock.

use crate::holding_support::{DONE, Kept, NO, USAGE};
use crate::support::{Home, Ran, run, skip};
use serde_json::json;
use std::fs::File;
use std::process::Command;

/// Returns the names of each option that `flock --help` lists. None if flock is not installed.
fn options_of_flock() -> Vec<Vec<String>> {
    let Ok(help) = Command::new("flock").arg("--help").output() else {
        skip("there is no flock(1)");
        return Vec::new();
    };
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help.lines().filter_map(|line| {
        let names: Vec<String> = line
            .split([' ', ','])
            .take_while(|word| word.is_empty() || word.starts_with(['-', '<']))
            .filter(|word| word.starts_with('-'))
            .map(str::to_owned)
            .collect();
        (line.starts_with(' ') && !names.is_empty()).then_some(names)
    });
    options.collect()
}

/// Runs `lockmgr run` and flock with the same words: options, a lock, a command.
fn both(home: &Home, options: &[&str], command: &[&str]) -> (Ran, Ran) {
    let file = home.join("file");
    File::create(&file).unwrap();
    let dashes: &[&str] = if command[0] == "-c" || command[0] == "--command" {
        &[]
    } else {
        &["--"]
    };
    let ours = run(home
        .command()
        .env("SHELL", "/bin/sh")
        .arg("run")
        .args(options)
        .arg("x")
        .args(dashes)
        .args(command));
    let mut flock = Command::new("flock");
    flock.env("SHELL", "/bin/sh").args(options).arg(file);
    (ours, run(flock.args(command)))
}

/// Runs both with the same words while other processes hold both locks.
fn both_refused(home: &Home, options: &[&str]) -> (Ran, Ran) {
    let _ours = Kept::holder(home, &["x"]);
    let mut flock = Command::new("flock");
    flock.arg(home.join("file"));
    let mut theirs = Kept::start_open(flock.args(["sh", "-c", "echo held; exec cat"]));
    assert_eq!(theirs.line(), "held");
    both(home, options, &["true"])
}

#[test]
fn every_option_of_flock_works_or_names_its_counterpart() {
    let exits = ["sh", "-c", "exit 3"];
    for names in options_of_flock() {
        for name in &names {
            let home = Home::new();
            let name = name.as_str();
            let long = names.last().unwrap().as_str();
            let (ours, flock) = match long {
                "--exclusive" | "--shared" | "--close" | "--no-fork" | "--verbose" => {
                    both(&home, &[name], &exits)
                }
                "--command" => both(&home, &[], &[name, "exit 3"]),
                "--nonblock" => both_refused(&home, &[name]),
                "--timeout" => both_refused(&home, &[name, "0.05"]),
                "--conflict-exit-code" => both_refused(&home, &["-n", name, "7"]),
                "--help" | "--version" => both(&home, &[name], &["true"]),
                "--unlock" => {
                    let (ours, _) = both(&home, &[name], &exits);
                    assert_eq!(ours.status, USAGE, "{name}: {ours:?}");
                    assert!(!ours.stderr.contains("tip:"), "{ours:?}");
                    continue;
                }
                _ => panic!("no case tries {name} of flock"),
            };
            assert_eq!(ours.status, flock.status, "{name}: {ours:?} {flock:?}");
        }
    }
}

#[test]
fn unlock_and_a_descriptor_are_answered_with_what_does_the_same_here() {
    let home = Home::new();
    let (unlock, get) = ("`lockmgr unlock NAME`", "`lockmgr get NAME --w");
    for (args, remedy) in [
        (&["run", "-u", "x", "--", "true"][..], unlock),
        (&["run", "-u", "x", "--", "true"], get),
        (&["run", "--unlock", "9"], unlock),
        (&["run", "-n", "9"], unlock),
        (&["run", "-n", "9"], get),
    ] {
        let ran = home.lockmgr(args);
        assert_eq!(ran.status, USAGE, "{ran:?}");
        assert!(ran.stderr.contains(remedy), "{args:?}: {ran:?}");
        assert!(!home.db().exists());
    }
}

#[test]
fn command_without_dashes_is_answered_with_where_they_belong() {
    let home = Home::new();
    for (words, meant) in [
        ("run x ls -l", "lockmgr run x -- ls -l"),
        ("run x ls", "lockmgr run x -- ls"),
        (
            "run -n x ls --color /tmp",
            "lockmgr run -n x -- ls --color /tmp",
        ),
        ("run --wait 5 x ls -Q", "lockmgr run --wait 5 x -- ls -Q"),
        ("run x ls -n", "lockmgr run x -- ls -n"),
    ] {
        let ran = home.lockmgr(words.split(' '));
        assert_eq!(ran.status, USAGE, "{ran:?}");
        let remedy = format!("did you mean: {meant}\n");
        assert!(ran.stderr.contains(&remedy), "{words}: {ran:?}");
        assert!(!ran.stderr.contains("tip:"), "{words}: {ran:?}");
    }
    // An unknown option is an ordinary usage error.
    let ran = home.lockmgr(["run", "--nonblok", "x", "--", "true"]);
    assert_eq!(ran.status, USAGE);
    assert!(ran.stderr.contains("--nonblock"), "{ran:?}");
}

#[test]
fn conflict_names_the_program_of_the_holder() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["x"]);
    let told = format!("; process {} runs \"", holder.pid());
    for args in [
        &["run", "-n", "x", "--", "true"][..],
        &["get", "x"],
        &["set", "-e", "x"],
    ] {
        let ran = home.lockmgr(args);
        assert!(ran.stderr.contains(&told), "{ran:?}");
        assert!(ran.stderr.contains("run x -- cat"), "{ran:?}");
    }
}

#[test]
fn conflict_is_silent_with_quiet_or_a_status_of_zero() {
    let home = Home::new();
    let _holder = Kept::holder(&home, &["x"]);
    for (options, status) in [
        (&["-q"][..], NO),
        (&["--quiet", "-E", "75"], Some(75)),
        (&["-E", "0"], DONE),
        (&["-q", "-v", "-w", "0.05"], NO),
    ] {
        let ran = home.lockmgr([&["run", "-n"], options, &["x", "--", "true"]].concat());
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (status, ""),
            "{options:?}"
        );
    }
    // Other errors are printed.
    let ran = home.lockmgr(["run", "-q", "", "--", "true"]);
    assert!(ran.stderr.contains("invalid lock name"));
}

#[test]
fn command_with_a_thousand_names_starts_without_them() {
    let home = Home::new();
    let names: Vec<String> = (0..1000).map(|i| format!("{i:0200}")).collect();
    let said = "echo ${LOCKMGR_NAMES-none} ${LOCKMGR_TOKENS-none} $LOCKMGR_DB";
    let expected = format!("none none {}\n", home.db().display());
    for option in ["-n", "-F"] {
        let mut command = home.command();
        command.env("LOCKMGR_NAMES", "of another");
        command.args(["run", option]).args(&names);
        let ran = run(command.args(["--", "sh", "-c", said]));
        assert_eq!(
            (ran.status, &ran.stdout),
            (DONE, &expected),
            "{option}: {}",
            ran.stderr
        );
    }
    assert_eq!(home.json(["list"]), (DONE, json!([])));
}
