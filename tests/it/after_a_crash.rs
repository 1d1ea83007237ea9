//! Tests reading after a crash of a process or of the machine: every user who may read the store
//! gets its last commit.

use crate::holding_support::{Kept, until};
use crate::support::{Home, chmod, is_root, run, skip, through, works};
use lockmgr::{Builder, GetOptions, LockManager, SetOptions, StorageCall};
use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Returns the names of `count` locks, which fill some pages.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{i:0100}")).collect()
}

fn listed(manager: &LockManager) -> Vec<String> {
    let locks = manager.locks("").unwrap();
    locks.iter().map(|lock| lock.name().to_string()).collect()
}

/// Returns the file of a machine that crashed before the last sync of a commit, and the names of
/// the locks before that commit. All was written, and each branch page is torn, so that the page
/// leads to pages of gigabytes.
fn torn_store() -> (Vec<u8>, Vec<String>) {
    let home = Home::in_memory();
    let changes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&changes);
    let manager = LockManager::builder()
        .exclusive()
        .storage_hook(move |call| {
            let mut noted = noted.lock().unwrap();
            match call {
                StorageCall::Write { offset, data } => noted.push((offset, data.to_vec())),
                StorageCall::SetLen { len } => noted.push((len, Vec::new())),
                StorageCall::Sync => {}
                _ => return Ok(()),
            }
            Ok(())
        })
        .open(home.db())
        .unwrap();
    let before = names(100);
    manager.set_lock(&before, SetOptions::new()).unwrap();
    let mut image = home.bytes();
    changes.lock().unwrap().clear();
    manager
        .set_lock(&names(102)[100..], SetOptions::new())
        .unwrap();

    let mut torn = 0;
    for (offset, mut data) in changes.lock().unwrap().drain(..) {
        let offset = usize::try_from(offset).unwrap();
        if data.is_empty() {
            image.resize(offset, 0);
            continue;
        }
        if data[0] == 2 {
            let children = usize::from(u16::from_le_bytes([data[2], data[3]])) + 1;
            data[8 + 16 * children..].fill(20 << 3);
            torn += 1;
        }
        image[offset..offset + data.len()].copy_from_slice(&data);
    }
    assert_ne!(torn, 0, "the commit wrote no branch");
    (image, before)
}

#[test]
fn store_with_torn_branches_opens_in_every_mode_with_the_commit_before() {
    let (image, before) = torn_store();
    let modes: [fn(Builder) -> Builder; 3] = [|it| it, Builder::exclusive, Builder::read_only];
    for mode in modes {
        let home = Home::new();
        fs::write(home.db(), &image).unwrap();
        let manager = mode(LockManager::builder()).open(home.db()).unwrap();
        assert_eq!(listed(&manager), before);
    }
    let home = Home::new();
    fs::write(home.db(), &image).unwrap();
    let (status, list) = home.json(["list"]);
    assert_eq!(
        (status, list.as_array().unwrap().len()),
        (Some(0), before.len())
    );
}

/// Leaves the store as a process does that is killed while the store is open.
fn left_by_a_killed_process(manager: &LockManager, home: &Home) {
    manager.find("held").unwrap();
    let left = Home::new();
    fs::copy(home.db(), left.db()).unwrap();
    fs::rename(left.db(), home.db()).unwrap();
}

/// Returns a store of the lock `held`, left by a killed process.
fn left_store() -> Home {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("held", GetOptions::new()).unwrap();
    left_by_a_killed_process(&manager, &home);
    home
}

/// Opens a store whose every write is refused, so that redb repairs the store in memory.
fn reader(
    home: &Home,
    refusal: io::ErrorKind,
    before_each: impl Fn(&StorageCall<'_>) + Send + Sync + 'static,
) -> LockManager {
    let hook = move |call: StorageCall<'_>| {
        before_each(&call);
        match call {
            StorageCall::Write { .. } | StorageCall::SetLen { .. } => Err(refusal.into()),
            _ => Ok(()),
        }
    };
    let builder = LockManager::builder().read_only().storage_hook(hook);
    builder.open(home.db()).unwrap()
}

#[test]
fn reader_of_a_killed_holders_store_without_permission_to_write_gets_its_locks() {
    let home = Home::new();
    let holder = Kept::start(home.command().args(["run", "held", "--", "sleep", "5"]));
    until("the lock is held", || {
        home.db().exists() && home.json(["is-locked", "held"]).0 == Some(0)
    });
    assert_eq!(home.lockmgr(["set", "kept"]).status, Some(0));
    drop(holder);
    chmod(&home.db(), 0o444);
    let before = home.bytes();
    let Some(mut list) = home.command_of_ordinary_user() else {
        return;
    };
    chmod(home.path(), 0o555);
    let ran = run(list.arg("--db").arg(home.db()).arg("list"));
    chmod(home.path(), 0o755);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("kept"), "{}", ran.stdout);
    assert!(home.bytes() == before, "who may only read wrote");
}

#[test]
fn reader_of_a_killed_holders_store_on_a_read_only_mount_gets_its_locks() {
    if !is_root() {
        return skip("only root can mount a directory");
    }
    if !works(&["unshare", "--mount"]) {
        return;
    }
    let home = left_store();
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(home.path());
    let lockmgr = through(&[]);
    command
        .arg(lockmgr.get_program())
        .arg("--db")
        .arg(home.db());
    let ran = run(command.args(["find", "held"]));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("held"), "{}", ran.stdout);
}

#[test]
fn reader_of_a_store_repaired_in_memory_sees_the_next_commit_at_once() {
    for refusal in [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::StorageFull,
    ] {
        let home = left_store();
        let reader = reader(&home, refusal, |_| {});
        assert_eq!(listed(&reader), ["held"]);
        let writer = home.open();
        assert_eq!(listed(&reader), ["held"]);
        writer.get_lock("new", GetOptions::new()).unwrap();
        assert_eq!(listed(&reader), ["held", "new"]);
        writer.unlock("held").unwrap();
        drop(writer);
        assert_eq!(listed(&reader), ["new"]);
    }
}

#[test]
fn store_changed_while_it_is_repaired_in_memory_is_read_as_it_became() {
    // The writer runs before each read of the copy in turn, and is killed again or not.
    let came = |before: usize, dies: bool| {
        let home = Arc::new(left_store());
        let (is_refused, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (has_come, shared) = (Arc::new(AtomicBool::new(false)), Arc::clone(&home));
        let noted = Arc::clone(&has_come);
        let come = move |call: &StorageCall<'_>| {
            if matches!(call, StorageCall::Write { .. }) {
                is_refused.store(true, Ordering::Relaxed);
            }
            // The copy reads whole pages, and only the copy does.
            let is_copying = matches!(call, StorageCall::Read { len: 4096.., .. })
                && is_refused.load(Ordering::Relaxed);
            if !is_copying || reads.fetch_add(1, Ordering::Relaxed) != before {
                return;
            }
            noted.store(true, Ordering::Relaxed);
            let writer = shared.open();
            writer.get_lock("new", GetOptions::new()).unwrap();
            let left = shared.bytes();
            drop(writer);
            if dies {
                fs::write(shared.db(), left).unwrap();
            }
        };
        let listed = listed(&reader(&home, io::ErrorKind::PermissionDenied, come));
        let has_come = has_come.load(Ordering::Relaxed);
        let expected = ["held", "new"];
        assert_eq!(listed, expected[..1 + usize::from(has_come)], "{before}");
        has_come
    };
    for dies in [false, true] {
        let times = (0..).take_while(|&before| came(before, dies)).count();
        assert!(times > 3, "the copy is made by {times} reads");
    }
}
