//! Tests bad input and bad stores: each is refused with its own exit status and error name, and the
//! store's file stays unchanged.

use crate::support::{Disk, Home, chmod, run, through};
use lockmgr::{Error, GetOptions, LockManager, ManualClock, SetOptions, Timeout};
use redb::{Database, TableDefinition};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const USAGE: i32 = 64;
const DATA: i32 = 65;
const CANNOT_CREATE: i32 = 73;
const IO: i32 = 74;
const PERMISSION: i32 = 77;

/// A refusal of a call: the exit status, the kind of the error, and a part of its message.
type Refusal<'a> = (i32, &'a str, &'a str);

/// Runs a command with and without `--json`, and checks that both print this refusal.
fn refuses(mut command: impl FnMut() -> Command, (status, kind, part): Refusal<'_>) {
    let ran = run(command().arg("--json"));
    let document = ran.document();
    let error = &document["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(
        (ran.status, &error["kind"]),
        (Some(status), &json!(kind)),
        "{message}"
    );
    assert!(message.contains(part), "{message}");
    assert_eq!(error["lock"], json!(null));

    let ran = run(&mut command());
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(status), ""));
    let complaint = ran.stderr.strip_prefix("lockmgr: ").unwrap();
    assert_eq!(complaint.lines().next(), message.lines().next());
}

/// Returns a store that holds a lock called `held`.
fn store() -> Home {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("held", GetOptions::new()).unwrap();
    home
}

/// Checks that these arguments get this refusal, and that the file stays as it was.
fn refuses_args<A: AsRef<OsStr>>(home: &Home, args: &[A], refusal: Refusal<'_>) {
    let before = home.bytes();
    let command = || {
        let mut command = home.command();
        command.args(args);
        command
    };
    refuses(command, refusal);
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    assert!(home.bytes() == before, "the file has changed: {args:?}");
}

const VERBS_WITH_A_NAME: [&str; 6] = ["set", "get", "renew", "unlock", "is-locked", "find"];

#[test]
fn bad_name_is_refused() {
    let home = store();
    let long = "x".repeat(256);
    for (bad, shown) in [
        (OsStr::new(""), "\"\""),
        (OsStr::new(&long), &long),
        (OsStr::new("é".repeat(128).as_str()), "é"),
        (OsStr::new("a\u{1b}[2Jb"), r"a\u{1b}[2Jb"),
        (OsStr::new("a\nb"), r"a\nb"),
        (OsStr::new("\u{7f}"), r"\u{7f}"),
        (OsStr::new("\u{85}"), r"\u{85}"),
        (OsStr::from_bytes(b"a\xff"), "a\u{fffd}"),
    ] {
        let refusal = (USAGE, "InvalidName", shown);
        for verb in VERBS_WITH_A_NAME {
            refuses_args(&home, &[OsStr::new(verb), bad], refusal);
        }
        for verb in ["set", "get"] {
            let args = [
                OsStr::new(verb),
                OsStr::new("a"),
                OsStr::new("--locked-by"),
                bad,
            ];
            refuses_args(&home, &args, refusal);
        }
    }
}

#[test]
fn one_bad_name_among_good_ones_is_refused() {
    let home = store();
    for verb in ["set", "unlock"] {
        for bad in [
            OsStr::new(""),
            OsStr::new("b\tc"),
            OsStr::from_bytes(b"\xc3"),
        ] {
            let args = [OsStr::new(verb), OsStr::new("held"), bad, OsStr::new("new")];
            let shown = if bad.is_empty() { "\"\"" } else { "lock name" };
            refuses_args(&home, &args, (USAGE, "InvalidName", shown));
        }
    }
}

#[test]
fn bad_name_creates_no_store() {
    let home = Home::new();
    for verb in VERBS_WITH_A_NAME {
        assert_eq!(home.json([verb, ""]).0, Some(USAGE));
        assert!(!home.db().exists(), "{verb}");
    }
}

#[test]
fn bad_timeout_is_refused() {
    let home = store();
    for bad in [
        "-5", "-0.001", "-5m", "nan", "-inf", "1e30", "1e12", "300000y", "ten", "", "5 x",
    ] {
        let shown = format!("invalid timeout \"{bad}\": ");
        let refusal = (USAGE, "InvalidTimeout", shown.as_str());
        for verb in ["set", "get", "renew"] {
            refuses_args(&home, &[verb, "held", "-t", bad], refusal);
        }
    }
    for bad in ["ten", "-5", "nan", "1e30"] {
        let refusal = (USAGE, "InvalidTimeout", "invalid timeout");
        refuses_args(&home, &["list", "--busy-timeout", bad], refusal);
    }
}

#[test]
fn neither_renewing_nor_creating_is_allowed() {
    let home = store();
    let (exit, result) = home.json(["set", "--only-renew", "--no-renew", "held", "new"]);
    let counts = json!({ "created": 0, "renewed": 0, "skip_create": 1, "skip_renew": 1 });
    assert_eq!((exit, &result["counts"]), (Some(0), &counts));
    assert_eq!(home.json(["is-locked", "new"]).0, Some(1));
}

#[test]
fn wrong_usage_is_refused() {
    let home = store();
    for (args, shown) in [
        (&["set", "a", "--frob"][..], "--frob"),
        (&["frobnicate"], "frobnicate"),
        (&["set"], "NAME"),
        (&["get"], "NAME"),
        (&["set", "a", "--while", "1"], "--no-renew"),
        (&["find", "a", "b"], "'b'"),
        (&["is-locked"], "NAME"),
        (&["set", "a", "--pid", "-1"], "-1"),
        (&["set", "a", "--pid", "4294967296"], "4294967296"),
        (&["renew", "a", "--token", "one"], "one"),
        (&["unlock", "a", "b", "--token", "1"], "--token"),
        (&["reset"], "--force"),
        (&["-x", "list"], "-x"),
        (&[], "subcommand"),
    ] {
        refuses_args(&home, args, (USAGE, "Usage", shown));
    }
    let json_first = run(through(&[]).args(["--json", "--frob"]));
    assert_eq!(json_first.document()["error"]["kind"], "Usage");
}

/// Checks that every verb refuses the file at the store's path.
fn refuses_store(home: &Home, refusal: Refusal<'_>) {
    for args in [
        &["set", "a"][..],
        &["get", "a"],
        &["renew", "a"],
        &["unlock", "a"],
        &["clean"],
        &["reset", "-f"],
        &["is-locked", "a"],
        &["find", "a"],
        &["list"],
    ] {
        let command = || {
            let mut command = home.command();
            command.args(args);
            command
        };
        refuses(command, refusal);
    }
}

#[test]
fn irregular_file_is_refused_as_a_store() {
    let directory = Home::new();
    fs::create_dir(directory.db()).unwrap();
    refuses_store(&directory, (DATA, "NotAStore", "locks.redb"));

    let pipe = Home::new();
    let made = Command::new("mkfifo").arg(pipe.db()).status();
    assert!(made.unwrap().success());
    refuses_store(&pipe, (DATA, "NotAStore", "locks.redb"));

    for args in [["set", "a"], ["find", "a"]] {
        let device = run(through(&[]).args(["--db", "/dev/null"]).args(args));
        assert_eq!(device.status, Some(DATA));
    }
}

#[test]
fn file_of_something_else_is_refused_as_a_store() {
    let long = "a line of text\n".repeat(1_000);
    for text in ["x", "a line of text\n", &long] {
        let home = Home::new();
        fs::write(home.db(), text).unwrap();
        refuses_store(&home, (DATA, "NotAStore", "locks.redb"));
        assert_eq!(home.bytes(), text.as_bytes());
    }
}

#[test]
fn redb_file_of_another_program_is_refused_as_a_store() {
    const THEIRS: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    const LOCKS: TableDefinition<'_, u64, u64> = TableDefinition::new("locks");
    for table in [THEIRS, LOCKS] {
        let home = Home::new();
        let database = Database::create(home.db()).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(table).unwrap().insert(1, 2).unwrap();
        txn.commit().unwrap();
        drop(database);
        refuses_store(&home, (DATA, "NotAStore", "locks.redb"));

        let database = Database::open(home.db()).unwrap();
        let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
        assert_eq!(
            txn.open_table(table)
                .unwrap()
                .get(1)
                .unwrap()
                .unwrap()
                .value(),
            2
        );
        assert_eq!(txn.list_tables().unwrap().count(), 1);
    }
}

/// A type whose name steers a terminal.
#[derive(Debug)]
struct Steering;

impl redb::Value for Steering {
    type SelfType<'a> = u64;
    type AsBytes<'a> = [u8; 8];

    fn fixed_width() -> Option<usize> {
        Some(8)
    }

    fn from_bytes<'a>(bytes: &'a [u8]) -> u64
    where
        Self: 'a,
    {
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a u64) -> [u8; 8]
    where
        Self: 'b,
    {
        value.to_le_bytes()
    }

    fn type_name() -> redb::TypeName {
        redb::TypeName::new("\u{1b}[2J")
    }
}

#[test]
fn text_that_redb_quotes_from_a_file_steers_no_terminal() {
    const LOCKS: TableDefinition<'_, u64, Steering> = TableDefinition::new("lockmgr");
    let home = Home::new();
    let database = Database::create(home.db()).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(LOCKS).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    let ran = home.lockmgr(["list"]);
    assert_eq!(ran.status, Some(DATA));
    assert!(ran.stderr.contains("\\u{1b}[2J"), "{ran:?}");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
}

#[test]
fn store_of_a_newer_format_is_refused() {
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lockmgr");
    let home = store();
    let database = Database::open(home.db()).unwrap();
    let txn = database.begin_write().unwrap();
    let newer = 2u32.to_le_bytes();
    txn.open_table(META)
        .unwrap()
        .insert("format", &newer[..])
        .unwrap();
    txn.commit().unwrap();
    drop(database);
    refuses_store(&home, (DATA, "NotAStore", "format 2"));
}

const WRITERS: [&[&str]; 6] = [
    &["set", "a"],
    &["get", "a"],
    &["renew", "held"],
    &["unlock", "held"],
    &["clean"],
    &["reset", "-f"],
];

/// Checks that a reader of the store still finds the lock called `held`.
fn is_readable(command: impl Fn() -> Command) {
    for (args, status) in [
        (&["is-locked", "held"][..], 0),
        (&["find", "held"], 0),
        (&["list"], 0),
        (&["is-locked", "absent"], 1),
    ] {
        let ran = run(command().args(args));
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(status), ""));
        let is_there = ran.stdout.contains("held") || ran.stdout == "true\n";
        assert_eq!(is_there, status == 0, "{args:?}");
    }
}

#[test]
fn store_in_no_directory_cannot_be_created() {
    let home = Home::new();
    let db = home.join("missing/locks.redb");
    let at = |args: &[&str]| {
        let mut command = through(&[]);
        command.arg("--db").arg(&db).args(args);
        command
    };
    for args in WRITERS {
        refuses(|| at(args), (CANNOT_CREATE, "Io", "missing/locks.redb"));
    }
    assert_eq!(run(&mut at(&["--json", "list"])).document(), json!([]));
    assert_eq!(run(&mut at(&["is-locked", "a"])).status, Some(1));
    assert!(!home.join("missing").exists());
}

#[test]
fn store_without_permission_is_refused() {
    let home = store();
    let Some(probe) = home.command_of_ordinary_user() else {
        return;
    };
    drop(probe);
    let command = |db: &Path, args: &[&str]| {
        let mut command = home.command_of_ordinary_user().unwrap();
        command.arg("--db").arg(db).args(args);
        command
    };
    let denied = (PERMISSION, "Permission", "locks.redb");

    chmod(&home.db(), 0o444);
    is_readable(|| command(&home.db(), &[]));
    for args in WRITERS {
        refuses(|| command(&home.db(), args), denied);
    }
    chmod(&home.db(), 0o000);
    for args in WRITERS
        .into_iter()
        .chain([&["find", "held"][..], &["list"]])
    {
        refuses(|| command(&home.db(), args), denied);
    }

    let closed = home.join("closed");
    let db = closed.join("locks.redb");
    fs::create_dir(&closed).unwrap();
    chmod(&closed, 0o555);
    for args in WRITERS {
        refuses(|| command(&db, args), denied);
    }
    assert_eq!(run(&mut command(&db, &["is-locked", "a"])).status, Some(1));
    chmod(&closed, 0o000);
    for args in WRITERS
        .into_iter()
        .chain([&["find", "held"][..], &["list"]])
    {
        refuses(|| command(&db, args), denied);
    }
    chmod(&closed, 0o755);
    assert_eq!(fs::read_dir(closed).unwrap().count(), 0);
}

#[test]
fn store_on_a_read_only_file_system_is_read_and_not_written() {
    let Some(disk) = Disk::new() else {
        return;
    };
    assert_eq!(disk.json(&["set", "held"]).0, Some(0));
    assert!(disk.shell("mount -o remount,ro \"$PWD\""));
    is_readable(|| disk.command());
    let with = |args: &[&str]| {
        let mut command = disk.command();
        command.args(args);
        command
    };
    for args in WRITERS {
        refuses(|| with(args), (IO, "Io", "locks.redb"));
    }
    let new = disk.home.join("new.redb");
    let args = ["set", "a", "--db", new.to_str().unwrap()];
    let elsewhere = || {
        let id = disk.shell.id().to_string();
        let mut command = through(&["nsenter", "--mount", "--target", &id]);
        command.args(args);
        command
    };
    refuses(elsewhere, (CANNOT_CREATE, "Io", "new.redb"));
}

/// Returns a store with locks of every kind, the same bytes each time, and its list.
fn full_store() -> (Home, Value) {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    let names: Vec<_> = (0..60).map(|i| format!("lock {i}")).collect();
    let century = SetOptions::new().timeout(Duration::from_secs(36_525 * 86_400));
    manager.set_lock(&names, century.clone()).unwrap();
    let for_ever = SetOptions::new().timeout(Timeout::Never);
    manager.set_lock(&names[..30], for_ever).unwrap();
    manager.unlock_all(&names[20..25]).unwrap();
    manager
        .set_lock(["with process"], century.process_id(42))
        .unwrap();
    drop(manager);
    let (_, list) = home.json(["list"]);
    (home, list)
}

/// Runs verbs on a damaged store. Each answers correctly or reports that the store is damaged.
fn is_right_or_refused(bytes: &[u8], list: &Value, what: &str) {
    let home = Home::new();
    fs::write(home.db(), bytes).unwrap();
    let answer = |args: &[&str]| {
        let (exit, document) = home.json(args);
        let kind = &document["error"]["kind"];
        match exit {
            Some(0) => Some(document),
            Some(DATA) if kind == "Corrupted" || kind == "NotAStore" => None,
            _ => panic!("{what}: {args:?}: {exit:?} {document}"),
        }
    };
    let before = answer(&["list"]);
    assert!(
        before.is_none_or(|before| before == *list),
        "{what}: another list"
    );
    let first = &list[0];
    let found = answer(&["find", first["name"].as_str().unwrap()]);
    assert!(
        found.is_none_or(|found| found == *first),
        "{what}: another lock"
    );
    let set = answer(&["set", "new"]);
    if let (Some(set), Some(mut after)) = (set, answer(&["list"])) {
        let new = &set["locks"][0];
        let after = after.as_array_mut().unwrap();
        let tokens = after.iter().map(|lock| lock["token"].as_u64());
        assert_eq!(tokens.max(), Some(new["token"].as_u64()), "{what}");
        after.retain(|lock| lock != new);
        assert!(
            after == list.as_array().unwrap(),
            "{what}: another list after writing"
        );
    }
}

#[test]
fn truncated_store_is_read_rightly_or_refused() {
    let (home, list) = full_store();
    let whole = home.bytes();
    let pages = (4096..whole.len()).step_by(4096);
    let others = [1, 9, 63, 64, 319, 320, 4095, 4097, whole.len() - 1];
    for length in pages.chain(others) {
        is_right_or_refused(&whole[..length], &list, &format!("cut at {length}"));
    }
}

#[test]
fn store_with_flipped_bits_is_read_rightly_or_refused() {
    let (home, list) = full_store();
    let whole = home.bytes();
    let header = (0..320).step_by(3);
    let used = (320..whole.len()).filter(|&at| whole[at] != 0).step_by(251);
    for at in header.chain(used) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        is_right_or_refused(&flipped, &list, &format!("flipped at {at}"));
    }
}

/// Returns the positions of these bytes in the file.
fn positions(whole: &[u8], of: &[u8]) -> Vec<usize> {
    let found = whole.windows(of.len()).enumerate();
    let positions: Vec<_> = found
        .filter(|(_, bytes)| *bytes == of)
        .map(|(at, _)| at)
        .collect();
    assert!(!positions.is_empty());
    positions
}

#[test]
fn store_beyond_repair_is_not_repaired_for_ever() {
    let (home, list) = full_store();
    let whole = home.bytes();
    // A table of redb's own. A writer detects the damage during its transaction.
    for at in positions(&whole, b"redb::TransactionIdWithPagination") {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        is_right_or_refused(&flipped, &list, &format!("flipped at {at}"));
    }
}

/// Returns a store with rows of some pages, of which some were renewed and some removed.
fn fill(manager: &LockManager) {
    let names: Vec<_> = (0..400).map(|i| format!("job:{i:03}")).collect();
    let options = SetOptions::new().process_id(4242);
    manager.set_lock(&names, options.clone()).unwrap();
    manager
        .set_lock(&names[..200], options.timeout(Timeout::Never))
        .unwrap();
    for name in names.iter().step_by(3) {
        assert!(manager.unlock(name).unwrap());
    }
}

/// A branch page in place of a leaf, as after a misdirected write, leads from row to row for ever.
#[test]
fn rows_that_never_end_are_not_cleaned_for_ever() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    fill(&manager);
    drop(manager);
    let whole = home.bytes();
    let open = || {
        let builder = LockManager::builder().exclusive().clock(clock.clone());
        builder.open(home.db())
    };
    let mut refused = 0;
    for (branch, _) in branches(&whole) {
        for to in 1..whole.len() / 4096 {
            let mut damaged = whole.clone();
            damaged.copy_within(branch * 4096..(branch + 1) * 4096, to * 4096);
            fs::write(home.db(), damaged).unwrap();
            match open().and_then(|manager| manager.clean_locks()) {
                Ok(removed) => assert_eq!(removed, 0),
                Err(Error::Corrupted { .. } | Error::NotAStore { .. }) => refused += 1,
                Err(error) => panic!("page {branch} at {to}: {error:?}"),
            }
        }
    }
    assert!(refused > 0);
}

/// The variables that a child process gets: the path of its store, the holder of the locks, and the
/// first copy it makes.
const STORE: &str = "LOCKMGR_TEST_STORE";
const HOLDER: &str = "LOCKMGR_TEST_HOLDER";
const FIRST: &str = "LOCKMGR_TEST_FIRST";

/// Writes to a store in which one leaf of redb's trees is in the place of another. If one of the
/// two leaves records free pages, redb allocates pages that are in use.
#[test]
#[ignore = "another test runs it, and sees it die"]
fn writes_with_one_leaf_in_the_place_of_another() {
    // A run of all ignored tests sets none of these variables.
    let [Ok(path), Ok(holder), Ok(first)] = [STORE, HOLDER, FIRST].map(std::env::var) else {
        return;
    };
    let path = PathBuf::from(path);
    let first: usize = first.parse().unwrap();
    let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
    let open = || {
        let builder = LockManager::builder().locked_by(&*holder);
        let builder = builder.busy_timeout(Duration::from_millis(50));
        builder.clock(clock.clone()).open(&path)
    };
    let _ = fs::remove_file(&path);
    let manager = open().unwrap();
    fill(&manager);
    let whole = fs::read(&path).unwrap();
    drop(manager);

    std::panic::set_hook(Box::new(|_| {}));
    // Leaves of up to three entries, as those of redb's books are.
    let is_book = |nth: &usize| matches!(whole[nth * 4096..], [1, _, 1..=3, 0, ..]);
    let leaves: Vec<_> = (1..whole.len() / 4096).filter(is_book).collect();
    let names = ["job:001", "job:199", "job:399", "job:000"];
    for copy in first..leaves.len().pow(2) {
        println!("copy {copy}");
        let [from, to] = [copy % leaves.len(), copy / leaves.len()].map(|nth| leaves[nth] * 4096);
        let mut damaged = whole.clone();
        damaged.copy_within(from..from + 4096, to);
        fs::write(&path, damaged).unwrap();
        let Ok(manager) = open() else { continue };
        let _ = manager.unlock_all(names);
        let _ = manager.set_lock((0..50).map(|i| format!("new:{i}")), SetOptions::new());
        let _ = manager.set_lock(names, SetOptions::new());
    }
}

/// Tests two known limits of redb. Remove a limit here and in the guide's chapter `limits` once
/// redb has fixed it.
#[test]
fn process_that_dies_in_redb_leaves_the_store_to_others() {
    let home = Home::new();
    let script = "ulimit -c 0 && exec \"$0\" --exact --ignored --nocapture \
        bad_input::writes_with_one_leaf_in_the_place_of_another";
    let (mut full_stacks, mut double_panics) = (0, 0);
    // A longer name makes the rows fill more pages. The limits are met at different lengths.
    for holder in ["a holder, 12"] {
        let mut first = 0;
        loop {
            let mut child = Command::new("sh");
            child.args(["-c", script]);
            child.arg(std::env::current_exe().unwrap());
            child.env(STORE, home.db()).env(HOLDER, holder);
            let ran = run(child.env(FIRST, first.to_string()));
            if ran.status == Some(0) {
                break;
            }
            assert_eq!(ran.status, None, "{ran:?}");
            full_stacks += usize::from(ran.stderr.contains("has overflowed its stack"));
            double_panics += usize::from(ran.stderr.contains("non-unwinding panic"));

            match LockManager::open(home.db()).and_then(|manager| manager.find("job:002")) {
                Ok(lock) => assert!(lock.is_some()),
                Err(error) => assert!(matches!(error, Error::Corrupted { .. }), "{error:?}"),
            }
            let mut lines = ran.stdout.lines().rev();
            let last = lines.find_map(|line| line.strip_prefix("copy "));
            first = last.unwrap().parse::<usize>().unwrap() + 1;
        }
    }
    println!("{full_stacks} full stacks, {double_panics} double panics");
    assert!(full_stacks > 0 && double_panics > 0);
}

#[test]
fn damaged_name_hides_no_other_lock() {
    let (home, list) = full_store();
    let whole = home.bytes();
    let damaged = Home::new();
    let first = list[0]["name"].as_str().unwrap();
    let mut hidden = Vec::new();
    for at in positions(&whole, b"lock 0lock 1lock 10") {
        // The offsets and the names of a page's rows: redb checks neither as it reads.
        let page = at / 4096 * 4096;
        for at in page..page + 900 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(damaged.db(), flipped).unwrap();
            let reader = LockManager::builder().read_only().open(damaged.db());
            match reader.and_then(|reader| reader.find(first)) {
                Ok(found) => hidden.extend(found.is_none().then_some(at)),
                Err(Error::Corrupted { .. } | Error::NotAStore { .. }) => {}
                Err(error) => panic!("flipped at {at}: {error:?}"),
            }
        }
    }
    assert_eq!(hidden, [0; 0]);
}

#[test]
fn damaged_name_never_looks_free_to_a_call_that_begins_with_an_expired_lock() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let get = |name, secs| {
        let lease = Duration::from_secs(secs);
        manager.get_lock(name, GetOptions::new().timeout(lease))
    };
    get("expired", 1).unwrap();
    get("held", 9).unwrap();
    clock.advance(Duration::from_secs(1));
    drop(manager);
    let mut damaged = home.bytes();
    for at in positions(&damaged, b"expiredheld") {
        damaged[at + b"expiredhel".len()] ^= 1;
    }
    fs::write(home.db(), damaged).unwrap();
    let manager = LockManager::builder().clock(clock).open(home.db()).unwrap();
    let set = manager.set_lock(["expired", "held"], SetOptions::new());
    assert!(matches!(set, Err(Error::Corrupted { .. })), "{set:?}");
}

#[test]
fn store_whose_tables_are_hidden_by_damage_is_not_empty() {
    let home = Home::new();
    home.open().get_lock("a", GetOptions::new()).unwrap();
    let mut damaged = home.bytes();
    // The row counts of the leaves that list our tables.
    for at in positions(&damaged, b"lockmgrlocksrequests") {
        damaged[at / 4096 * 4096 + 2] = 0;
    }
    fs::write(home.db(), &damaged).unwrap();
    for builder in [LockManager::builder().read_only(), LockManager::builder()] {
        let opened = builder.open(home.db());
        assert!(matches!(opened, Err(Error::Corrupted { .. })), "{opened:?}");
    }
}

#[test]
fn large_store_whose_table_is_hidden_by_damage_is_not_empty() {
    let home = Home::new();
    let names = (0..1_001).map(|i| i.to_string());
    home.open().set_lock(names, SetOptions::new()).unwrap();
    let mut damaged = home.bytes();
    for at in positions(&damaged, b"lockmgrlocksrequests") {
        damaged[at + "lockmgrlock".len()] ^= 1;
    }
    fs::write(home.db(), &damaged).unwrap();
    let got = home.open().get_lock("0", GetOptions::new());
    assert!(matches!(got, Err(Error::Corrupted { .. })), "{got:?}");
}

/// Returns the branch pages of redb's trees, and the positions of their page numbers.
fn branches(whole: &[u8]) -> Vec<(usize, std::ops::Range<usize>)> {
    let pages = whole.chunks(4096).enumerate().skip(1);
    let branches = pages.filter(|(_, page)| page[0] == 2);
    let branches: Vec<_> = branches
        .map(|(nth, page)| {
            let children = usize::from(u16::from_le_bytes([page[2], page[3]])) + 1;
            let at = 4096 * nth + 8;
            (nth, at + 16 * children..at + 24 * children)
        })
        .collect();
    assert!(!branches.is_empty());
    branches
}

#[test]
fn page_that_claims_four_gigabytes_gets_no_such_memory() {
    let (home, _) = full_store();
    let whole = home.bytes();
    let damaged = Home::new();
    let mut refused = 0;
    for (page, numbers) in branches(&whole) {
        let mut claims = whole.clone();
        for number in claims[numbers].chunks_mut(8) {
            number[7] = 20 << 3;
        }
        fs::write(damaged.db(), claims).unwrap();
        for args in [&["list"][..], &["set", "new"]] {
            let script = "ulimit -v 524288 && exec \"$0\" \"$@\"";
            let mut command = through(&["sh", "-c", script]);
            let ran = run(command.args(args).arg("--db").arg(damaged.db()));
            // A page that is not in use is not read.
            let is_refused = ran.status == Some(DATA);
            assert!(is_refused || ran.status == Some(0), "page {page}: {ran:?}");
            refused += usize::from(is_refused);
        }
    }
    assert_ne!(refused, 0);
}
