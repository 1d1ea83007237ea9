//! Tests that the locks of `run` protect the whole job, whatever its processes do.

use crate::holding_support::{DONE, Kept, NO, until};
use crate::support::{Home, is_root, run, skip, works};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn kill(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn job_that_closes_its_descriptors_holds_while_its_command_lives() {
    if !works(&["bash", "--version"]) {
        return;
    }
    let home = Home::new();
    let manager = home.open();
    // Closes all descriptors except those that the test uses to read from it and to end it.
    let script = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; ((fd > 2)) && eval \"exec $fd>&-\"; \
        done; echo ready; read -r _";
    let mut command = home.command();
    let mut job = Kept::start_open(command.args(["run", "x", "--", "bash", "-c", script]));
    assert_eq!(job.line(), "ready");
    assert!(manager.is_locked("x").unwrap());
    assert_eq!(home.lockmgr(["run", "-n", "x", "--", "true"]).status, NO);
    job.close();
    assert_eq!(job.ended().status, NO);
    assert!(!manager.is_locked("x").unwrap());
}

#[test]
fn job_of_another_user_holds_the_lock_after_run_is_killed() {
    let user = [
        "setpriv",
        "--reuid=54322",
        "--regid=54322",
        "--clear-groups",
    ];
    if !is_root() {
        skip("only root can become another user");
        return;
    }
    if !works(&user) {
        return;
    }
    let home = Home::new();
    let manager = home.open();
    let mut command = home.command();
    command.args(["run", "x", "--"]).args(user);
    let mut job = Kept::start_open(command.args(["sh", "-c", "echo $$; exec sleep 60"]));
    let pid = job.line();
    job.kill_into_zombie();
    assert!(manager.is_locked("x").unwrap());
    let refused = home.lockmgr(["run", "-n", "x", "--", "true"]);
    assert_eq!(refused.status, NO);
    // The message does not claim that a dead process lives.
    assert!(
        refused
            .stderr
            .contains("is gone, and a process that it started"),
        "{refused:?}"
    );
    let list = home.lockmgr(["list"]);
    assert!(list.stdout.contains(" gone, its job lives"), "{list:?}");
    kill(&pid);
    until("the lock is free", || !manager.is_locked("x").unwrap());
    // Removal of the lock ends the job too.
    let mut command = home.command();
    command.args(["run", "x", "--"]).args(user);
    let mut job = Kept::start(command.args(["sh", "-c", "echo ready; exec sleep 60"]));
    assert_eq!(job.line(), "ready");
    assert_eq!(home.lockmgr(["unlock", "--force", "x"]).status, DONE);
    assert_eq!(job.ended().shell_status(), Some(143));
}

#[test]
fn lease_of_what_became_the_command_is_a_fixed_deadline() {
    let home = Home::new();
    let manager = home.open();
    let args = ["run", "-F", "--lease", "0.6", "x", "--", "cat"];
    let holder = Kept::start_open(home.command().args(args));
    until("it holds", || manager.is_locked("x").unwrap());
    let first = manager.find("x").unwrap().unwrap();
    let next = run(home
        .command()
        .args(["run", "-w", "20", "x", "--", "echo", "granted"]));
    assert_eq!((next.status, next.stdout.as_str()), (DONE, "granted\n"));
    assert_eq!(first.updated_at(), first.created_at());
    // The command goes on, and ends by itself.
    assert_eq!(holder.end().status, DONE);
    assert_eq!(home.json(["list"]).1, json!([]));
}
