//! How to hold locks safely, and what to write instead of `flock`.
//!
//! # Holding locks safely
//!
//! **A lock goes with its holder.** A guard holds its locks until it is dropped or its process
//! ends, and `lockmgr run` holds them as long as any process of its job lives. So a program that
//! dies holds nobody up, however it dies. The locks of a program that hangs stay until it is killed.
//!
//! **A lease lets others in** before that: [`Acquire::lease`](crate::Acquire::lease) in a program,
//! `--lease` for a command. A thread of the manager, or `lockmgr run`, renews it at a third of its
//! length, so the lease ends only if the whole process is stopped. A program that renews by itself
//! ([`no_keep_alive`](crate::Acquire::no_keep_alive), [`renew`](crate::LockGuard::renew)) loses its
//! locks also when its own work hangs. Choose the lease by how long the others may wait then, not by
//! how long the work takes. A command that may hang is best ended by timeout(1).
//!
//! **A program with a lease can be paused** at any instant: stopped, swapped out, its machine
//! suspended. When it goes on, its lease may be over and the lock in other hands. A lock without a
//! lease can be forced away by an administrator. The program does not know before it looks.
//! [`LockGuard::is_held`](crate::LockGuard::is_held) looks, but a pause fits between looking and
//! acting too. Only the resource that the lock protects can tell for sure, by the **fencing
//! token**: every lock gets a larger one than all before it. A resource that remembers the
//! largest token it has seen can refuse a smaller one.
//!
//! ```
//! use lockmgr::LockManager;
//!
//! /// What the lock protects. It remembers the last token, beside its data.
//! #[derive(Default)]
//! struct Ledger {
//!     last_token: u64,
//!     entries: Vec<String>,
//! }
//!
//! impl Ledger {
//!     fn append(&mut self, token: u64, entry: &str) -> Result<(), String> {
//!         if token < self.last_token {
//!             return Err(format!("token {token} is older than {}", self.last_token));
//!         }
//!         self.last_token = token;
//!         self.entries.push(entry.to_owned());
//!         Ok(())
//!     }
//! }
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let manager = LockManager::open(dir.path().join("locks.redb"))?;
//! let mut ledger = Ledger::default();
//!
//! let slow = manager.acquire(["ledger"]).lock()?;
//! let (_, slow_token) = slow.tokens()[0].clone();
//! // Here it is paused, and somebody forces the lock away.
//! manager.unlock("ledger")?;
//! let next = manager.acquire(["ledger"]).lock()?;
//! let (_, next_token) = next.tokens()[0].clone();
//!
//! ledger.append(next_token, "by the next holder").unwrap();
//! assert!(ledger.append(slow_token, "too late").is_err());
//! assert_eq!(ledger.entries, ["by the next holder"]);
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! In a shell script the token is in `LOCKMGR_TOKENS`, and `lockmgr check NAME TOKEN` looks
//! whether it still holds the lock.
//!
//! **Ask for all locks at once.** [`acquire`](crate::LockManager::acquire) takes a set of names,
//! all or none, and waits for the set as one request, first come, first served. Requests for
//! overlapping sets cannot wait for each other in a circle. Programs that hold one lock while they
//! wait for another can: [`LockGuard::lock`](crate::LockGuard::lock) is for programs that all ask in
//! the same order.
//!
//! **A lost lock is told** three ways: by [`is_held`](crate::LockGuard::is_held), by
//! [`Error::Lost`](crate::Error::Lost) from every later call on the guard, and by the
//! [`on_lost`](crate::Acquire::on_lost) callback, from a thread of the manager. `lockmgr run` ends its
//! job then, unless it runs with `--on-lost warn`.
//! Dropping a guard releases a lock only while that bears the guard's token: never a successor's.
//!
//! **The end of a holder is proven**, never guessed. A lock is bound to one of these:
//!
//! | bound to | by | gone if |
//! |---|---|---|
//! | a program that holds guards | [`acquire`](crate::LockManager::acquire) | its process is gone |
//! | a job | `lockmgr run`, `run -F` | no process has the descriptor that the job inherited |
//! | a process | `get --while PID`, `set --while PID` | that process is gone |
//! | nothing | `get`, `set` without `--while` | never: only the deadline ends it |
//!
//! A holder that asked for its lock [`at_least`](crate::Acquire::at_least) for a time leaves the name
//! taken until then, however it ends. What is left is bound to nothing, and its token is dead.
//!
//! A later process of the same number does not count, and a holder in another container is judged
//! as well. A holder that cannot be judged counts as alive, and then the deadline decides. A process
//! that is only noted with a lock (`--pid`) frees nothing.
//!
//! # Kinds of locks
//!
//! A name is held by one alone, unless a request says otherwise. One request may mix the first three,
//! over any names: it is granted whole or not at all, first come, first served.
//!
//! | kind | who holds the name | library | `run`, `get` |
//! |---|---|---|---|
//! | exclusive | one | [`acquire`](crate::LockManager::acquire) | `NAME`, `-x NAME` |
//! | shared | any number who share it, or one alone | [`shared`](crate::Acquire::shared) | `-s NAME` |
//! | slots | as many as its N slots are enough for; each takes one, or K | [`slots`](crate::Acquire::slots) | `--slots N [--take K] NAME` |
//! | any of | one, or K, of several names, each alone | [`acquire_any`](crate::LockManager::acquire_any) | `--any[=K] NAME NAME…` |
//!
//! On the command line such an option is for the names behind it, up to the next one.
//!
//! **A later request never passes an earlier one.** A request that cannot be granted yet keeps every name that it
//! wants: those who would share a name wait behind one who wants it alone, and a request for one slot
//! waits behind one for four. So neither readers nor small requests starve the others.
//!
//! **At most four compilers** on this host, whoever starts them. Those who hold the name agree on the
//! number: another one is refused until the name is free.
//!
//! ```sh
//! lockmgr run --slots 4 cc -- echo "compiled"
//! ```
//!
//! **Three of eight gigabytes** for a large job; small ones take one:
//!
//! ```sh
//! lockmgr run --slots 8 --take 3 gigabytes -- echo "a large job"
//! lockmgr run --slots 8 gigabytes -- echo "a small job"
//! ```
//!
//! **A benchmark that needs the host alone**, beside jobs that share it:
//!
//! ```sh
//! lockmgr run -s host -- echo "a job"
//! lockmgr run host -- echo "a benchmark, and no job beside it"
//! ```
//!
//! **One of these GPUs**, whichever is free first. `LOCKMGR_NAMES` says which:
//!
//! ```sh
//! lockmgr run --any gpu:0 gpu:1 -- sh -c 'echo "trains on ${LOCKMGR_NAMES#gpu:}"'
//! ```
//!
//! **Readers and a nightly writer**. The writer waits for the readers that are there, later ones wait
//! for it, and it needs the disk for itself:
//!
//! ```sh
//! lockmgr run -s catalogue -- echo "read"
//! lockmgr run -x catalogue disk -- echo "written"
//! ```
//!
//! In a program:
//!
//! ```
//! use lockmgr::LockManager;
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let manager = LockManager::open(dir.path().join("locks.redb"))?;
//! let mut guard = manager.acquire(["ledger"]).shared(["config"]).slots(["gigabytes"], 3, 8).lock()?;
//! // From here on others may read the ledger too; nobody writes to it in between.
//! guard.downgrade()?;
//! assert_eq!(manager.holders("ledger")?.len(), 1);
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! Each of several holds has a token of its own. By name `renew` and `unlock` mean all of them; a
//! script that took its slot by `get` renews it and gives it back by `--token`:
//!
//! ```sh
//! token=$(lockmgr --json get --slots 4 web | sed 's/.*"token":\([0-9]*\).*/\1/')
//! lockmgr -q renew web --token "$token" --timeout 1h
//! lockmgr -q unlock web --token "$token"
//! ```
//!
//! To make a shared lock an exclusive one, release it and ask again: two who hold it and both wait
//! to be alone would wait for ever.
//!
//! | sem(1) of GNU parallel, `consul lock` | lockmgr |
//! |---|---|
//! | `sem --fg -j4 --id cc COMMAND` | `lockmgr run --slots 4 cc -- COMMAND` |
//! | `sem -j4 --id cc COMMAND`, in the background | `lockmgr run --slots 4 cc -- COMMAND &` |
//! | `sem --wait --id cc` | `wait` in the shell, or `lockmgr run cc -- true` for all users' jobs |
//! | `sem --st -10`, which gives up after 10 s | `-w 10` |
//! | `sem --st 10`, which takes it away after 10 s | `--lease 10`, which takes it from a job that hangs |
//! | `consul lock -n=4 PREFIX COMMAND` | `lockmgr run --slots 4 NAME -- COMMAND` |
//! | `consul lock -try=10s` | `-w 10s` |
//! | `consul lock -shell` | `-c STRING` |
//! | `consul lock -child-exit-code` | always: `run` ends as its command did |
//!
//! # Instead of flock
//!
//! `lockmgr run` does what flock(1) does, under its names, with names instead of files, several at
//! once, in order of arrival. `lockmgr list` says who holds what since when.
//!
//! | flock(1) | lockmgr |
//! |---|---|
//! | `flock FILE COMMAND ARG…` | `lockmgr run NAME -- COMMAND ARG…` |
//! | `flock FILE -c STRING` | `lockmgr run NAME -c STRING` |
//! | `flock -n FILE COMMAND` | `lockmgr run -n NAME -- COMMAND` |
//! | `flock -w 10 FILE COMMAND`, `--timeout 10` | `lockmgr run -w 10 NAME -- COMMAND`, `--timeout 10` |
//! | `flock -E 75 -n FILE COMMAND` | `lockmgr run -E 75 -n NAME -- COMMAND` |
//! | `flock -F FILE COMMAND` | `lockmgr run -F NAME -- COMMAND` |
//! | `flock -o FILE COMMAND` | `lockmgr run -o NAME -- COMMAND` |
//! | `flock -x FILE COMMAND` | `lockmgr run -x NAME -- COMMAND`, or without `-x` |
//! | `flock -s FILE COMMAND` | `lockmgr run -s NAME -- COMMAND` |
//! | `flock --verbose FILE COMMAND` | `lockmgr run -v NAME -- COMMAND` |
//! | `flock 9` in a script | `lockmgr get NAME --wait forever --while $$` |
//! | `flock -n 9` | `lockmgr get NAME --while $$` |
//! | `flock -w 10 9` | `lockmgr get NAME --wait 10 --while $$` |
//! | `flock 9` in a subshell, `( … ) 9>FILE` | `lockmgr get NAME --wait forever --while parent` in it, or `--while $BASHPID` |
//! | `flock -u 9` | `lockmgr unlock NAME` |
//! | two locks: `flock A flock B COMMAND` | `lockmgr run A B -- COMMAND`, without the deadlock |
//! | who holds it: `fuser FILE`, `lslocks` | `lockmgr list`; who waits: `lockmgr queue` |
//!
//! In a subshell `$$` is the main shell, and the lock would last until that ends. `--while parent`
//! means the process that calls `lockmgr`: in `( … )` that is the subshell, in bash also called
//! `$BASHPID`. The end of the subshell frees the lock, also while a process that it started in the
//! background goes on; `lockmgr run` is for those. In `got=$(lockmgr get …)` some shells call
//! `lockmgr` from a process that ends at once: say `--while $$` there.
//!
//! What differs:
//!
//! - `flock 9` waits without a bound; `get` waits for as long as `--wait` says, or not at all.
//! - Locks are granted in order of arrival.
//! - As with flock, a daemon that the command leaves behind holds the lock, and with `-o` it does
//!   not. With `-o` the kernel also kills the command if `lockmgr` is killed.
//! - A command whose lock is lost, because it was forced away or its lease could not be renewed, is
//!   ended with all that it started: TERM, then KILL after a second. `--on-lost warn` lets it go on.
//! - A `run` in a job that holds its locks already does not wait for itself: it runs the command at
//!   once, and leaves the locks to the outer job. So two processes of one job do not exclude each
//!   other by the job's own lock: give them another name for that. The environment tells `run` of
//!   the outer jobs: one that is called with an empty environment waits as any other.
//! - `unlock` refuses to take the lock of a running job without `--force`. The job itself may give
//!   its lock back.
//! - A command that is not found gives 127, one that is not executable 126, as in a shell; flock
//!   gives 69.
//!
//! # Recipes
//!
//! Jobs exclude each other only if they use the same store, and the default is each user's own. The
//! jobs of several users name a common one in `LOCKMGR_DB`. Cron and systemd find the command by its
//! path, or by a `PATH` that has it: `cargo install --root /usr/local` puts it into `/usr/local/bin`.
//!
//! **A store for several users** needs a directory that their group may write to. Each user of it,
//! here `ann`, joins the group:
//!
//! ```sh
//! # as root, once
//! groupadd --system lockmgr
//! install -d -m 2770 -g lockmgr /var/lib/lockmgr
//! usermod -aG lockmgr ann
//! ```
//!
//! **cron**: one run at a time. A run that is late is left out without a word. This is a crontab of
//! ann's:
//!
//! ```text
//! PATH=/usr/local/bin:/usr/bin:/bin
//! LOCKMGR_DB=/var/lib/lockmgr/locks.redb
//! */5 * * * *  lockmgr run -n -E 0 report -- /usr/local/bin/report
//! ```
//!
//! **A systemd service** in the same store waits for the nightly jobs that need the same database, an
//! hour at most. If it does not get the lock by then, systemd sees a failure. `KillMode=mixed` sends
//! TERM to `lockmgr` alone, which passes it on: each process would get it twice otherwise. A service
//! with `User=` also needs `SupplementaryGroups=lockmgr`. `StateDirectory=lockmgr` does not go with
//! this: it would give the directory to the service's user.
//!
//! ```text
//! [Service]
//! Type=oneshot
//! KillMode=mixed
//! Environment=LOCKMGR_DB=/var/lib/lockmgr/locks.redb
//! ExecStart=/usr/local/bin/lockmgr run -w 1h -E 75 database -- /usr/local/bin/vacuum
//! ```
//!
//! **A shell script** that holds a lock as long as it lives, however it ends. `-q` keeps `get` from
//! printing the lock, which cron would mail:
//!
//! ```sh
//! #!/bin/sh
//! lockmgr -q get backup --wait 10m --while $$ || exit 1
//! tar -cf "$HOME/hosts.tar" -C /etc hosts
//! ```
//!
//! **A part of a script**, in a subshell, gives the lock back at its end:
//!
//! ```sh
//! (
//!     lockmgr -q get deploy --wait forever --while parent || exit 1
//!     echo "nobody else deploys now"
//! )
//! echo "others may deploy again"
//! ```
//!
//! **Two resources at once**, taken together or not at all:
//!
//! ```sh
//! lockmgr run camera gpu -- echo "both are mine"
//! ```
//!
//! **Not twice within five minutes**, however short the job is and however it ends: the name stays
//! taken until then, and `lockmgr list` shows it. `lockmgr unlock --force` frees it earlier.
//!
//! ```sh
//! lockmgr run -n -E 0 --at-least 5m report -- echo "reported"
//! ```
//!
//! **Why a lock is held**: `run` notes its command, or what `--note` says. Lists, the queue, and the
//! messages of those that wait show it.
//!
//! ```sh
//! lockmgr run --note "deploying 1.2.3" deploy -- echo "deployed"
//! ```
//!
//! **A lock that is held by hand** can end earlier than it was going to:
//!
//! ```sh
//! lockmgr -q get maintenance --timeout 2h
//! lockmgr -q renew maintenance --timeout 5m --shorten
//! ```
//!
//! **A job that may hang** is ended after ten minutes, and the next one gets the lock:
//!
//! ```sh
//! lockmgr run import -- timeout 10m echo "importing"
//! ```
