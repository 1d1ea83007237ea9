//! Tests the command: its output, for people and in JSON, and its exit statuses.

use crate::support::{Home, Ran, run, skip, through};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

const DONE: Option<i32> = Some(0);
const NO: Option<i32> = Some(1);
const LOCK_FAIL: Option<i32> = Some(2);
const USAGE: Option<i32> = Some(64);

/// Returns the keys of an object, sorted.
fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn instant(text: &Value) -> DateTime<Utc> {
    let text = text.as_str().unwrap();
    assert_eq!(text.len(), "2019-11-22T02:01:55.439390Z".len(), "{text}");
    assert!(text.ends_with('Z'), "{text}");
    text.parse().unwrap()
}

/// Checks that this is a lock in the shape of the specification, and returns the seconds from its
/// last renewal to its deadline.
fn lease(lock: &Value) -> Option<f64> {
    let fields = [
        "at_least",
        "bound_to",
        "created_at",
        "locked_by",
        "locked_until",
        "mode",
        "name",
        "note",
        "process_id",
        "token",
        "updated_at",
        "waiting",
    ];
    assert_eq!(keys(lock), fields);
    assert!(lock["name"].is_string() && lock["locked_by"].is_string());
    assert_eq!(lock["mode"], "exclusive");
    assert!(lock["process_id"].is_null() || lock["process_id"].is_u64());
    assert!(lock["token"].as_u64().unwrap() >= 1);
    assert!(instant(&lock["created_at"]) <= instant(&lock["updated_at"]));
    let until = Some(&lock["locked_until"]).filter(|until| !until.is_null())?;
    let lease = instant(until) - instant(&lock["updated_at"]);
    Some(lease.as_seconds_f64())
}

/// Checks that this is an error in the shape of the specification, and returns its kind and lock.
fn error(document: &Value) -> (&str, &Value) {
    assert_eq!(keys(document), ["error"]);
    let error = &document["error"];
    assert_eq!(keys(error), ["kind", "lock", "message"]);
    assert!(!error["message"].as_str().unwrap().is_empty());
    (error["kind"].as_str().unwrap(), &error["lock"])
}

/// Checks that the output has an error for people, and returns its message.
fn complaint(ran: &Ran) -> &str {
    assert_eq!(ran.stdout, "");
    ran.stderr.strip_prefix("lockmgr: ").unwrap()
}

fn status(was_locked: bool, status: &str, locked: bool) -> Value {
    json!({ "was_locked": was_locked, "status": status, "locked": locked })
}

#[test]
fn set_prints_what_became_of_each_name() {
    let home = Home::new();
    let (exit, first) = home.json(["set", "hello", "world"]);
    assert_eq!(exit, DONE);
    assert_eq!(keys(&first), ["counts", "locks", "statuses"]);
    let counts = json!({ "created": 2, "renewed": 0, "skip_create": 0, "skip_renew": 0 });
    assert_eq!(first["counts"], counts);
    let created = status(false, "create", true);
    assert_eq!(
        first["statuses"],
        json!([["hello", created], ["world", created]])
    );
    let locks = first["locks"].as_array().unwrap();
    for (lock, name) in locks.iter().zip(["hello", "world"]) {
        assert_eq!((lease(lock), &lock["name"]), (Some(600.0), &json!(name)));
    }

    let (exit, second) = home.json(["set", "-n", "hello", "new"]);
    assert_eq!(exit, DONE);
    let statuses = json!([["hello", status(true, "skip", true)], ["new", created]]);
    assert_eq!(second["statuses"], statuses);

    let (exit, third) = home.json(["set", "-r", "hello", "absent"]);
    assert_eq!(exit, DONE);
    let counts = json!({ "created": 0, "renewed": 1, "skip_create": 1, "skip_renew": 0 });
    assert_eq!(third["counts"], counts);
    let statuses = json!([
        ["hello", status(true, "extend", true)],
        ["absent", status(false, "skip", false)]
    ]);
    assert_eq!(third["statuses"], statuses);
    assert_eq!(third["locks"].as_array().unwrap().len(), 1);
}

#[test]
fn set_is_a_table_for_people() {
    let home = Home::new();
    home.lockmgr(["set", "b", "--locked-by", "edge-7", "-t", "90"]);
    let ran = home.lockmgr(["set", "a", "b", "--locked-by", "x", "-n"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|row| {
            row.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(rows[0], ["NAME", "DONE", "TOKEN", "HELD BY", "TIME LEFT"]);
    assert_eq!(rows[1], ["a", "created", "2", "x", "10m"]);
    assert_eq!(rows[2][..4], ["b", "skipped", "1", "edge-7"]);
    assert!(rows[2][4].starts_with("1m"), "{rows:?}");
    let ran = home.lockmgr(["set", "-r", "c"]);
    assert!(
        ran.stdout
            .lines()
            .any(|row| row.starts_with("c") && row.ends_with("not locked"))
    );
}

#[test]
fn set_fail_exits_with_2_and_changes_nothing() {
    let home = Home::new();
    let (_, held) = home.json(["get", "held"]);
    for fail in ["-e", "--fail"] {
        let (exit, refused) = home.json(["set", fail, "new", "held"]);
        assert_eq!((exit, error(&refused)), (LOCK_FAIL, ("LockFail", &held)));
        let ran = home.lockmgr(["set", fail, "new", "held"]);
        assert_eq!(ran.status, LOCK_FAIL);
        assert!(complaint(&ran).contains("\"held\""));
    }
    assert_eq!(home.json(["list"]), (DONE, json!([held])));
    assert_eq!(home.json(["set", "-e", "new"]).0, DONE);
}

#[test]
fn options_of_a_lease_mean_the_same_long_and_short() {
    let home = Home::new();
    let host = gethostname::gethostname();
    let host = host.to_str().unwrap();
    for (options, expected, holder, process) in [
        (&[][..], Some(600.0), host, json!(null)),
        (&["-t", "90"], Some(90.0), host, json!(null)),
        (&["--timeout", "0.25"], Some(0.25), host, json!(null)),
        (&["--timeout=250ms"], Some(0.25), host, json!(null)),
        (&["-t10m"], Some(600.0), host, json!(null)),
        (&["-t", "1h30m"], Some(5400.0), host, json!(null)),
        (&["-t", "0"], None, host, json!(null)),
        (&["-k"], None, host, json!(null)),
        (&["--no-timeout"], None, host, json!(null)),
        (
            &["--locked-by", "edge 7", "--pid", "42"],
            Some(600.0),
            "edge 7",
            json!(42),
        ),
        (
            &["--process-id", "4294967295"],
            Some(600.0),
            host,
            json!(u32::MAX),
        ),
    ] {
        let (exit, got) = home.json([&["get", "a"], options].concat());
        assert_eq!((exit, lease(&got)), (DONE, expected), "{options:?}");
        assert_eq!(
            (&got["locked_by"], &got["process_id"]),
            (&json!(holder), &process)
        );
        home.json(["unlock", "a"]);

        let (exit, result) = home.json([&["set"], options, &["a"]].concat());
        let set = &result["locks"][0];
        assert_eq!((exit, lease(set)), (DONE, expected), "{options:?}");
        assert_eq!(
            (&set["locked_by"], &set["process_id"]),
            (&json!(holder), &process)
        );
        home.json(["unlock", "a"]);
    }
}

#[test]
fn set_takes_its_short_and_long_options() {
    let home = Home::new();
    home.json(["set", "a"]);
    for (options, counts) in [
        (&["-n"][..], [0, 1, 0, 1]),
        (&["--no-renew"], [0, 1, 0, 1]),
        (&["-r"], [1, 0, 1, 0]),
        (&["--only-renew"], [1, 0, 1, 0]),
        (&["-n", "-r"], [0, 0, 1, 1]),
        (&["--no-renew", "--only-renew"], [0, 0, 1, 1]),
    ] {
        let (exit, result) = home.json([&["set", "a", "b"], options].concat());
        assert_eq!(exit, DONE);
        let [renewed, created, skip_create, skip_renew] = counts;
        let counts = json!({ "created": created, "renewed": renewed,
            "skip_create": skip_create, "skip_renew": skip_renew });
        assert_eq!(result["counts"], counts, "{options:?}");
        home.json(["unlock", "b"]);
    }
}

#[test]
fn get_prints_the_lock_or_the_one_that_is_in_the_way() {
    let home = Home::new();
    let (exit, lock) = home.json(["get", "a"]);
    assert_eq!((exit, lease(&lock)), (DONE, Some(600.0)));
    let (exit, refused) = home.json(["get", "a"]);
    assert_eq!((exit, error(&refused)), (NO, ("Locked", &lock)));

    let ran = home.lockmgr(["get", "b", "--locked-by", "edge-7", "--pid", "42"]);
    let row = ran.stdout.lines().nth(1).unwrap();
    for cell in ["b ", "edge-7", "42", "10m"] {
        assert!(row.contains(cell), "{row}");
    }
    let ran = home.lockmgr(["get", "b"]);
    assert_eq!(ran.status, NO);
    let complaint = complaint(&ran);
    assert!(
        complaint.contains("\"b\"") && complaint.contains("edge-7"),
        "{complaint}"
    );
}

#[test]
fn renew_prints_the_renewed_lock() {
    let home = Home::new();
    let (_, lock) = home.json(["get", "a", "-t", "100"]);
    let until = |lock: &Value| instant(&lock["locked_until"]);
    let (exit, renewed) = home.json(["renew", "a"]);
    assert_eq!((exit, lease(&renewed)), (DONE, Some(600.0)));
    assert_eq!(
        (&renewed["token"], &renewed["created_at"]),
        (&lock["token"], &lock["created_at"])
    );

    let (_, added) = home.json(["renew", "a", "--add-time", "-t", "1m"]);
    assert_eq!(until(&added) - until(&renewed), TimeDelta::minutes(1));
    let (_, shorter) = home.json(["renew", "a", "-t", "1"]);
    assert_eq!(until(&shorter), until(&added));
    let (_, forever) = home.json(["renew", "a", "-k"]);
    assert_eq!(lease(&forever), None);

    let (exit, absent) = home.json(["renew", "b"]);
    assert_eq!((exit, error(&absent)), (NO, ("LockNotFound", &json!(null))));
    let ran = home.lockmgr(["renew", "b"]);
    assert_eq!(ran.status, NO);
    assert!(complaint(&ran).contains("\"b\""));
    let (exit, created) = home.json(["renew", "b", "--create", "-t", "5"]);
    assert_eq!((exit, lease(&created)), (DONE, Some(5.0)));
}

#[test]
fn renew_by_token_is_for_its_bearer() {
    let home = Home::new();
    let (_, lock) = home.json(["get", "a"]);
    let token = lock["token"].to_string();
    assert_eq!(home.json(["renew", "a", "--token", &token]).0, DONE);
    let (exit, refused) = home.json(["renew", "a", "--token", "99"]);
    assert_eq!((exit, error(&refused).0), (NO, "LockNotFound"));
    let (exit, refused) = home.json(["renew", "a", "--token", "99", "--create"]);
    let (_, held) = home.json(["find", "a"]);
    assert_eq!((exit, error(&refused)), (NO, ("Locked", &held)));
    let (exit, created) = home.json(["renew", "b", "--token", "99", "--create"]);
    assert_eq!((exit, lease(&created)), (DONE, Some(600.0)));
}

#[test]
fn unlock_says_of_each_name_whether_it_was_there() {
    let home = Home::new();
    home.json(["set", "a", "b", "c"]);
    let (exit, removed) = home.json(["unlock", "a", "x", "a", "b"]);
    assert_eq!(exit, DONE);
    assert_eq!(
        removed,
        json!([["a", true], ["x", false], ["a", false], ["b", true]])
    );
    assert_eq!(home.json(["clear", "c"]), (DONE, json!([["c", true]])));
    assert_eq!(home.json(["clear", "c"]), (DONE, json!([["c", false]])));

    home.json(["set", "a"]);
    let ran = home.lockmgr(["unlock", "a", "b"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
    assert_eq!(ran.stdout, "a: unlocked\nb: was not locked\n");
}

#[test]
fn unlock_by_token_is_for_its_bearer() {
    let home = Home::new();
    let (_, lock) = home.json(["get", "a"]);
    let token = lock["token"].to_string();
    assert_eq!(
        home.json(["unlock", "a", "--token", "99"]),
        (NO, json!([["a", false]]))
    );
    assert_eq!(home.json(["find", "a"]), (DONE, lock));
    let (exit, refused) = home.json(["unlock", "a", "b", "--token", &token]);
    assert_eq!((exit, error(&refused).0), (USAGE, "Usage"));
    assert_eq!(
        home.json(["unlock", "--token", &token, "a"]),
        (DONE, json!([["a", true]]))
    );
    assert_eq!(
        home.json(["unlock", "a", "--token", &token]),
        (NO, json!([["a", false]]))
    );
}

#[test]
fn questions_are_answered_by_the_exit_status_too() {
    let home = Home::new();
    let (_, lock) = home.json(["get", "a"]);
    assert_eq!(home.json(["is-locked", "a"]), (DONE, json!(true)));
    assert_eq!(home.json(["is-locked", "b"]), (NO, json!(false)));
    assert_eq!(home.json(["find", "a"]), (DONE, lock));
    assert_eq!(home.json(["find", "b"]), (NO, json!(null)));

    let answer = |args: [&str; 2]| {
        let ran = home.lockmgr(args);
        assert_eq!(ran.stderr, "");
        (ran.status, ran.stdout)
    };
    assert_eq!(answer(["is-locked", "a"]), (DONE, "true\n".into()));
    assert_eq!(answer(["is-locked", "b"]), (NO, "false\n".into()));
    let not_locked = format!("b: not locked in {}\n", home.db().display());
    assert_eq!(answer(["find", "b"]), (NO, not_locked));
    let (exit, table) = answer(["find", "a"]);
    assert_eq!((exit, table.lines().count()), (DONE, 2));
}

#[test]
fn list_prints_the_locks_by_name() {
    let home = Home::new();
    let (_, set) = home.json(["set", "job:2", "job:10", "other", "-k"]);
    let locks = set["locks"].as_array().unwrap();
    let [two, ten, other] = &locks[..] else {
        panic!("{set}");
    };
    assert_eq!(home.json(["list"]), (DONE, json!([ten, two, other])));
    assert_eq!(home.json(["list", "job:"]), (DONE, json!([ten, two])));
    assert_eq!(home.json(["list", "z"]), (DONE, json!([])));

    let ran = home.lockmgr(["list", "job:"]);
    assert_eq!(ran.status, DONE);
    let rows: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0].starts_with("NAME") && rows[0].ends_with("WAITING"));
    assert!(rows[1].starts_with("job:10 ") && rows[1].ends_with("for ever   0"));
    assert!(rows[2].starts_with("job:2 "));
    let none = format!("no locks beginning with \"z\" in {}\n", home.db().display());
    assert_eq!(home.lockmgr(["list", "z"]).stdout, none);
}

#[test]
fn clean_and_reset_say_how_many_they_removed() {
    let home = Home::new();
    home.json(["set", "a", "b"]);
    home.json(["set", "c", "-t", "0.000001"]);
    assert_eq!(home.json(["clean"]), (DONE, json!({ "removed": 1 })));
    assert_eq!(home.lockmgr(["clean"]).stdout, "removed 0 expired locks\n");
    assert_eq!(
        home.json(["reset", "--force"]),
        (DONE, json!({ "removed": 2 }))
    );
    home.json(["set", "a"]);
    assert_eq!(
        home.lockmgr(["reset", "-f"]).stdout,
        "removed 1 existing lock\n"
    );
    let (_, lock) = home.json(["get", "a"]);
    assert_eq!(lock["token"], json!(5));
}

#[test]
fn reset_without_force_and_without_a_terminal_removes_nothing() {
    let home = Home::new();
    let (_, lock) = home.json(["get", "a"]);
    let before = home.bytes();
    let (exit, refused) = home.json(["reset"]);
    assert_eq!((exit, error(&refused).0), (USAGE, "Usage"));
    let ran = home.lockmgr(["reset"]);
    assert_eq!(ran.status, USAGE);
    assert!(complaint(&ran).contains("--force"));
    assert_eq!(home.bytes(), before);
    assert_eq!(home.json(["list"]), (DONE, json!([lock])));
}

#[test]
fn reset_asks_on_a_terminal() {
    let home = Home::new();
    let lockmgr = env!("CARGO_BIN_EXE_lockmgr");
    let (_, lock) = home.json(["get", "a"]);
    for (answer, left) in [("n\n", json!([lock])), ("y\n", json!([]))] {
        let reset = format!("'{lockmgr}' --db '{}' reset", home.db().display());
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &reset, "/dev/null"]);
        let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            skip("there is no script(1) to make a terminal with");
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("Remove every lock"));
        assert_eq!(home.json(["list"]), (DONE, left));
    }
}

#[test]
fn global_options_stand_before_and_after_the_command() {
    let home = Home::new();
    let (db, given) = (home.db(), home.db());
    let db = db.to_str().unwrap();
    home.json(["set", "a"]);
    let before = run(through(&[]).args([
        "--db",
        db,
        "--json",
        "--busy-timeout",
        "1",
        "is-locked",
        "a",
    ]));
    let after = run(through(&[])
        .args(["is-locked", "a", "--json", "--busy-timeout=1s", "--db"])
        .arg(given));
    let between = run(through(&[]).args(["--json", "is-locked", "--db", db, "a"]));
    assert_eq!(before.document(), json!(true));
    assert_eq!((&after, &between), (&before, &before));
}

#[test]
fn store_is_the_option_or_else_the_environment() {
    let (home, other) = (Home::new(), Home::new());
    let with_env = |args: &[&str]| {
        run(through(&[])
            .env("LOCKMGR_DB", home.db())
            .arg("--json")
            .args(args))
    };
    with_env(&["set", "a"]);
    assert_eq!(home.json(["is-locked", "a"]), (DONE, json!(true)));
    let db = other.db();
    let elsewhere = with_env(&["is-locked", "a", "--db", db.to_str().unwrap()]);
    assert_eq!(elsewhere.document(), json!(false));
}

#[test]
fn default_store_is_private_in_the_state_directory() {
    let home = Home::new();
    let (xdg, local) = (home.join("state"), home.join(".local/state"));
    for (setting, state) in [
        (xdg.as_os_str(), &xdg),
        ("relative".as_ref(), &local),
        ("".as_ref(), &local),
    ] {
        let json = |args: &[&str]| {
            let mut command = through(&[]);
            let settings = [
                ("HOME", home.path().as_os_str()),
                ("XDG_STATE_HOME", setting),
            ];
            run(command.envs(settings).arg("--json").args(args)).document()
        };
        assert_eq!(json(&["list"]), json!([]));
        assert!(!state.exists());
        lease(&json(&["get", "a"]));
        let lockmgr = state.join("lockmgr");
        assert!(lockmgr.join("locks.redb").is_file());
        let mode = fs::metadata(&lockmgr).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(json(&["is-locked", "a"]), json!(true));
        fs::remove_dir_all(state).unwrap();
    }
}

#[test]
fn without_a_home_the_store_must_be_named() {
    let mut homeless = through(&[]);
    homeless.env_remove("HOME").env_remove("XDG_STATE_HOME");
    let ran = run(homeless.args(["--json", "list"]));
    assert_eq!((ran.status, error(&ran.document()).0), (USAGE, "Usage"));
}

#[test]
fn empty_lockmgr_db_counts_as_unset() {
    let home = Home::new();
    let mut command = through(&[]);
    command
        .env("LOCKMGR_DB", "")
        .env("XDG_STATE_HOME", home.path());
    let ran = run(command.args(["set", "a"]));
    assert_eq!(ran.status, DONE, "{}", ran.stderr);
    assert!(home.join("lockmgr/locks.redb").is_file());
}

#[test]
fn missing_store_is_empty_for_readers_and_created_by_writers() {
    let home = Home::new();
    assert_eq!(home.json(["is-locked", "a"]), (NO, json!(false)));
    assert_eq!(home.json(["find", "a"]), (NO, json!(null)));
    assert_eq!(home.json(["list"]), (DONE, json!([])));
    assert!(!home.db().exists());
    for writer in [
        &["set", "a"][..],
        &["get", "a"],
        &["renew", "a"],
        &["unlock", "a"],
        &["clean"],
        &["reset", "-f"],
    ] {
        let (exit, _) = home.json(writer);
        assert_eq!(exit, if writer[0] == "renew" { NO } else { DONE });
        assert!(home.db().is_file(), "{writer:?}");
        fs::remove_file(home.db()).unwrap();
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--help", "-h", "help", "--version", "-V"] {
        let ran = run(through(&[]).arg(flag));
        assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
        assert!(ran.stdout.contains("lockmgr"), "{flag}");
    }
}

#[test]
fn output_that_cannot_be_printed_is_a_failure() {
    let home = Home::new();
    home.json(["set", "a"]);
    for args in [&["list"][..], &["--json", "list"], &["--help"]] {
        let mut command = home.command();
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.args(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{args:?}");
    }
}

#[test]
fn output_for_people_never_steers_a_terminal() {
    let steers = |c: char| {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
        let bidi = bidi.contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
        (c.is_control() && c != '\n') || bidi || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    let home = Home::new();
    let tame = |args: &[&str]| {
        let ran = home.lockmgr(args);
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!printed.contains(steers), "{args:?}: {printed:?}");
        assert!(!printed.is_empty());
        ran
    };
    for wild in [
        "\u{202e}x",
        "\u{2066}x",
        "\u{200f}x",
        "\u{61c}x",
        "\u{2028}x",
    ] {
        for args in [
            &["set", wild, "--locked-by", wild][..],
            &["set", wild],
            &["set", "-e", wild],
            &["set", "-r", "absent", wild],
            &["get", wild],
            &["find", wild],
            &["list"],
            &["renew", wild],
            &["renew", wild, "--token", "99"],
            &["unlock", wild],
            &["unlock", wild],
            &["find", wild],
            &["renew", wild],
            &["get", wild],
            &["reset", "-f"],
        ] {
            let ran = tame(args);
            assert!(matches!(ran.status, Some(0..=2)), "{args:?}: {ran:?}");
        }
    }
    for wild in ["\u{1b}[2J", "a\rb", "a\u{7}", "\u{9b}2J", "\u{202e}\u{7f}"] {
        let db = format!("{}/{wild}/locks.redb", home.path().display());
        for args in [
            &["set", wild][..],
            &["get", "a", "--locked-by", wild],
            &["find", wild],
            &["set", "a", "-t", wild],
            &["set", "a", "--pid", wild],
            &["set", "a", &format!("--{wild}")],
            &["list", "--busy-timeout", wild],
            &["renew", "a", "--token", wild],
            &[wild],
        ] {
            assert_eq!(tame(args).status, USAGE, "{args:?}");
        }
        let mut elsewhere = through(&[]);
        let ran = run(elsewhere.args(["set", "a", "--db", &db]));
        assert!(!ran.stderr.contains(steers), "{:?}", ran.stderr);
    }
}

#[test]
fn missing_directory_of_the_store_is_named_with_the_remedy() {
    let home = Home::new();
    let missing = home.join("no/where");
    let mut command = home.command();
    let ran = run(command
        .args(["set", "a", "--db"])
        .arg(missing.join("locks.redb")));
    assert_eq!(ran.status, Some(73), "{ran:?}");
    let remedy = format!("mkdir -p {}", missing.display());
    assert!(ran.stderr.contains(&remedy), "{ran:?}");
}

#[test]
fn get_does_not_wait_and_may_say_so_as_flock_does() {
    let home = Home::new();
    for option in ["-n", "--nonblock", "--nb"] {
        home.json(["unlock", "a"]);
        assert_eq!(home.lockmgr(["get", option, "a"]).status, DONE, "{option}");
        assert_eq!(home.lockmgr(["get", option, "a"]).status, NO, "{option}");
    }
    let both = home.lockmgr(["get", "-n", "a", "--wait", "1"]);
    assert_eq!(both.status, USAGE, "{both:?}");
}
