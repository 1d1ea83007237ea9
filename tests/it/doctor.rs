//! Tests `lockmgr doctor`: its findings, its advice, and its exit statuses.

use crate::holding_support::{DONE, Kept, until};
use crate::support::{Home, chmod, run, skip};
use lockmgr::{GetOptions, LockManager};
use serde_json::json;
use std::fs;
use std::time::Duration;

#[test]
fn healthy_store_is_counted_and_exits_with_0() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("a", GetOptions::new()).unwrap();
    let process = Kept::idle();
    let bound = GetOptions::new().bound_to(process.pid());
    manager.get_lock("bound", bound).unwrap();
    let short = GetOptions::new().timeout(Duration::from_millis(200));
    manager.get_lock("short", short).unwrap();
    // No lock is created after this line, as that would remove expired rows.
    process.end();
    until("it expires", || !manager.is_locked("short").unwrap());
    let (status, found) = home.json(["doctor"]);
    assert_eq!(status, DONE, "{found}");
    for (field, value) in [
        ("ok", json!(true)),
        ("exists", json!(true)),
        ("format", json!(1)),
        ("locks", json!(1)),
        ("expired", json!(1)),
        ("dead", json!(1)),
        ("waiting", json!(0)),
        ("mode", json!("0600")),
        ("problems", json!([])),
    ] {
        assert_eq!(found[field], value, "{field} of {found}");
    }
    let ran = home.lockmgr(["doctor"]);
    assert!(ran.stdout.contains("nothing, all is well"), "{ran:?}");
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
}

#[test]
fn missing_store_is_well_and_stays_missing() {
    let home = Home::new();
    let (status, found) = home.json(["doctor"]);
    assert_eq!((status, &found["exists"]), (DONE, &json!(false)));
    assert!(!home.db().exists());
    let ran = home.lockmgr(["doctor"]);
    assert!(ran.stdout.contains("there is no store yet"), "{ran:?}");
}

#[test]
fn store_in_trouble_exits_as_its_error_does() {
    let home = Home::new();
    let of = |home: &Home| {
        let (status, found) = home.json(["doctor", "--busy-timeout", "0.2"]);
        assert_eq!(found["ok"], json!(false));
        (status, found["problems"][0]["kind"].clone())
    };
    fs::write(home.db(), "not a store").unwrap();
    chmod(&home.db(), 0o644);
    assert_eq!(of(&home), (Some(65), json!("NotAStore")));
    // The advice never tells a user to change a file that is no store.
    let (_, found) = home.json(["doctor"]);
    let advice = found["advice"].as_array().unwrap();
    assert!(
        advice.len() == 1 && advice[0].as_str().unwrap().contains("LOCKMGR_DB"),
        "{found}"
    );
    fs::remove_file(home.db()).unwrap();
    let exclusive = LockManager::builder().exclusive().open(home.db()).unwrap();
    assert_eq!(of(&home), (Some(75), json!("StoreBusy")));
    drop(exclusive);
    let Some(mut command) = home.command_of_ordinary_user() else {
        return skip("nobody is denied anything here");
    };
    chmod(&home.db(), 0);
    let ran = run(command
        .arg("--db")
        .arg(home.db())
        .args(["--json", "doctor"]));
    assert_eq!(ran.status, Some(77));
    assert_eq!(ran.document()["problems"][0]["kind"], json!("Permission"));
}

#[test]
fn store_that_every_user_may_write_to_gets_advice() {
    let home = Home::new();
    home.open();
    chmod(&home.db(), 0o666);
    let (status, found) = home.json(["doctor"]);
    assert_eq!(status, DONE);
    let advice = found["advice"][0].as_str().unwrap();
    assert!(
        advice.contains("break every lock") && advice.contains("chmod"),
        "{advice}"
    );
}
