//! Runs the text that the guide and the README tell people to type, word for word: recipes, console
//! sessions, and the library example in its own package.

use crate::support::{Home, Ran, is_root, run, skip, works};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The chapters of the guide that have recipes, in the order in which these run.
const GUIDE: [&str; 6] = [
    include_str!("../../src/guide/choosing.md"),
    include_str!("../../src/guide/kinds.md"),
    include_str!("../../src/guide/fencing.md"),
    include_str!("../../src/guide/sem.md"),
    include_str!("../../src/guide/sqlite.md"),
    include_str!("../../src/guide/recipes.md"),
];
const README: &str = include_str!("../../README.md");
const THIS: &str = env!("CARGO_BIN_EXE_lockmgr");

/// Returns the blocks of code of a text, each with its language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut block: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut block) {
            (Some(language), None) => block = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (None, Some((_, code))) => *code += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(block.is_none(), "a block has no end");
    blocks
}

/// A recipe of the guide, by the user and the program that it is for.
#[derive(Debug)]
enum Recipe {
    /// A script that root runs once.
    Setup(String),
    /// A script for any user.
    Script(String),
    Crontab(String),
    Unit(String),
}

fn recipes() -> Vec<Recipe> {
    let blocks = blocks(&GUIDE.join("\n")).into_iter();
    let recipes = blocks.filter_map(|(language, code)| match language.as_str() {
        "sh" if code.starts_with("# as root") => Some(Recipe::Setup(code)),
        "sh" => Some(Recipe::Script(code)),
        "text" if code.starts_with("[Service]") => Some(Recipe::Unit(code)),
        "text" => Some(Recipe::Crontab(code)),
        "" | "sql" => None,
        other => panic!("nothing tries a block of {other}"),
    });
    recipes.collect()
}

/// Quotes a word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the shell command that cron runs: the settings, and the words after the five fields.
fn by_cron(crontab: &str) -> String {
    let lines: Vec<&str> = crontab.lines().collect();
    let (job, settings) = lines.split_last().unwrap();
    let command = job.strip_prefix("*/5 * * * *  ").unwrap();
    let settings = settings.iter().map(|setting| quoted(setting));
    let settings: Vec<String> = settings.collect();
    let (settings, command) = (settings.join(" "), quoted(command));
    format!("env -i SHELL=/bin/sh HOME=\"$HOME\" {settings} /bin/sh -c {command}\n")
}

/// Returns the shell command that systemd runs for a service.
fn by_systemd(unit: &str) -> String {
    let (mut settings, mut command) = (String::new(), None);
    let unit = unit.replace("\\\n", " ");
    for line in unit.lines() {
        match line.split_once('=') {
            Some(("Environment", setting)) => settings += &(quoted(setting) + " "),
            Some(("ExecStart", words)) => command = Some(words),
            Some(("Type", "oneshot") | ("KillMode", "mixed")) => {}
            None if line == "[Service]" => {}
            _ => panic!("nothing tries {line}"),
        }
    }
    format!("env -i {settings} {}\n", command.unwrap())
}

/// The output of the guide's scripts, for any user.
const SAID_BY_SCRIPTS: &str = "the second one succeeds too\ncompiled\na large job\na small job\na job\na benchmark, and no job beside it\n\
    trains on 0\nread\nwritten\nchecked\nconverts a file\nconverts a file\nconverts a file\nnobody else deploys now\n\
    others may deploy again\n\
    both are mine\n\
    reported\n\
    made\n\
    deployed\n\
    importing\n";

fn scripts() -> String {
    let scripts = recipes().into_iter().filter_map(|recipe| match recipe {
        Recipe::Script(script) => Some(format!("sh -c {}\n", quoted(&script))),
        _ => None,
    });
    scripts.collect()
}

/// Sets up a mount namespace as a fresh machine. The files of the host stay unchanged.
fn fresh_machine(home: &Home) -> String {
    let here = home.path().display();
    format!(
        "set -eu\n\
        mount -t tmpfs tmpfs /var/lib\n\
        mount -t tmpfs -o mode=755 tmpfs /usr/local/bin\n\
        cp -a /etc '{here}/etc'\n\
        mount --bind '{here}/etc' /etc\n\
        sed -i '/^lockmgr:/d; /^ann:/d' /etc/group /etc/passwd\n\
        mkdir '{here}/root'\n\
        touch /usr/local/bin/lockmgr\n\
        mount --bind '{THIS}' /usr/local/bin/lockmgr\n\
        printf '#!/bin/sh\\necho report in $LOCKMGR_DB\\n' > /usr/local/bin/report\n\
        printf '#!/bin/sh\\necho vacuum in $LOCKMGR_DB\\n' > /usr/local/bin/vacuum\n\
        chmod 755 /usr/local/bin/*\n\
        useradd --user-group --create-home --home-dir '{here}/ann' ann\n\
        export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME='{here}/root'\n\
        ann() {{\n\
            HOME='{here}/ann' setpriv --reuid=ann --regid=ann --init-groups sh -eu -c \"$1\"\n\
        }}\n\
        unset LOCKMGR_DB\n\
        umask 022\n"
    )
}

#[test]
fn recipes_of_the_guide_work_on_a_fresh_machine_whoever_comes_first() {
    if !is_root() {
        skip("only root can make a mount namespace with users of its own");
        return;
    }
    if !works(&["unshare", "--mount"]) || !works(&["useradd", "--help"]) {
        return;
    }
    let (mut setup, mut crons, mut units) = (Vec::new(), Vec::new(), Vec::new());
    for recipe in recipes() {
        match recipe {
            Recipe::Setup(script) => setup.push(script),
            Recipe::Crontab(crontab) => crons.push(format!("ann {}\n", quoted(&by_cron(&crontab)))),
            Recipe::Unit(unit) => units.push(by_systemd(&unit)),
            Recipe::Script(_) => {}
        }
    }
    assert_eq!((setup.len(), crons.len(), units.len()), (1, 1, 1));
    let report = "report in /var/lib/lockmgr/locks.redb\n";
    let vacuum = "vacuum in /var/lib/lockmgr/locks.redb\n";
    for (jobs, said) in [
        ([&crons[0], &units[0]], [report, vacuum]),
        ([&units[0], &crons[0]], [vacuum, report]),
    ] {
        let home = Home::new();
        let scripts = scripts();
        let by_ann = format!("ann {}\n", quoted(&scripts));
        // Runs the jobs twice: the second time with the store that the first run created.
        let jobs = jobs.map(String::as_str).concat().repeat(2);
        let machine = [
            fresh_machine(&home),
            setup[0].clone(),
            jobs,
            scripts,
            by_ann,
        ];
        let path = home.join("machine");
        fs::write(&path, machine.concat()).unwrap();
        let mut machine = Command::new("unshare");
        machine.args(["--mount", "sh"]).arg(path);
        // A fresh machine has none of the caller's settings.
        for variable in ["XDG_STATE_HOME", "LOCKMGR_DB"] {
            machine.env_remove(variable);
        }
        let ran = run(&mut machine);
        let expected = [said.concat(), said.concat()].concat() + SAID_BY_SCRIPTS + SAID_BY_SCRIPTS;
        assert_eq!(
            (ran.status, ran.stdout),
            (Some(0), expected),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stderr, "");
    }
}

/// Runs a script as this user, in a home and with a `PATH` that has the command.
fn in_home(home: &Home, shell: &str, script: &str) -> Ran {
    let programs = home.join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(THIS, programs.join("lockmgr")).unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut command = Command::new(shell);
    command.args(["-c", script]).env_clear();
    run(command.env("PATH", path).env("HOME", home.path()))
}

#[test]
fn scripts_of_the_guide_work_for_any_user() {
    let ran = in_home(&Home::new(), "sh", &scripts());
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (Some(0), SAID_BY_SCRIPTS)
    );
    assert_eq!(ran.stderr, "");
}

/// Returns the commands of the README's console sessions, each with its output.
fn sessions() -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for (language, code) in blocks(README) {
        if language != "console" {
            continue;
        }
        for line in code.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push((command.to_owned(), String::new())),
                None => steps.last_mut().unwrap().1 += &format!("{line}\n"),
            }
        }
    }
    steps
}

/// Returns a text without the parts that differ from run to run: times, processes, hosts, places
/// and the width of columns.
fn normalised(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split_inclusive([' ', '\n', '(', ')', ';', ',']) {
        let bare = word.trim_end_matches([' ', '\n', '(', ')', ';', ':', ',']);
        let rest = &word[bare.len()..];
        let is_of = |text: &str, also: char| {
            let mut chars = text.chars();
            !text.is_empty() && chars.all(|c| c.is_ascii_digit() || c == also)
        };
        let is_instant = bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z');
        let is_age = bare.strip_suffix('s').is_some_and(|age| is_of(age, '.'));
        let is_number = bare.len() > 1 && is_of(bare, '0');
        words.push(match bare {
            _ if is_instant => format!("INSTANT{rest}"),
            _ if is_age => format!("AGE{rest}"),
            _ if is_number => format!("NUMBER{rest}"),
            _ if bare.ends_with("locks.redb") => format!("STORE{rest}"),
            _ => word.to_owned(),
        });
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let text = words.concat();
    let lines = text.lines().map(|line| {
        let words = line.split_ascii_whitespace();
        let words = words.map(|word| if word == host.trim() { "vm" } else { word });
        words.collect::<Vec<_>>().join(" ")
    });
    lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn console_sessions_of_the_readme_print_what_it_shows() {
    if !works(&["bash", "--version"]) {
        return;
    }
    let steps = sessions();
    assert!(steps.len() > 4);
    let mut script = "exec 2>&1\n".to_owned();
    for (command, _) in &steps {
        script += &format!("{command}\n");
        if command.contains(" & ") {
            script += "until lockmgr -q is-locked nightly; do sleep 0.01; done\n";
        }
        script += "echo ---\n";
    }
    script += "kill %1; wait\n";
    let home = Home::new();
    fs::write(home.join("session"), script).unwrap();
    // As at a terminal, the shell is `bash` without arguments.
    let ran = in_home(&home, "bash", "exec bash < ~/session");
    let said: Vec<&str> = ran.stdout.split("---\n").collect();
    assert_eq!(said.len(), steps.len() + 1, "{ran:?}");
    for ((command, shown), said) in steps.iter().zip(said) {
        assert_eq!(normalised(said), normalised(shown), "{command}");
    }
}

/// Runs each command of the README, in order.
#[test]
fn blocks_of_the_readme_are_those_that_tests_run() {
    let blocks = blocks(README);
    let languages: Vec<&str> = blocks.iter().map(|block| block.0.as_str()).collect();
    // The second command runs all tests, including this one.
    assert_eq!(languages, ["sh", "sh", "console", "toml", "rust"]);
    assert_eq!(blocks[1].1, "cargo test --all-features\n");
}

#[test]
fn python_of_the_guide_holds_locks_for_a_block() {
    if !works(&["python3", "--version"]) {
        return;
    }
    let chapter = include_str!("../../src/guide/django_lockmgr.md");
    let blocks = blocks(chapter).into_iter();
    let python = blocks.filter(|(language, _)| language == "python");
    let python: Vec<String> = python.map(|(_, code)| code).collect();
    assert_eq!(python.len(), 2);
    let home = Home::new();
    fs::write(home.join("program.py"), python.join("\n\n")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!("PATH=\"$PATH\":{} python3 ~/program.py", quoted(&path));
    let ran = in_home(&home, "sh", &script);
    let said = "holds invoices\ntaken: invoices\nfree: True\n";
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (said, ""));
    assert_eq!(ran.status, Some(0));
}

#[test]
fn first_command_of_the_readme_runs() {
    let blocks = blocks(README);
    let command = blocks.iter().find(|(language, _)| language == "sh");
    let words = command
        .unwrap()
        .1
        .strip_prefix("cargo run --release -- ")
        .unwrap();
    let ran = in_home(&Home::new(), "sh", &format!("lockmgr {words}"));
    assert_eq!(ran.stdout, "nobody else holds hello now\n");
    assert_eq!(ran.status, Some(0));
}

#[test]
fn library_example_of_the_readme_compiles_in_a_new_package() {
    if !works(&[env!("CARGO"), "--version"]) {
        return;
    }
    let blocks = blocks(README);
    let of = |language: &str| &blocks.iter().find(|block| block.0 == language).unwrap().1;
    let home = Home::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    symlink(root, home.join("lockmgr")).unwrap();
    let package = home.join("my-app");
    fs::create_dir_all(package.join("src")).unwrap();
    let manifest = "[package]\nname = \"my-app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
    fs::write(package.join("Cargo.toml"), manifest.to_owned() + of("toml")).unwrap();
    fs::write(package.join("src/main.rs"), of("rust")).unwrap();
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["check", "--offline", "--quiet"])
        .current_dir(&package);
    cargo.env(
        "CARGO_TARGET_DIR",
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("my-app"),
    );
    // The build compiles the dependencies, which takes long.
    let output = cargo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
}
