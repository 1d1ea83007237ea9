//! Implements `lockmgr doctor`: reports the store's place, permissions and integrity, and advises.

use crate::columns::labelled;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::mounts::{is_of_network, type_of};
use crate::place::{Place, shown};
use crate::terminal::Screen;
use lockmgr::{ErrorKind, Report};
use serde_json::{Value, json};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A problem that was found.
#[derive(Debug)]
struct Problem {
    kind: &'static str,
    code: ExitCode,
    message: String,
}

/// The findings, printed for people in this order.
#[derive(Debug)]
struct Findings {
    path: PathBuf,
    file_system: Option<String>,
    file: Option<Metadata>,
    report: Option<Report>,
    problems: Vec<Problem>,
    advice: Vec<String>,
    /// Tells whether commands create the directory of the store.
    is_directory_made: bool,
}

const NOT_YET: &str =
    "nothing: there is no store yet, the first command that takes a lock creates it";

impl Place {
    pub(crate) fn doctor(&self) -> Result<ExitCode, Failure> {
        let found = self.examine();
        let code = found.problems.first().map(|problem| problem.code);
        self.print(&found.document(), || found.lines())?;
        Ok(code.unwrap_or(ExitCode::Success))
    }

    fn examine(&self) -> Findings {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let above = path.ancestors().find(|path| path.exists());
        let mut found = Findings {
            file_system: above.and_then(type_of),
            file: fs::metadata(&path).ok(),
            report: None,
            problems: Vec::new(),
            advice: Vec::new(),
            is_directory_made: self.is_default(),
            path,
        };
        match self.to_read().and_then(|manager| Ok(manager.inspect()?)) {
            Ok(report) => found.report = Some(report),
            Err(failure) => {
                let failure = failure.at(self);
                let (kind, code) = failure.kind();
                found.problem(kind, code, failure.message());
            }
        }
        found.look_at_the_place();
        found.look_at_the_rows();
        found
    }
}

impl Findings {
    fn problem(&mut self, kind: &'static str, code: ExitCode, message: String) {
        if kind == ErrorKind::Corrupted.as_str() {
            let advice = "stop its users, move the file away, and let them begin a new store: \
                its locks and tokens are lost";
            self.advice.push(advice.into());
        }
        if kind == ErrorKind::NotAStore.as_str() {
            let advice = "is this the file that you meant? see --db and LOCKMGR_DB";
            self.advice.push(advice.into());
        }
        self.problems.push(Problem {
            kind,
            code,
            message,
        });
    }

    fn look_at_the_place(&mut self) {
        if let Some(kind) = self.file_system.clone().filter(|it| is_of_network(it)) {
            let message = format!(
                "the store is on a network file system ({kind}): hosts do not see each other's \
                    locks, and may damage the store; keep the store on a disk of this host"
            );
            self.problem(ErrorKind::Unsupported.as_str(), ExitCode::Usage, message);
        }
        let directory = self.path.parent().unwrap_or(&self.path);
        match (&self.file, fs::metadata(directory)) {
            (None, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                let missing = shown(directory);
                self.advice.push(match self.is_directory_made {
                    true => NOT_YET.into(),
                    false => format!(
                        "the directory {missing} does not exist: `mkdir -p {missing}`, or name \
                            another store"
                    ),
                });
            }
            (None, Ok(_)) => self.advice.push(NOT_YET.into()),
            // The kind and the permissions of a file matter only if it is a store.
            (Some(_), _) if self.report.is_none() => {}
            (Some(file), Ok(directory)) => {
                if file.mode() & 0o006 != 0 {
                    self.advice.push(format!(
                        "every user can {}: `chmod o= {}`",
                        if file.mode() & 0o002 != 0 {
                            "write to the store, and take and break every lock"
                        } else {
                            "read the store, and keep others from writing to it"
                        },
                        shown(&self.path)
                    ));
                }
                let is_sticky = directory.mode() & 0o1000 != 0;
                if directory.mode() & 0o002 != 0 && !is_sticky {
                    self.advice.push(
                        "every user can replace the store: its directory is writable to all".into(),
                    );
                }
            }
            _ => {}
        }
    }

    fn look_at_the_rows(&mut self) {
        let Some(report) = &self.report else { return };
        let left = report.expired() + report.dead().len();
        if left > 1_000 && left > report.live() {
            self.advice.push(format!(
                "{left} rows of ended locks take space: `lockmgr clean` reclaims it"
            ));
        }
    }

    fn document(&self) -> Value {
        let file = self.file.as_ref();
        let report = self.report.as_ref();
        let problems = self.problems.iter();
        let problem = |it: &Problem| json!({ "kind": it.kind, "message": it.message });
        json!({
            "ok": self.problems.is_empty(),
            "path": self.path.to_string_lossy(),
            "exists": file.is_some(),
            "file_system": self.file_system,
            "owner": file.map(|it| it.uid()),
            "group": file.map(|it| it.gid()),
            "mode": file.map(|it| format!("{:04o}", it.mode() & 0o7777)),
            "size": file.map(Metadata::len),
            "format": report.and_then(Report::format),
            "locks": report.map(Report::live),
            "expired": report.map(Report::expired),
            "dead": report.map(|it| it.dead().len()),
            "waiting": report.map(Report::waiting),
            "dead_requests": report.map(Report::dead_requests),
            "problems": problems.map(problem).collect::<Vec<_>>(),
            "advice": self.advice,
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let screen = Screen::of_stdout();
        let mut say = |what: &str, is: String| lines.push(labelled(what, 12, &is, screen));
        say("store", shown(&self.path));
        let unknown = || "unknown".to_owned();
        say(
            "file system",
            self.file_system.clone().unwrap_or_else(unknown),
        );
        match &self.file {
            None => say("file", "missing".into()),
            Some(file) => {
                let (user, group) = (
                    name_in("/etc/passwd", file.uid()),
                    name_in("/etc/group", file.gid()),
                );
                let mode = file.mode() & 0o7777;
                say("owner", format!("{user}:{group}, mode {mode:04o}"));
                say("used by", users(mode, &user, &group));
                say("size", format!("{} bytes", file.len()));
            }
        }
        if let Some(report) = &self.report {
            if let Some(format) = report.format() {
                say("format", format.to_string());
            }
            let (expired, dead) = (report.expired(), report.dead().len());
            let left = format!("{expired} expired and {dead} dead rows");
            say("locks", format!("{}, {left}", report.live()));
            let dead = report.dead_requests();
            say("waiting", format!("{}, {dead} dead rows", report.waiting()));
            if self.file.is_some() {
                say("integrity", "every row is whole and in its place".into());
            }
        }
        for problem in &self.problems {
            say("problem", problem.message.clone());
        }
        for advice in &self.advice {
            say("to do", advice.clone());
        }
        if self.problems.is_empty() && self.advice.is_empty() {
            say("to do", "nothing, all is well".into());
        }
        lines
    }
}

/// Names the users who may write to a file of this mode.
fn users(mode: u32, user: &str, group: &str) -> String {
    let mut users = vec!["root".to_owned()];
    if mode & 0o600 == 0o600 && user != "root" {
        users.push(format!("user {user}"));
    }
    if mode & 0o060 == 0o060 {
        users.push(format!("group {group}"));
    }
    if mode & 0o006 == 0o006 {
        users.push("every user".into());
    }
    users.join(", ")
}

/// Returns the name of a user or group, or its number if it has no name.
fn name_in(table: &str, id: u32) -> String {
    let table = fs::read_to_string(table).unwrap_or_default();
    let number = id.to_string();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| shown(Path::new(name)))
    });
    name.unwrap_or(number)
}
