//! Runs any command lines, in any surroundings. Each gives a documented exit status, one document
//! with `--json`, and no output that steers a terminal. None panics or hangs.
//!
//! The command is the release binary, built beforehand, without the fuzzer's instrumentation. Only
//! the parser of the arguments is instrumented, as it is run here as well.
//!
//! An input is text: parts that end at a NUL. The first part is the surroundings, a byte each for
//! the store, the environment and the standard output, and then the standard input. The other parts
//! are arguments. A part that is only a line feed begins another command line. A part that is one
//! byte, and no visible ASCII character, stands for one of [`WORDS`].
//!
//! No input reaches a file outside its own directory: only arguments of the list have a slash, and
//! only the commands of the list are run.

#![no_main]
#![expect(dead_code, reason = "arguments are parsed here, and not acted upon")]

#[path = "../../src/bin/lockmgr/args.rs"]
mod args;
#[path = "../../src/bin/lockmgr/asking.rs"]
mod asking;
#[path = "../../src/bin/lockmgr/duration.rs"]
mod duration;
#[path = "../../src/bin/lockmgr/run_args.rs"]
mod run_args;
#[path = "../../src/bin/lockmgr/show_args.rs"]
mod show_args;

/// Returns no completions, as no shell asks.
mod complete {
    use clap_complete::engine::CompletionCandidate;
    use std::ffi::OsStr;

    pub(crate) fn locks(_: &OsStr) -> Vec<CompletionCandidate> {
        Vec::new()
    }

    pub(crate) fn locks_and_waiters(_: &OsStr) -> Vec<CompletionCandidate> {
        Vec::new()
    }
}

use args::Cli;
use clap::Parser;
use libfuzzer_sys::fuzz_target;
use lockmgr::{GetOptions, LockManager, SetOptions, Timeout};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// The largest number of command lines of one input.
const MOST_LINES: usize = 4;

/// The bound of a command on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time that a command is watched if its arguments allow a wait.
const WAITING: Duration = Duration::from_millis(300);

/// The parts of the arguments. An entry has several words if one alone would wait for ever.
const WORDS: &[&[&str]] = &[
    &["set"],
    &["get"],
    &["renew"],
    &["unlock"],
    &["clear"],
    &["is-locked"],
    &["find"],
    &["list"],
    &["clean"],
    &["reset"],
    &["check"],
    &["queue"],
    &["run", "-n"],
    &["run", "-w", "5ms"],
    &["run", "-w0", "-E", "9"],
    &["run", "-n", "-F"],
    &["help"],
    &["__exec"],
    &["--json"],
    &["-q"],
    &["--db"],
    &["--db="],
    &["--busy-timeout"],
    &["--help"],
    &["-V"],
    &["-t"],
    &["--timeout"],
    &["-k"],
    &["-n"],
    &["-r"],
    &["-e"],
    &["--fail"],
    &["-f"],
    &["--locked-by"],
    &["--pid"],
    &["--process-id"],
    &["--while"],
    &["parent"],
    &["--lease"],
    &["-o"],
    &["-u"],
    &["-s"],
    &["-w"],
    &["--token"],
    &["--add-time"],
    &["--create"],
    &["-E"],
    &["-v"],
    &["-F"],
    &["--on-lost"],
    &["kill"],
    &["warn"],
    &["-c"],
    &["exit 5"],
    &["--"],
    &["held"],
    &["brief"],
    &["free"],
    &["bidi\u{202e}\u{2066}\"'\\"],
    &["\u{1b}[2J\u{9b}\r\n\u{7f}"],
    &["é\u{301}\u{200b}\u{feff}"],
    &[LONGEST],
    &[""],
    &["0"],
    &["1"],
    &["-1"],
    &["5ms"],
    &["0.000001"],
    &["1e-400"],
    &["1e999"],
    &["nan"],
    &["9999999999999y"],
    &["18446744073709551615"],
    &["18446744073709551616"],
    &["4294967295"],
    &["4294967296"],
    &["locks.redb"],
    &["missing/locks.redb"],
    &["locks.redb/beneath"],
    &["directory"],
    &["dangling"],
    &["garbage"],
    &["/dev/full"],
    &["."],
    &["-x"],
    &["--slots"],
    &["--slots", "2"],
    &["--take"],
    &["--any"],
    &["--any=2"],
    &["--note"],
    &["--at-least"],
];

/// A name of 255 bytes. One more character is too many.
const LONGEST: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
    nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
    nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// The programs that may run, and their possible exit statuses.
const COMMANDS: &[(&[&str], &[i32])] = &[
    (&["true"], &[0]),
    (&["false"], &[1]),
    (&["cat"], &[0, 1]),
    (&["sh", "-c", "exit 7"], &[7]),
    (&["sh", "-c", "kill -KILL $$"], &[128 + 9]),
    (&["sh", "-c", "kill -TERM $$"], &[128 + 15]),
    (&["./garbage"], &[126]),
    (&["no-such-command"], &[127]),
    (&[""], &[127]),
];

/// The statuses that the guide documents, except 70: no input may find a fault of the command.
const STATUSES: [i32; 9] = [0, 1, 2, 64, 65, 73, 74, 75, 77];

/// The kinds of errors, and their exit statuses.
const KINDS: [(&str, &[i32]); 15] = [
    ("Usage", &[64]),
    ("InvalidName", &[64]),
    ("InvalidTimeout", &[64]),
    ("Locked", &[1]),
    ("Reserved", &[1, 2]),
    ("LockFail", &[2]),
    ("LockNotFound", &[1]),
    ("Lost", &[1]),
    ("Unsupported", &[64]),
    ("SlotsMismatch", &[64]),
    ("StoreBusy", &[75]),
    ("Corrupted", &[65]),
    ("NotAStore", &[65]),
    ("Io", &[73, 74]),
    ("Permission", &[77]),
];

/// A command line, and the facts of it that decide its exit status.
struct Line {
    arguments: Vec<OsString>,
    /// The possible exit statuses of the program that it may run.
    ends: Vec<i32>,
}

impl Line {
    fn of(parts: &[&[u8]]) -> Self {
        let mut arguments: Vec<OsString> = parts.iter().flat_map(|part| words(part)).collect();
        // An input must not use the store of the host.
        arguments.retain(|argument| argument != "--system");
        let mut ends = Vec::new();
        // The program to run: all words after the separator, or after the internal verb.
        let separator = arguments.iter().position(|argument| argument == "--");
        let before = if is_exec(&arguments) {
            // The internal verb works only for `run`, its parent.
            ends.push(70);
            Some(2)
        } else {
            separator.map(|at| at + 1)
        };
        if let Some(before) = before.filter(|&before| before < arguments.len()) {
            let which = arguments[before].as_bytes().first().copied().unwrap_or(0);
            let (command, statuses) = COMMANDS[usize::from(which) % COMMANDS.len()];
            arguments.truncate(before);
            arguments.extend(command.iter().map(OsString::from));
            ends.extend(statuses);
            // The lease may expire.
            ends.extend([128 + 9, 128 + 15]);
        }
        Self { arguments, ends }
    }

    /// Returns the arguments of the command itself.
    fn options(&self) -> impl Iterator<Item = &[u8]> {
        let options = self.arguments.iter().take_while(|&it| it != "--");
        options.map(|option| option.as_bytes())
    }

    fn has(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.options().any(wanted)
    }

    fn wants_json(&self) -> bool {
        self.has(|option| option == b"--json")
    }

    /// Tells whether the command may print nothing.
    fn may_be_quiet(&self) -> bool {
        self.has(|option| {
            option == b"--quiet" || option.starts_with(b"-") && option.contains(&b'q')
        })
    }

    /// Tells whether the command line may run a program.
    fn may_run(&self) -> bool {
        self.has(|option| option == b"run" || option == b"__exec")
    }

    /// Tells whether the command may wait for longer than this target waits.
    fn may_wait(&self) -> bool {
        self.may_run() || self.has(|option| option.starts_with(b"-") && option.contains(&b'w'))
    }

    /// Tells whether the arguments may set the exit status.
    fn may_choose(&self) -> bool {
        self.may_run()
            && self.has(|option| {
                option.starts_with(b"--con") || option.starts_with(b"-") && option.contains(&b'E')
            })
    }
}

fn is_exec(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|verb| verb == "__exec")
}

/// Returns the arguments that a part of the input stands for.
fn words(part: &[u8]) -> Vec<OsString> {
    match part {
        [byte] if !byte.is_ascii_graphic() => {
            let words = WORDS[usize::from(*byte) % WORDS.len()];
            words.iter().map(OsString::from).collect()
        }
        b"__exec" => Vec::new(),
        _ => {
            let bytes = part
                .iter()
                .map(|&byte| if byte == b'/' { b'_' } else { byte });
            vec![OsString::from_vec(bytes.collect())]
        }
    }
}

/// The directory and the environment in which the commands of one input run.
struct Home {
    directory: tempfile::TempDir,
    environment: Vec<(&'static str, OsString)>,
    is_full: bool,
}

impl Home {
    /// Creates the surroundings that the first part of an input stands for.
    fn of(surroundings: &[u8]) -> Self {
        let byte = |nth: usize| surroundings.get(nth).copied().unwrap_or(0);
        let directory = tempfile::tempdir_in(memory()).expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("garbage"), "no store, and no program").expect("a file");
        fs::write(path("stdin"), surroundings.get(3..).unwrap_or_default()).expect("a file");
        fs::create_dir(path("directory")).expect("a directory");
        std::os::unix::fs::symlink("nowhere/at-all", path("dangling")).expect("a link");
        match byte(0) % 4 {
            0 => {}
            1 => fs::write(path("locks.redb"), &*STORE).expect("a store"),
            2 => {
                let mut damaged = STORE.clone();
                let at = usize::from(byte(0)) * damaged.len() / 256;
                damaged[at..]
                    .iter_mut()
                    .step_by(97)
                    .for_each(|byte| *byte ^= 1);
                fs::write(path("locks.redb"), damaged).expect("a damaged store");
            }
            _ => fs::write(path("locks.redb"), b"").expect("an empty file"),
        }
        let mut environment = vec![
            ("PATH", "/usr/bin:/bin".into()),
            // The shell of -c.
            ("SHELL", "/bin/true".into()),
        ];
        environment.extend(match byte(1) % 8 {
            0..4 => vec![("LOCKMGR_DB", "locks.redb".into())],
            4 => vec![("HOME", directory.path().into())],
            5 => vec![("HOME", path("garbage").into())],
            6 => vec![
                ("LOCKMGR_DB", "".into()),
                ("XDG_STATE_HOME", path("\u{1b}[2J\u{202e}").into()),
            ],
            _ => Vec::new(),
        });
        Self {
            directory,
            environment,
            is_full: byte(2) % 16 == 1,
        }
    }

    /// Runs the command with these arguments.
    fn run(&self, line: &Line) -> Outcome {
        let path = |name: &str| self.directory.path().join(name);
        let create = |name: &str| File::create(path(name)).expect("a file");
        let stdout = match self.is_full {
            true => File::options().write(true).open("/dev/full").expect("it"),
            false => create("stdout"),
        };
        let mut child = Command::new(&*BINARY)
            .args(&line.arguments)
            .current_dir(&self.directory)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::from(File::open(path("stdin")).expect("a file")))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(create("stderr")))
            .spawn()
            .expect("the command");
        let status = ended(&mut child, line.may_wait());
        Outcome {
            status,
            stdout: match self.is_full {
                true => Vec::new(),
                false => fs::read(path("stdout")).expect("what it printed"),
            },
            stderr: fs::read(path("stderr")).expect("its errors"),
        }
    }
}

struct Outcome {
    /// The exit status. None if the command waited as its arguments asked.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn ended(child: &mut Child, may_wait: bool) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        if began.elapsed() > if may_wait { WAITING } else { PATIENCE } {
            let _ = child.kill();
            let _ = child.wait();
            assert!(may_wait, "it hangs");
            return None;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Creates a store of a few locks.
static STORE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir_in(memory()).expect("a directory");
    let path = directory.path().join("locks.redb");
    let manager = LockManager::open(&path).expect("a new store");
    let forever = || SetOptions::new().timeout(Timeout::Never);
    let named = ["held", "bidi\u{202e}\u{2066}\"'\\", LONGEST];
    let by = forever().locked_by("é\u{301}\u{200b}\u{feff}\u{202e}");
    manager.set_lock(named, by).expect("locks");
    let noted = GetOptions::new().process_id(u32::MAX);
    manager.get_lock("brief", noted).expect("a lock");
    drop(manager);
    fs::read(&path).expect("the store's bytes")
});

/// Returns the path of the command: `LOCKMGR_BIN`, else the one of `cargo build --release`.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = || {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        project.join(target).join("release/lockmgr")
    };
    let path = std::env::var_os("LOCKMGR_BIN").map_or_else(built, PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| {
        let path = path.display();
        eprintln!("{path}: {error}\nrun `cargo build --release` first, or set LOCKMGR_BIN");
        std::process::exit(1)
    })
});

/// Returns a directory in memory, if there is one.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.split(|&byte| byte == 0);
    let home = Home::of(parts.next().unwrap_or_default());
    let parts: Vec<&[u8]> = parts.collect();
    for parts in parts.split(|&part| part == b"\n").take(MOST_LINES) {
        let line = Line::of(parts);
        let asks = parse(&line.arguments);
        let outcome = home.run(&line);
        check(&line, asks, &outcome, home.is_full).unwrap_or_else(|wrong| {
            let Outcome {
                status,
                stdout,
                stderr,
            } = &outcome;
            let (out, err) = (OsStr::from_bytes(stdout), OsStr::from_bytes(stderr));
            let (arguments, environment) = (&line.arguments, &home.environment);
            panic!("{wrong}: {arguments:?} in {environment:?}: {status:?}\n{out:?}\n{err:?}");
        });
    }
});

/// Classifies a command line by the result of the parser.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Right,
    Wrong,
    ForHelp,
}

fn parse(arguments: &[OsString]) -> Asks {
    if is_exec(arguments) {
        return Asks::Right;
    }
    let all = [OsStr::new("lockmgr")].into_iter();
    let all = all.chain(arguments.iter().map(OsString::as_os_str));
    match Cli::try_parse_from(all) {
        Ok(cli) if duration::span(&cli.busy_timeout).is_ok() => Asks::Right,
        Err(error) if !error.use_stderr() => Asks::ForHelp,
        _ => Asks::Wrong,
    }
}

fn check(line: &Line, asks: Asks, outcome: &Outcome, is_full: bool) -> Result<(), &'static str> {
    let Some(status) = outcome.status else {
        return Ok(());
    };
    // A process that became a program ends as the program does.
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    let code = code.ok_or("it ended somehow")?;
    let stderr = str::from_utf8(&outcome.stderr).map_err(|_| "errors that are not UTF-8")?;
    // SIGTERM, then SIGKILL, ends the program if the lease expires before the program ends.
    let was_ended = stderr.contains("ending the command") && matches!(code, 143 | 137);
    let is_documented =
        STATUSES.contains(&code) || line.may_run() && (was_ended || line.ends.contains(&code));
    if !is_documented && !line.may_choose() {
        return Err("an undocumented exit status");
    }
    let expected = match asks {
        Asks::Right => code,
        Asks::Wrong => 64,
        Asks::ForHelp => 0,
    };
    if code != expected && !(is_full && code == 74) {
        return Err("not the exit status of wrong usage, or of help");
    }
    let stdout = str::from_utf8(&outcome.stdout);
    if stderr.contains("panicked") || stderr.contains("please report it") {
        return Err("a panic");
    }
    let steers = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    if stderr.contains(steers) {
        return Err("errors that steer a terminal");
    }
    // A program that was run may print anything.
    if line.may_run() || is_full {
        return Ok(());
    }
    let stdout = stdout.map_err(|_| "output that is not UTF-8")?;
    if !line.wants_json() || asks == Asks::ForHelp {
        return match stdout.contains(steers) {
            true => Err("output that steers a terminal"),
            false => Ok(()),
        };
    }
    if stdout.is_empty() && line.may_be_quiet() {
        return Ok(());
    }
    let document: Value = serde_json::from_str(stdout).map_err(|_| "no JSON document")?;
    let Some(error) = document.get("error") else {
        return match code {
            0 | 1 => Ok(()),
            _ => Err("no error, and an exit status of one"),
        };
    };
    let kind = error["kind"].as_str().unwrap_or_default();
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    let (_, statuses) = known.ok_or("an error of an undocumented kind")?;
    match statuses.contains(&code) {
        true => Ok(()),
        false => Err("an exit status that does not go with the error's kind"),
    }
}
