//! Tests several users of one store: the mode of a new store, and the errors of permission with
//! their remedies.

use crate::support::{Home, Ran, chmod, is_root, run, skip, works};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const DONE: Option<i32> = Some(0);
const PERMISSION: Option<i32> = Some(77);

/// A group that the users have in common, which has no name.
const TEAM: u32 = 40_321;

#[derive(Clone, Copy, Debug)]
struct User {
    id: u32,
    is_in_team: bool,
}

const ROOT: User = User {
    id: 0,
    is_in_team: false,
};
const ANN: User = User {
    id: 40_001,
    is_in_team: true,
};
const BOB: User = User {
    id: 40_002,
    is_in_team: true,
};
const STRANGER: User = User {
    id: 40_003,
    is_in_team: false,
};

/// A directory for one store, and the command as each user runs it.
struct Place {
    home: Home,
}

impl Place {
    /// Creates the directory. None if the tests cannot run as other users.
    fn new(group: u32, mode: u32) -> Option<Self> {
        if !is_root() {
            skip("only root can become other users");
            return None;
        }
        if !works(&[
            "setpriv",
            "--reuid=40001",
            "--regid=40001",
            "--clear-groups",
        ]) {
            return None;
        }
        let home = Home::new();
        fs::copy(env!("CARGO_BIN_EXE_lockmgr"), home.join("command")).unwrap();
        let place = Self { home };
        fs::create_dir(place.directory()).unwrap();
        chown(place.directory(), None, Some(group)).unwrap();
        chmod(&place.directory(), mode);
        Some(place)
    }

    fn directory(&self) -> PathBuf {
        self.home.join("shared")
    }

    fn db(&self) -> PathBuf {
        self.directory().join("locks.redb")
    }

    /// Runs the command as a user with a umask that leaves the group only the right to read.
    fn run(&self, user: User, db: &Path, args: &[&str]) -> Ran {
        let User { id, is_in_team } = user;
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
        match is_in_team {
            true => command.arg(format!("--groups={TEAM}")),
            false => command.arg("--clear-groups"),
        };
        command.args(["sh", "-c", "umask 022 && exec \"$0\" \"$@\""]);
        command.arg(self.home.join("command")).arg("--db").arg(db);
        run(command.args(args).env_remove("LOCKMGR_DB"))
    }

    #[track_caller]
    fn set(&self, user: User, name: &str) {
        let ran = self.run(user, &self.db(), &["set", name]);
        assert_eq!(ran.status, DONE, "{user:?}: {ran:?}");
    }

    /// Checks that this user is refused, and returns the message.
    #[track_caller]
    fn refusal(&self, user: User, args: &[&str]) -> String {
        let ran = self.run(user, &self.db(), args);
        assert_eq!(ran.status, PERMISSION, "{user:?}: {ran:?}");
        ran.stderr
    }

    fn mode(&self) -> (u32, u32) {
        let metadata = fs::metadata(self.db()).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }
}

/// Runs, as root, the command that a message quotes between backquotes.
#[track_caller]
fn type_remedy(message: &str) {
    let remedy = message.split('`').nth(1).expect(message);
    let ran = run(Command::new("sh").args(["-c", remedy]));
    assert_eq!(ran.status, DONE, "{remedy}: {ran:?}");
}

#[test]
fn users_of_a_directory_of_their_group_share_its_store_whoever_is_first() {
    for mode in [0o2770, 0o770, 0o2775] {
        for order in [[ANN, BOB, ROOT], [ROOT, ANN, BOB], [BOB, ROOT, ANN]] {
            let Some(place) = Place::new(TEAM, mode) else {
                return;
            };
            for (user, name) in order.into_iter().zip(["a", "b", "c"]) {
                place.set(user, name);
                assert_eq!(place.mode(), (TEAM, 0o660), "{user:?} {mode:o}");
            }
            let listed = place.run(BOB, &place.db(), &["--json", "list"]).document();
            assert_eq!(listed.as_array().unwrap().len(), 3);
        }
    }
}

#[test]
fn store_elsewhere_is_its_owners_alone() {
    for (group, mode) in [
        (0, 0o777),
        (0, 0o1777),
        (TEAM, 0o2777),
        (TEAM, 0o755),
        (TEAM, 0o700),
    ] {
        let Some(place) = Place::new(group, mode) else {
            return;
        };
        chown(place.directory(), Some(ANN.id), None).unwrap();
        place.set(ANN, "a");
        assert_eq!(place.mode().1, 0o600, "{group} {mode:o}");
    }
    // The owner of the directory is not in its group.
    let Some(place) = Place::new(TEAM, 0o770) else {
        return;
    };
    chown(place.directory(), Some(STRANGER.id), None).unwrap();
    place.set(STRANGER, "a");
    assert_eq!(place.mode(), (STRANGER.id, 0o600));
}

#[test]
fn user_refused_by_the_file_is_told_whose_it_is_and_a_remedy_that_works() {
    let Some(place) = Place::new(0, 0o755) else {
        return;
    };
    place.set(ROOT, "a");
    for args in [&["set", "b"][..], &["list"]] {
        let message = place.refusal(BOB, args);
        assert!(message.contains("root:root with mode 0600"), "{message}");
    }
    type_remedy(&place.refusal(BOB, &["set", "b"]));
    place.set(BOB, "b");
    assert_eq!(place.mode(), (BOB.id, 0o660));
    place.set(ROOT, "c");
}

#[test]
fn store_made_private_in_a_directory_of_a_group_is_shared_by_the_remedy() {
    let Some(place) = Place::new(TEAM, 0o2770) else {
        return;
    };
    place.set(ANN, "a");
    chown(place.db(), None, Some(ANN.id)).unwrap();
    chmod(&place.db(), 0o600);
    type_remedy(&place.refusal(BOB, &["set", "b"]));
    place.set(BOB, "b");
    assert_eq!(place.mode(), (TEAM, 0o660));
}

#[test]
fn user_refused_in_a_directory_of_everybody_is_told_to_make_one_for_a_group() {
    let Some(place) = Place::new(0, 0o1777) else {
        return;
    };
    place.set(ANN, "a");
    let message = place.refusal(BOB, &["set", "b"]);
    assert!(message.contains("40001:40001 with mode 0600"), "{message}");
    type_remedy(&message);
    let db = place.directory().join("lockmgr/locks.redb");
    assert!(message.contains(db.to_str().unwrap()), "{message}");
    assert_eq!(place.run(BOB, &db, &["set", "b"]).status, DONE);
    assert_eq!(fs::metadata(&db).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn user_refused_by_a_directory_is_told_whose_it_is_and_a_remedy_that_works() {
    // The user may not write to the directory, or not even enter it.
    for mode in [0o755, 0o700] {
        let Some(place) = Place::new(0, mode) else {
            return;
        };
        let message = place.refusal(BOB, &["set", "b"]);
        let owned = format!("root:root with mode {mode:04o}");
        assert!(message.contains(&owned), "{message}");
        type_remedy(&message);
        let base = if mode == 0o755 {
            place.directory()
        } else {
            place.home.path().to_owned()
        };
        let db = base.join("lockmgr/locks.redb");
        assert!(message.contains(db.to_str().unwrap()), "{message}");
        assert_eq!(place.run(BOB, &db, &["set", "b"]).status, DONE);
    }
}

#[test]
fn user_outside_the_group_of_a_shared_store_is_told_to_join_it() {
    let Some(place) = Place::new(TEAM, 0o2775) else {
        return;
    };
    place.set(ANN, "a");
    let message = place.refusal(STRANGER, &["list"]);
    assert!(message.contains("40001:40321 with mode 0660"), "{message}");
    assert!(message.contains("usermod -aG 40321 40003"), "{message}");
}

#[test]
fn user_who_may_only_read_lists_and_is_refused_to_write() {
    let Some(place) = Place::new(TEAM, 0o2750) else {
        return;
    };
    place.set(ROOT, "a");
    chmod(&place.db(), 0o640);
    let listed = place.run(BOB, &place.db(), &["--json", "list"]).document();
    assert_eq!(listed[0]["name"], "a");
    let message = place.refusal(BOB, &["set", "b"]);
    assert!(message.contains("root:40321 with mode 0640"), "{message}");
    type_remedy(&message);
    place.set(BOB, "b");
}
