//! Tests the place of the command's store, and the messages about a missing store.

use crate::holding_support::{DONE, NO, USAGE};
use crate::support::{Home, is_root, run, skip, through, works};
use std::fs;
use std::os::unix::fs::chown;

#[test]
fn missing_store_is_named_with_what_is_missing() {
    let home = Home::new();
    let nowhere = home.join("nowhere/locks.redb");
    for (db, missing) in [
        (home.db(), "there is no such file".to_owned()),
        (
            nowhere,
            format!(
                "there is no such directory: {}",
                home.join("nowhere").display()
            ),
        ),
    ] {
        let asked = |args: &[&str]| run(through(&["env"]).arg("--db").arg(&db).args(args));
        let shown = format!("{} ({missing})\n", db.display());
        let list = asked(&["list"]);
        assert_eq!(
            (list.status, list.stdout),
            (DONE, format!("no locks in {shown}"))
        );
        let queue = asked(&["queue"]);
        assert_eq!(queue.stdout, format!("nobody waits for locks in {shown}"));
        let find = asked(&["find", "x"]);
        assert_eq!(
            (find.status, find.stdout),
            (NO, format!("x: not locked in {shown}"))
        );
        for args in [&["is-locked", "x"][..], &["check", "x", "1"]] {
            let ran = asked(args);
            assert_eq!((ran.status, ran.stdout.as_str()), (NO, "false\n"));
            assert_eq!(ran.stderr, format!("lockmgr: {shown}"));
        }
        assert!(!db.exists());
    }
}

#[test]
fn every_error_names_the_store() {
    let home = Home::new();
    let db = home.db();
    let db = db.to_str().unwrap();
    home.json(["get", "x"]);
    for args in [
        &["get", "x"][..],
        &["set", "-e", "x"],
        &["renew", "y"],
        &["renew", "x", "--token", "9"],
        &["run", "-n", "x", "--", "true"],
    ] {
        let ran = home.lockmgr(args);
        assert_eq!(ran.stderr.matches(db).count(), 1, "{ran:?}");
    }
    fs::write(home.db(), "no store").unwrap();
    let ran = home.lockmgr(["list"]);
    assert_eq!(ran.stderr.matches(db).count(), 1, "{ran:?}");
}

#[test]
fn home_that_is_not_the_users_own_is_refused() {
    let home = Home::new();
    let of_home = |variable: &str, path: &std::path::Path, verb: &str| {
        let mut command = through(&[]);
        command.env_remove("HOME").env_remove("XDG_STATE_HOME");
        run(command.env(variable, path).args([verb, "x"]))
    };
    let missing = home.join("missing");
    let ran = of_home("HOME", &missing, "set");
    assert_eq!(ran.status, USAGE);
    assert!(ran.stderr.contains("does not exist") && ran.stderr.contains("--db PATH"));
    assert!(!missing.exists());
    let nowhere = std::path::Path::new("/nonexistent-home/state");
    assert_eq!(of_home("XDG_STATE_HOME", nowhere, "set").status, USAGE);
    assert!(!nowhere.parent().unwrap().exists());
    if !is_root() {
        skip("only root can make the home of another user");
        return;
    }
    chown(home.path(), Some(65534), Some(65534)).unwrap();
    for (variable, path) in [
        ("HOME", home.path().to_owned()),
        ("XDG_STATE_HOME", home.path().to_owned()),
        ("XDG_STATE_HOME", home.join(".local/state")),
    ] {
        for verb in ["set", "list", "find"] {
            let ran = of_home(variable, &path, verb);
            assert_eq!(ran.status, USAGE, "{ran:?}");
            for told in ["belongs to user 65534", "as user 0", "--system", "sudo -H"] {
                assert!(ran.stderr.contains(told), "{ran:?}");
            }
        }
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn store_of_the_host_is_made_where_it_belongs() {
    let with_own_var = "mount -t tmpfs tmpfs /var/lib && exec \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-c", with_own_var, "sh"];
    if !works(&wrapper) {
        return;
    }
    let this = env!("CARGO_BIN_EXE_lockmgr");
    let script = format!(
        "'{this}' --system get x >/dev/null && stat -c %a /var/lib/lockmgr && \
            LOCKMGR_DB=/nowhere '{this}' list --system && '{this}' --system -q is-locked x && \
            ls /var/lib/lockmgr"
    );
    let mut shell = std::process::Command::new(wrapper[0]);
    let ran = run(shell.args(&wrapper[1..]).args(["sh", "-c", &script]));
    let said: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(ran.status, DONE, "{ran:?}");
    assert_eq!((said[0], said[3]), ("755", "locks.redb"));
    let home = Home::new();
    assert_eq!(home.lockmgr(["--system", "list"]).status, USAGE);
}
