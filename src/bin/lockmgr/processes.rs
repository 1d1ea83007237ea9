//! Reads facts about processes from /proc, if /proc is mounted.

use lockmgr::{Bound, BoundTo, Lock, Printable};
use rustix::process::Pid;
use std::{fs, process};

/// The length to which a command line is cut.
const SHOWN: usize = 100;

/// Tells whether /proc is mounted. A chroot may lack it.
pub(crate) fn is_proc_there() -> bool {
    cfg!(not(target_os = "linux")) || fs::symlink_metadata("/proc/self").is_ok()
}

/// Tells whether /proc is mounted and has the process numbers of this process's pid namespace. In a
/// new pid namespace, /proc may still be that of another one, with other numbers.
fn is_of_this_namespace() -> bool {
    let this = fs::read_link("/proc/self");
    this.is_ok_and(|this| this.to_str() == Some(&process::id().to_string()))
}

/// Describes the program of a lock's holder: `process 4242 runs "sleep 60"`. Returns `None` unless
/// the lock is bound to the process and its number means the same in this namespace.
pub(crate) fn holder_of(lock: &Lock) -> Option<String> {
    let pid = alive_here(lock)?;
    if has_left_its_job(lock) {
        return Some(format!(
            "process {pid} is gone, and a process that it started holds the lock"
        ));
    }
    Some(format!("process {pid} runs \"{}\"", program(pid)?))
}

/// Tells whether the process that took a lock for its job is gone, and others of the job live.
pub(crate) fn has_left_its_job(lock: &Lock) -> bool {
    let is_job = lock.bound_to().is_some_and(|it| it.kind() == Bound::Job);
    let is_gone = |pid: u32| is_zombie(pid) || fs::metadata(format!("/proc/{pid}")).is_err();
    is_job && is_of_this_namespace() && alive_here(lock).is_some_and(is_gone)
}

/// Returns the process that a lock is bound to, if it lives and its number means the same here.
pub(crate) fn alive_here(lock: &Lock) -> Option<u32> {
    let is_known = |it: &BoundTo| it.is_alive() == Some(true) && it.is_here();
    Some(lock.bound_to().filter(is_known)?.process_id())
}

/// Returns the command line of a process, shortened.
pub(crate) fn program(pid: u32) -> Option<String> {
    if !is_of_this_namespace() {
        return None;
    }
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = words
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    // A zombie and a kernel thread have no command line.
    let (program, arguments) = words.split_first()?;
    let program = program.rsplit('/').next().unwrap_or(program);
    let line = [&[program.into()], arguments].concat().join(" ");
    let shown: String = line.chars().take(SHOWN).collect();
    let dots = if shown.len() < line.len() { "…" } else { "" };
    Some(format!("{}{dots}", Printable(&shown)))
}

/// The parent, group and session of a process. A number is 0 if it is from outside the pid
/// namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kin {
    pub(crate) pid: i32,
    /// The process that started this one or has inherited it.
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
}

/// Looks up the kin of a process of this namespace in /proc. The system calls are no alternative:
/// their wrappers treat a group outside the namespace as impossible.
pub(crate) fn kin(pid: Pid) -> Option<Kin> {
    is_of_this_namespace()
        .then(|| read_kin(pid.as_raw_nonzero().get()))
        .flatten()
}

/// Tells whether this process has ended, and its parent has not yet reaped it.
pub(crate) fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
    is_of_this_namespace() && state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// Returns the children of this process.
pub(crate) fn children() -> Vec<i32> {
    let this = process::id();
    let children = fs::read_to_string(format!("/proc/self/task/{this}/children"));
    match children {
        _ if !is_of_this_namespace() => Vec::new(),
        Ok(children) => {
            let children = children.split_ascii_whitespace();
            children.filter_map(|pid| pid.parse().ok()).collect()
        }
        // Some kernels do not keep the list of children.
        Err(_) => {
            let children = all()
                .into_iter()
                .filter(|child| child.parent == this.cast_signed());
            children.map(|child| child.pid).collect()
        }
    }
}

/// Returns the processes that descend from this one, except these children and their descendants.
/// Returns none if /proc is not mounted.
pub(crate) fn descendants(but: &[i32]) -> Vec<Kin> {
    if !is_of_this_namespace() {
        return Vec::new();
    }
    let all = all();
    let mut parents = vec![process::id().cast_signed()];
    let mut found: Vec<Kin> = Vec::new();
    while let Some(parent) = parents.pop() {
        let is_child = |process: &&Kin| process.parent == parent && !but.contains(&process.pid);
        let children: Vec<Kin> = all.iter().filter(is_child).copied().collect();
        parents.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    found
}

fn all() -> Vec<Kin> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| read_kin(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Reads a process's `stat`. Its second field, the program's name in parentheses, may contain any
/// character.
fn read_kin(pid: i32) -> Option<Kin> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let mut field = || fields.next()?.parse().ok();
    Some(Kin {
        pid,
        parent: field()?,
        group: field()?,
        session: field()?,
    })
}

/// Returns the signals that the caller set to be ignored, as nohup does. Without /proc the answer
/// is that none is ignored.
pub(crate) fn ignored_signals() -> impl Fn(i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    move |signal| mask >> (signal - 1) & 1 == 1
}
