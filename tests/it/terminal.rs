//! Tests the output for people: terminals of any width, closed pipes, full disks, quiet scripts,
//! and names that are hard to show.

use crate::holding_support::{DONE, Kept, NO, USAGE, lines, millis, until, until_queued};
use crate::support::{Home, Ran, run, works};
use serde_json::json;
use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;

/// Returns the output on a terminal of 40 columns of a wait in which the line is drawn twice.
fn shown_of_a_wait(home: &Home, term: &str) -> Option<String> {
    if !works(&["script", "--version"]) {
        return None;
    }
    let holder = Kept::holder(home, &["a name that is long enough to be cut"]);
    let waiter = format!(
        "'{}' --db '{}' run 'a name that is long enough to be cut' -- echo granted",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display()
    );
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &format!("exec {waiter}"), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("TERM", term)
        .env("COLUMNS", "40");
    let mut terminal = Kept::start_open(&mut terminal);
    until_queued(&home.open(), "", 1);
    thread::sleep(millis(1500));
    assert_eq!(holder.end().status, DONE);
    let mut shown = String::new();
    let mut stdout = terminal.child().stdout.take().unwrap();
    stdout.read_to_string(&mut shown).unwrap();
    Some(shown)
}

#[test]
fn waiting_line_is_drawn_again_in_one_line_of_the_terminal() {
    let home = Home::new();
    let Some(shown) = shown_of_a_wait(&home, "xterm") else {
        return;
    };
    let (line, granted) = shown.rsplit_once("\r\u{1b}[K").unwrap();
    assert_eq!(granted, "granted\r\n");
    assert!(!line.contains('\n'), "{shown:?}");
    let drawn: Vec<&str> = line.split('\r').filter(|line| !line.is_empty()).collect();
    assert!(drawn.len() >= 2, "{shown:?}");
    for (second, drawn) in drawn.iter().enumerate() {
        let drawn = drawn.strip_suffix("\u{1b}[K").unwrap();
        assert!(
            drawn.starts_with(&format!("lockmgr: waiting {second}s for \"a na")),
            "{drawn}"
        );
        assert!(drawn.ends_with("..."), "{drawn}");
        assert!(drawn.len() < 40, "{drawn}");
    }
}

#[test]
fn waiting_line_is_said_once_without_escapes_on_a_dumb_terminal() {
    let home = Home::new();
    let Some(shown) = shown_of_a_wait(&home, "dumb") else {
        return;
    };
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert_eq!(shown.matches("waiting").count(), 1, "{shown:?}");
    assert!(shown.ends_with("granted\r\n"));
}

/// Runs a shell pipeline of the command and another program. Returns its exit, and the messages of
/// the command.
fn piped(home: &Home, args: &str, reader: &str) -> (Option<i32>, String) {
    let (status, said) = (home.join("status"), home.join("said"));
    let script = format!(
        "('{}' --db '{}' {args} 2> '{}'; echo $? > '{}') | {reader}",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display(),
        said.display(),
        status.display()
    );
    let mut shell = Command::new("sh");
    let ran = shell.args(["-c", &script]).stdout(Stdio::null()).status();
    assert!(ran.unwrap().success());
    until("it ends", || !lines(&status).is_empty());
    let status = lines(&status)[0].parse().unwrap();
    (Some(status), fs::read_to_string(said).unwrap())
}

#[test]
fn closed_pipe_ends_the_output_quietly() {
    let home = Home::new();
    // The output is larger than a pipe holds.
    let names: Vec<String> = (0..400).map(|i| format!("{i:0200}")).collect();
    home.lockmgr(["-q".to_owned(), "set".to_owned()].iter().chain(&names));
    for args in [
        "list",
        "--json list",
        "is-locked x",
        "queue",
        "find x",
        "--help",
    ] {
        let (status, said) = piped(&home, args, "true");
        let expected = if args.ends_with('x') { NO } else { DONE };
        assert_eq!((status, said.as_str()), (expected, ""), "{args}");
    }
    assert_eq!(piped(&home, "list", "head -1"), (DONE, String::new()));
}

#[test]
fn lock_that_nobody_could_be_told_of_is_given_back() {
    let home = Home::new();
    let to_full = |args: &[&str]| {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = home.command();
        command.args(args).stdout(full).stderr(Stdio::piped());
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    home.json(["get", "held"]);
    let before = home.json(["list"]).1;
    for args in [
        &["get", "z"][..],
        &["--json", "get", "y", "z", "-k"],
        &["get", "z", "-w", "5", "--while", "parent"],
        &["renew", "z", "--create"],
        &["set", "-n", "z", "held", "y"],
    ] {
        let (status, said) = to_full(args);
        assert_eq!(status, Some(74), "{args:?}: {said}");
        assert!(said.contains("No space left"), "{said}");
        assert_eq!(home.json(["list"]).1, before, "{args:?}");
    }
    let (status, said) = piped(&home, "get z", "true");
    assert_eq!(status, Some(74), "{said}");
    assert_eq!(home.json(["list"]).1, before);
}

#[test]
fn quiet_prints_nothing_but_errors() {
    let home = Home::new();
    let quiet = |args: &[&str]| -> Ran {
        let ran = run(home.command().arg("-q").args(args));
        assert_eq!(ran.stdout, "", "{args:?}");
        ran
    };
    for (args, status) in [
        (&["is-locked", "x"][..], NO),
        (&["get", "x", "y"], DONE),
        (&["is-locked", "x"], DONE),
        (&["check", "x", "1"], DONE),
        (&["set", "z"], DONE),
        (&["--json", "list"], DONE),
        (&["find", "none"], NO),
        (&["renew", "x"], DONE),
        (&["unlock", "x", "--token", "9"], NO),
        (&["unlock", "y"], DONE),
        (&["reset", "-f"], DONE),
        (&["run", "x", "--quiet", "--", "true"], DONE),
    ] {
        let ran = quiet(args);
        assert_eq!((ran.status, ran.stderr.as_str()), (status, ""), "{args:?}");
    }
    let ran = quiet(&["renew", "none"]);
    assert_eq!(ran.status, NO);
    assert!(ran.stderr.starts_with("lockmgr: cannot renew \"none\""));
    assert_eq!(quiet(&["get", "x", "--while", "0"]).status, USAGE);
}

#[test]
fn names_are_unambiguous_aligned_and_can_be_pasted_back() {
    let home = Home::new();
    let names = ["a b", "日本語", "nai\u{308}ve", "👩‍🚀 one", "plain"];
    let holder = Kept::holder(&home, &names);
    let _waiter = Kept::start(home.command().args(["run", "a b", "plain", "--", "true"]));
    until_queued(&home.open(), "", 1);
    let queue = home.lockmgr(["queue"]).stdout;
    let row = queue.lines().nth(1).unwrap();
    assert!(row.starts_with("\"a b\" plain  "), "{row}");
    let list = home.lockmgr(["list"]).stdout;
    for shown in [
        "\"a b\"  ",
        "日本語  ",
        "nai\u{308}ve  ",
        "\"👩‍🚀 one\"  ",
        "plain  ",
    ] {
        assert!(
            list.lines().any(|row| row.starts_with(shown)),
            "{shown}: {list}"
        );
    }
    // The widest name is the astronaut's: two columns, four letters, two marks.
    let columns = |row: &str| {
        let before = row.split(&holder.pid().to_string()).next().unwrap();
        let wide = before.matches(['日', '本', '語']).count();
        let narrower = before.matches(['\u{308}', '\u{200d}', '🚀']).count();
        before.chars().count() + wide + before.matches('👩').count() - narrower
    };
    let columns: Vec<usize> = list.lines().skip(1).map(columns).collect();
    assert_eq!(columns.len(), 5);
    assert!(columns.iter().all(|&width| width == columns[0]), "{list}");
    for name in names {
        assert_eq!(home.json(["is-locked", name]), (DONE, json!(true)));
    }
}

#[test]
fn unlock_by_a_wrong_token_says_who_holds_it_with_which() {
    let home = Home::new();
    home.json(["get", "y"]);
    home.json(["get", "x", "--locked-by", "edge 7"]);
    let ran = home.lockmgr(["unlock", "x", "--token", "9"]);
    assert_eq!(ran.status, NO);
    let told = "x: not unlocked: token 2 holds it, not 9: \"x\": edge 7 holds it since ";
    assert!(ran.stdout.starts_with(told), "{ran:?}");
    let ran = home.lockmgr(["unlock", "z", "--token", "9"]);
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (NO, "z: was not locked\n")
    );
}

#[test]
fn help_of_set_says_that_it_excludes_nobody_and_names_what_does() {
    let home = Home::new();
    let help = home.lockmgr(["help", "set"]).stdout;
    assert!(help.contains("excludes nobody"), "{help}");
    assert!(
        help.contains("`lockmgr run`") && help.contains("`lockmgr get`"),
        "{help}"
    );
    let help = home.lockmgr(["--help"]).stdout;
    assert!(help.find("\n  run ") < help.find("\n  set "), "{help}");
}
