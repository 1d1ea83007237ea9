//! Tests the manual pages: each command has one, and man(1) shows it.

use crate::holding_support::DONE;
use crate::support::{Home, run, works};
use std::fs;
use std::process::Command;

#[test]
fn every_command_of_the_help_has_a_page_that_man_shows() {
    let home = Home::new();
    let pages = home.join("share/man/man1");
    assert_eq!(
        home.lockmgr(["man".as_ref(), pages.as_os_str()]).status,
        DONE
    );
    let help = home.lockmgr(["--help"]).stdout;
    let commands = help.split_once("Commands:\n").unwrap().1;
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut count = 0;
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        let page = pages.join(format!("lockmgr-{name}.1"));
        let source = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(source.starts_with(".ie"), "{name}: {source}");
        count += 1;
    }
    assert!(count > 10, "{help}");
    if !works(&["man", "--version"]) {
        return;
    }
    let mut man = Command::new("man");
    let page = pages.join("lockmgr-run.1");
    let shown = run(man
        .args(["--warnings", "-l"])
        .arg(page)
        .env("MANWIDTH", "80"));
    assert_eq!((shown.status, shown.stderr.as_str()), (DONE, ""));
    for said in ["--nonblock", "--at-least", "LOCKMGR_TOKENS", "Exit status"] {
        assert!(shown.stdout.contains(said), "{said}: {}", shown.stdout);
    }
}

#[test]
fn pages_of_the_guide_stand_in_section_7_and_are_sound() {
    let home = Home::new();
    let elsewhere = home.join("pages");
    for directory in [&home.join("share/man/man1"), &elsewhere] {
        let ran = home.lockmgr(["man".as_ref(), directory.as_os_str()]);
        assert_eq!(ran.status, DONE);
    }
    for (name, said) in [
        (
            "lockmgr-guide",
            ["Choose a verb", "SlotsMismatch", "django-lockmgr"],
        ),
        (
            "lockmgr-recipes",
            ["crontab of ann's", "KillMode=mixed", "# as root, once"],
        ),
    ] {
        let page = home.join(&format!("share/man/man7/{name}.7"));
        let source = fs::read_to_string(&page).unwrap();
        let beside = fs::read_to_string(elsewhere.join(format!("{name}.7"))).unwrap();
        assert_eq!(source, beside);
        if !works(&["man", "--version"]) {
            continue;
        }
        let mut man = Command::new("man");
        man.args(["--warnings", "-l"]).arg(page);
        let shown = run(man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8"));
        assert_eq!((shown.status, shown.stderr.as_str()), (DONE, ""), "{name}");
        for said in said {
            assert!(shown.stdout.contains(said), "{said}: {}", shown.stdout);
        }
        for hidden in ["tempfile", "Ok::<", "crate::", "```"] {
            assert!(!shown.stdout.contains(hidden), "{hidden}: {}", shown.stdout);
        }
        // In an ASCII terminal, man breaks lines before the 80th column.
        let is_narrow = |line: &str| line.chars().count() < 80;
        assert!(shown.stdout.lines().all(is_narrow), "{}", shown.stdout);
    }
    // man(1) finds the pages by their names.
    if works(&["man", "--version"]) {
        let mut man = Command::new("man");
        man.args(["-w", "lockmgr-recipes"])
            .env("MANPATH", home.join("share/man"));
        let found = run(&mut man).stdout;
        assert!(
            found.trim_end().ends_with("man7/lockmgr-recipes.7"),
            "{found}"
        );
    }
}

#[test]
fn directory_of_the_pages_that_cannot_be_made_is_named() {
    let home = Home::new();
    fs::write(home.join("file"), "").unwrap();
    let ran = home.lockmgr(["man".as_ref(), home.join("file/man1").as_os_str()]);
    assert_eq!(ran.status, Some(73));
    assert!(ran.stderr.contains("file/man1"), "{}", ran.stderr);
}
