//! What the command shows: lists of any width, and what its surroundings tell it.

use crate::holding_support::{DONE, USAGE};
use crate::support::{Home, run};
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    // As if it were not set.
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
