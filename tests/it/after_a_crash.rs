//! What a crash of a process or of the machine leaves: every user who may read the store gets its
//! last commit.

use crate::support::Home;
use lockmgr::{Builder, LockManager, SetOptions, StorageCall};
use std::fs;
use std::sync::{Arc, Mutex};

/// The names of `count` locks, which fill some pages.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{i:0100}")).collect()
}

fn listed(manager: &LockManager) -> Vec<String> {
    let locks = manager.locks("").unwrap();
    locks.iter().map(|lock| lock.name().to_string()).collect()
}

/// What a machine leaves that crashed before the last sync of a commit: all was written, and each
/// branch page is torn, so that it leads to pages of gigabytes. With it, the names of the locks
/// before that commit.
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
