//! Tests completions: the words that a shell gets. A prompt never waits.

use crate::holding_support::{DONE, Kept, until_queued};
use crate::support::{Home, chmod, run, through, works};
use lockmgr::LockManager;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Returns the completions that bash gets for the last of these words.
fn offered(db: &Path, words: &[&str]) -> Vec<String> {
    let mut command = through(&[]);
    command
        .env("LOCKMGR_COMPLETE", "bash")
        .env("LOCKMGR_DB", db);
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_IFS", "\n");
    let began = Instant::now();
    let ran = run(command.args(["--", "lockmgr"]).args(words));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
    ran.stdout
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn names_of_locks_and_of_requests_are_offered() {
    let home = Home::new();
    let _holder = Kept::holder(&home, &["job:1"]);
    home.json(["set", "job:2", "other"]);
    let _waiter = Kept::start(home.command().args(["run", "job:1", "job:3", "--", "true"]));
    until_queued(&home.open(), "job:3", 1);
    let db = home.db();
    assert_eq!(offered(&db, &["unlock", "job:"]), ["job:1", "job:2"]);
    assert_eq!(offered(&db, &["unlock", "other", "o"]), ["other"]);
    assert_eq!(offered(&db, &["find", "o"]), ["other"]);
    assert_eq!(offered(&db, &["list", "job:"]), ["job:1", "job:2"]);
    assert_eq!(
        offered(&db, &["queue", "job:"]),
        ["job:1", "job:2", "job:3"]
    );
    assert_eq!(offered(&db, &["watch", "job:3"]), ["job:3"]);
    assert_eq!(offered(&db, &["unl"]), ["unlock"]);
    let other = db.to_str().unwrap();
    let nowhere = home.join("nowhere");
    assert_eq!(offered(&nowhere, &["--db", other, "find", "o"]), ["other"]);
    assert!(!nowhere.exists());
}

#[test]
fn store_that_cannot_be_read_offers_nothing_at_once() {
    let home = Home::new();
    let find = ["find", ""];
    let names = |db: &Path| -> Vec<String> {
        let offered = offered(db, &find).into_iter();
        offered.filter(|it| !it.starts_with('-')).collect()
    };
    assert!(names(&home.join("missing")).is_empty());
    assert!(names(&home.join("no/such/directory")).is_empty());
    let text = home.join("text");
    fs::write(&text, "not a store").unwrap();
    assert!(names(&text).is_empty());
    let manager = LockManager::builder().exclusive().open(home.db()).unwrap();
    manager
        .set_lock(["busy"], lockmgr::SetOptions::new())
        .unwrap();
    assert!(names(&home.db()).is_empty());
    drop(manager);
    assert_eq!(names(&home.db()), ["busy"]);
    chmod(&home.db(), 0);
    // Root may read it anyway.
    names(&home.db());
}

#[test]
fn name_that_a_shell_would_run_is_not_offered() {
    let home = Home::new();
    home.json([
        "set",
        "a;reboot",
        "a$(reboot)",
        "a b",
        "a*",
        "a'b",
        "a`b`",
        "a|b",
        "a名前",
    ]);
    home.json(["set", "--", "-a"]);
    assert_eq!(offered(&home.db(), &["find", "a"]), ["a名前"]);
}

/// Runs a script of a shell that has the command in its path.
fn in_shell(home: &Home, shell: &str, script: &str) -> Option<String> {
    if !works(&[shell, "-c", "true", "--"]) {
        return None;
    }
    let programs = home.join("bin");
    fs::create_dir_all(&programs).unwrap();
    let _ = symlink(env!("CARGO_BIN_EXE_lockmgr"), programs.join("lockmgr"));
    let mut command = Command::new(shell);
    command.args(["-c", script]).current_dir(home.path());
    command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    command
        .env("HOME", home.path())
        .env("LOCKMGR_DB", home.db());
    let ran = run(&mut command);
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (DONE, ""),
        "{}",
        ran.stdout
    );
    Some(ran.stdout)
}

#[test]
fn bash_completes_names() {
    let home = Home::new();
    home.json(["set", "nightly", "night-2"]);
    let script = "source <(lockmgr completions bash)\n\
        COMP_WORDS=(lockmgr find nigh) COMP_CWORD=2 COMP_TYPE=9\n\
        _clap_complete_lockmgr lockmgr nigh find\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    if let Some(said) = in_shell(&home, "bash", script) {
        let said: Vec<&str> = said.lines().map(str::trim_end).collect();
        assert_eq!(said, ["night-2", "nightly"]);
    }
}

#[test]
fn bash_completes_names_with_colons_from_the_part_that_it_replaces() {
    let home = Home::new();
    home.json(["set", "job:nightly:1", "job:nightly:2", "job:weekly"]);
    // As bash calls it: the line is broken at colons, and the last part is what it replaces.
    let script = "source <(lockmgr completions bash)\n\
        COMP_LINE='lockmgr find job:nightly:' COMP_POINT=25 COMP_TYPE=9\n\
        COMP_WORDS=(lockmgr find job : nightly :) COMP_CWORD=5\n\
        COMP_WORDBREAKS=$' \\t\\n:='\n\
        complete -p lockmgr | grep -o -- '-F _lockmgr lockmgr'\n\
        _lockmgr lockmgr '' :\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    if let Some(said) = in_shell(&home, "bash", script) {
        let said: Vec<&str> = said.lines().map(str::trim_end).collect();
        assert_eq!(said, ["-F _lockmgr lockmgr", "1", "2"]);
    }
}

#[test]
fn fish_completes_names() {
    let home = Home::new();
    home.json(["set", "nightly", "night-2"]);
    let script = "lockmgr completions fish | source; complete -C 'lockmgr find nigh'";
    if let Some(said) = in_shell(&home, "fish", script) {
        let said: Vec<&str> = said.lines().map(str::trim_end).collect();
        assert_eq!(said, ["night-2", "nightly"]);
    }
}

#[test]
fn zsh_takes_the_script() {
    let home = Home::new();
    let script = "autoload -U compinit && compinit -u -d ./dump\n\
        source <(lockmgr completions zsh)\n\
        print ${_comps[lockmgr]}";
    if let Some(said) = in_shell(&home, "zsh", script) {
        assert_eq!(said, "_clap_dynamic_completer_lockmgr\n");
    }
}
