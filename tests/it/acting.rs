//! Helper: processes that hold or wait by the library, in their own namespaces if a test asks for
//! that. Each is this test binary, started again for one ignored test.

use crate::holding_support::Kept;
use crate::support::Home;
use lockmgr::LockManager;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;

const STORE: &str = "LOCKMGR_TEST_ACT_STORE";
const NAMES: &str = "LOCKMGR_TEST_ACT_NAMES";
const EXECUTES: &str = "LOCKMGR_TEST_ACT_EXECUTES";

/// Starts a process that waits for these locks, prints "held", and holds them until its input ends.
/// The wrapper is a program that starts other programs.
pub(crate) fn actor(home: &Home, wrapper: &[String], names: &str) -> Kept {
    Kept::start_open(&mut command(home, wrapper, names))
}

/// An actor that executes another program when its input ends: `sleep`.
pub(crate) fn executing(home: &Home, names: &str) -> Kept {
    Kept::start_open(command(home, &[], names).env(EXECUTES, "yes"))
}

fn command(home: &Home, wrapper: &[String], names: &str) -> Command {
    let me = std::env::current_exe().unwrap();
    let words = wrapper.iter().map(String::as_str).chain([
        me.to_str().unwrap(),
        "--exact",
        "--ignored",
        "--nocapture",
        "acting::acts",
    ]);
    let words: Vec<&str> = words.collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.env(STORE, home.db()).env(NAMES, names);
    command
}

impl Kept {
    /// Returns once the actor holds its locks.
    pub(crate) fn until_held(&mut self) {
        loop {
            let line = self.line();
            if line == "held" {
                return;
            }
            let is_over = line.contains("test result") || line.contains("FAILED");
            assert!(
                !is_over && self.child().try_wait().unwrap().is_none(),
                "{line}"
            );
        }
    }
}

#[test]
#[ignore = "the processes of other tests"]
fn acts() {
    let (Ok(store), Ok(names)) = (std::env::var(STORE), std::env::var(NAMES)) else {
        return;
    };
    let manager = LockManager::open(store).unwrap();
    let guard = manager.acquire(names.split(' ')).lock().unwrap();
    println!("\nheld");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    if std::env::var_os(EXECUTES).is_some() {
        let error = Command::new("sleep").arg("600").exec();
        panic!("{error}");
    }
    guard.release().unwrap();
}
