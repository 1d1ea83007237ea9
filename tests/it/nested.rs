//! Tests `run` within `run`: a job does not wait for locks that a job around it holds.

use crate::holding_support::{DONE, Kept, NO, USAGE, lines, until};
use crate::support::{Home, Ran, run};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

const THIS: &str = env!("CARGO_BIN_EXE_lockmgr");

/// Runs a script under these locks, and returns its exit. `L` is the command. The script never
/// waits.
fn in_job(home: &Home, names: &[&str], script: &str) -> Ran {
    let script = format!("L='{THIS}'; {script}");
    let mut command = home.command();
    command.arg("run").args(names).args(["-c", &script]);
    let ran = run(&mut command);
    assert_eq!(home.json(["list"]).1, json!([]));
    ran
}

#[test]
fn run_under_its_own_lock_goes_on_and_ends_as_its_command() {
    let home = Home::new();
    for (script, status) in [
        ("$L run a -- true", 0),
        ("$L run a -- sh -c 'exit 7'", 7),
        ("$L run -n a a -- sh -c 'exit 7'", 7),
        ("$L run -F --lease 1h a -- sh -c 'exit 7'", 7),
        ("$L run -o b a -c 'exit 7'", 7),
        ("$L run b -- $L run a -- $L run b a -- sh -c 'exit 7'", 7),
        // The job in the middle holds a lock that the other two do not hold.
        ("$L run c -- $L run b -- $L run c a -- sh -c 'exit 7'", 7),
        ("$L run a -- sh -c 'kill -9 $$'; exit $?", 137),
        ("$L run a -- /nonexistent", 127),
        // The claims of such jobs do not grow.
        (
            "$L run a -- $L run a -- $L run a -- $L run a -c 'exit $(echo \"$LOCKMGR_OUTER\" | wc -l)'",
            2,
        ),
    ] {
        let ran = in_job(&home, &["a", "b"], script);
        assert_eq!(ran.status, Some(status), "{script}: {ran:?}");
    }
}

#[test]
fn command_under_its_own_lock_sees_the_names_it_asked_for_and_their_tokens() {
    let home = Home::new();
    let print = "echo $LOCKMGR_DB $LOCKMGR_NAMES $LOCKMGR_TOKENS";
    let script = format!("$L run b -c '{print}'; $L run c -c '{print}'; {print}");
    let ran = in_job(&home, &["a", "b"], &script);
    let db = home.db();
    let db = db.display();
    assert_eq!(ran.stdout, format!("{db} b 2\n{db} c 3\n{db} a b 1 2\n"));
    // The outer job keeps its lock.
    let ran = in_job(&home, &["a"], "$L run a -- true; $L is-locked a");
    assert_eq!(ran.stdout, "true\n");
}

#[test]
fn signal_to_a_run_under_its_own_lock_reaches_the_command() {
    let home = Home::new();
    let heard = home.join("heard");
    let script = format!(
        "exec '{THIS}' run x -c 'trap \"echo TERM >> {0}; exit 3\" TERM; echo $$; echo ready >> {0}; \
            while :; do sleep 0.01; done'",
        heard.display()
    );
    let mut job = Kept::start(home.command().args(["run", "x", "-c", &script]));
    until("it runs", || lines(&heard).len() == 1);
    let pid = job.line();
    assert!(fs::read(format!("/proc/{pid}/cmdline")).is_ok());
    job.signal(Signal::TERM);
    assert_eq!(job.ended().status, Some(3));
    assert_eq!(lines(&heard), ["ready", "TERM"]);
}

#[test]
fn run_under_some_of_its_locks_is_wrong_usage_that_names_which() {
    let home = Home::new();
    let _holder = Kept::holder(&home, &["c"]);
    let script = "$L run a c b -- true";
    let ran = run(home
        .command()
        .args(["run", "a", "b", "-c"])
        .arg(format!("L='{THIS}'; {script}")));
    assert_eq!(ran.status, USAGE, "{ran:?}");
    let told = "runs under \"a\", \"b\" already, but not under \"c\": ";
    assert!(ran.stderr.contains(told), "{ran:?}");
}

#[test]
fn token_that_no_longer_holds_does_not_count() {
    let home = Home::new();
    // Another holder has the lock now.
    let script =
        format!("L='{THIS}'; $L unlock x >/dev/null && $L get x >/dev/null && $L run -n x -- true");
    let mut command = home.command();
    let ran = run(command.args(["run", "--on-lost", "warn", "x", "-c", &script]));
    assert_eq!(ran.status, NO, "{ran:?}");
    home.json(["unlock", "x"]);
    for lie in [
        "LOCKMGR_TOKENS=99",
        "LOCKMGR_TOKENS=",
        "LOCKMGR_NAMES=y",
        "env -i LOCKMGR_DB=$LOCKMGR_DB",
    ] {
        let ran = in_job(&home, &["x"], &format!("{lie} $L run -n x -- true"));
        assert_eq!(ran.status, NO, "{lie}: {ran:?}");
    }
}

#[test]
fn store_is_known_by_its_file_and_not_by_its_name() {
    let (home, other) = (Home::new(), Home::new());
    symlink(home.path(), other.join("link")).unwrap();
    let link = other.join("link/locks.redb");
    let script = format!("$L --db '{}' run -n x -- true", link.display());
    assert_eq!(in_job(&home, &["x"], &script).status, DONE);
    // The same name with the same token, in another store.
    let _holder = Kept::holder(&other, &["x"]);
    let fresh = Home::new();
    let other = other.db();
    for script in [
        format!("$L --db '{}' run -n x -- true", other.display()),
        format!("LOCKMGR_DB='{}' $L run -n x -- true", other.display()),
    ] {
        let fresh_or_not = in_job(&fresh, &["x"], &script);
        assert_eq!(fresh_or_not.status, NO, "{script}: {fresh_or_not:?}");
        fs::remove_file(fresh.db()).unwrap();
    }
    // The job in the middle uses the other store.
    let script = format!(
        "$L --db '{}' run y -- $L --db \"$LOCKMGR_DB\" run -n x -- true",
        other.display()
    );
    assert_eq!(in_job(&fresh, &["x"], &script).status, DONE);
}
