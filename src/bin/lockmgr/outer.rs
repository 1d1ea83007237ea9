//! The locks of the jobs around this process: of every `lockmgr run` that it descends from, as the
//! environment tells.
//!
//! The environment only claims. A lock counts while the store says that its token still holds it.

use crate::given_back;
use crate::place::Place;
use lockmgr::{Lock, LockManager, LockName};
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Variables for the command: the store, and one name and one token a line.
const DB: &str = "LOCKMGR_DB";
const NAMES: &str = "LOCKMGR_NAMES";
const TOKENS: &str = "LOCKMGR_TOKENS";

/// The file that the names and tokens are of. A script may name another one in `LOCKMGR_DB`, which
/// may have the same name with the same token.
const STORE: &str = "LOCKMGR_STORE";

/// The locks of the jobs further out: one `STORE TOKEN NAME` a line.
const OUTER: &str = "LOCKMGR_OUTER";

/// Tells a command of its store, its locks, and those of the jobs around it.
pub(crate) fn tell(command: &mut Command, place: &Place, held: &[(String, u64)]) {
    let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
    let tokens: Vec<String> = held.iter().map(|(_, token)| token.to_string()).collect();
    let db = std::path::absolute(&place.path).unwrap_or_else(|_| place.path.clone());
    untell(command);
    command
        .env(DB, db)
        .env(NAMES, names.join("\n"))
        .env(TOKENS, tokens.join("\n"));
    if let Some(store) = identity(&place.path) {
        command.env(STORE, store);
    }
    let claims: Vec<String> = claims().iter().map(Claim::line).collect();
    if !claims.is_empty() {
        command.env(OUTER, claims.join("\n"));
    }
}

/// Keeps back what may not fit into the environment.
pub(crate) fn untell(command: &mut Command) {
    for variable in [NAMES, TOKENS, STORE, OUTER] {
        command.env_remove(variable);
    }
}

/// The locks in one store that the jobs around this process claim.
#[derive(Debug)]
pub(crate) struct Outer(Vec<Claim>);

impl Outer {
    pub(crate) fn of(place: &Place) -> Self {
        let mut claims = claims();
        let store = identity(&place.path);
        claims.retain(|claim| Some(&claim.store) == store.as_ref());
        Self(claims)
    }

    /// Whether a job around this process holds this lock.
    pub(crate) fn holds(&self, lock: &Lock) -> bool {
        self.claims_on(lock).next().is_some()
    }

    fn claims_on(&self, lock: &Lock) -> impl Iterator<Item = &Claim> {
        let is_it = |claim: &&Claim| lock.name() == claim.name.as_str();
        let claims = self.0.iter().filter(is_it);
        claims.filter(|claim| lock.is_held_by(claim.token))
    }

    /// Whether a job around this process holds this lock. Then it hears that this lock is given back,
    /// and not lost.
    pub(crate) fn gives_back(&self, lock: &Lock) -> bool {
        for claim in self.claims_on(lock) {
            given_back::note(&claim.line());
        }
        self.holds(lock)
    }

    /// The holds of that name of the jobs around this process.
    pub(crate) fn holds_of(
        &self,
        manager: &LockManager,
        name: &LockName,
    ) -> lockmgr::Result<Vec<Lock>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let mut holds = manager.holders(name)?;
        holds.retain(|lock| self.holds(lock));
        Ok(holds)
    }
}

/// A lock that the environment says a job around this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    store: String,
    token: u64,
    name: String,
}

impl Claim {
    fn line(&self) -> String {
        format!("{} {} {}", self.store, self.token, self.name)
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        Some(Self {
            store: words.next()?.to_owned(),
            token: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    }
}

/// All claims of the environment, those of the innermost job first.
fn claims() -> Vec<Claim> {
    let variable = |name| env::var(name).unwrap_or_default();
    let store = env::var(STORE).ok();
    let store = store.or_else(|| identity(Path::new(&env::var_os(DB)?)));
    let mut claims = Vec::new();
    if let Some(store) = store {
        let (names, tokens) = (variable(NAMES), variable(TOKENS));
        for (name, token) in names.lines().zip(tokens.lines()) {
            if let Ok(token) = token.parse() {
                let (store, name) = (store.clone(), name.to_owned());
                claims.push(Claim { store, token, name });
            }
        }
    }
    for claim in variable(OUTER).lines().filter_map(Claim::of_line) {
        // Jobs that go on under the same locks claim them again.
        if !claims.contains(&claim) {
            claims.push(claim);
        }
    }
    claims
}

/// Returns the note of a job that gives this lock of this store back.
pub(crate) fn line(place: &Place, lock: &Lock) -> String {
    let claim = Claim {
        store: identity(&place.path).unwrap_or_default(),
        token: lock.token(),
        name: lock.name().to_string(),
    };
    claim.line()
}

/// Tells a file apart from every other, whatever its name.
fn identity(path: &Path) -> Option<String> {
    let file = fs::metadata(path).ok()?;
    Some(format!("{}:{}", file.dev(), file.ino()))
}
