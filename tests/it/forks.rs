//! Tests forks: managers and guards opened before a fork belong to the parent. In the child their
//! calls fail with `Forked`.

use crate::holding_support::{Kept, until};
use crate::support::Home;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The program that forks. It has unsafe code, so it is a package of its own, built on first use.
pub(crate) static FORKER: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forker");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forker/Cargo.toml");
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest);
    build.arg("--target-dir").arg(&target);
    let built = build.output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    target.join("debug/forker")
});

fn forker(home: &Home, scenario: &str) -> Kept {
    let mut command = Command::new(&*FORKER);
    Kept::start_open(command.arg(home.db()).arg(scenario))
}

#[track_caller]
fn succeeds(scenario: &str) {
    let home = Home::new();
    let ran = forker(&home, scenario).end();
    assert!(ran.status == Some(0), "{ran:?}");
    assert!(home.open().requests("").unwrap().is_empty());
}

#[test]
fn every_call_in_a_forked_child_fails_with_forked() {
    succeeds("calls");
}

#[test]
fn child_that_drops_what_it_inherited_releases_nothing_and_may_open_its_own() {
    succeeds("drops");
}

#[test]
fn child_forked_amid_a_write_is_told_at_once_and_may_open_its_own() {
    succeeds("turn");
}

#[test]
fn child_forked_amid_a_renewal_is_told_at_once_by_the_guard() {
    succeeds("renewal");
}

#[test]
fn child_forked_amid_renewals_and_waits_disturbs_neither() {
    succeeds("waits");
}

#[test]
fn guard_of_a_parent_that_ended_is_free_although_its_child_has_copies() {
    let home = Home::new();
    let manager = home.open();
    let mut parent = forker(&home, "orphan");
    assert_eq!(parent.line(), "held");
    until("the parent has ended", || {
        parent.child().try_wait().unwrap().is_some()
    });
    assert!(!manager.is_locked("a").unwrap());
    manager
        .acquire(["a"])
        .try_lock()
        .unwrap()
        .release()
        .unwrap();
    parent.close();
}
