//! Drives a lock table in SQLite: WAL, synced at every commit, immediate transactions, prepared
//! statements, tokens that rise. A call that finds the file locked waits as long as lockmgr's.

use super::{CACHE, LEASE, Mode, Peer};
use anyhow::{Result, ensure};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS locks (
        name TEXT PRIMARY KEY,
        locked_by TEXT NOT NULL,
        process_id INTEGER,
        locked_until INTEGER,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        token INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS tokens (last INTEGER NOT NULL);
    INSERT INTO tokens SELECT 0 WHERE NOT EXISTS (SELECT * FROM tokens);";

const TAKE: &str = "UPDATE tokens SET last = last + ?1 RETURNING last - ?1";
const UPSERT: &str = "
    INSERT INTO locks VALUES (?1, ?2, NULL, ?3, ?4, ?4, ?5) ON CONFLICT (name) DO UPDATE
    SET locked_until = max(locked_until, excluded.locked_until), updated_at = excluded.updated_at";
const SELECT: &str = "
    SELECT locked_by, process_id, locked_until, created_at, updated_at, token
    FROM locks WHERE name = ?1 AND locked_until > ?2";

pub(crate) struct Sqlite {
    connection: Connection,
    host: String,
}

impl Sqlite {
    pub(crate) fn open(file: &Path, mode: Mode) -> Result<Self> {
        let connection = connect(file, mode)?;
        let has_schema = connection
            .prepare("SELECT 1 FROM sqlite_master WHERE name = 'tokens'")?
            .exists([])?;
        if !has_schema {
            connection.execute_batch(SCHEMA)?;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self {
            connection,
            host: host.trim().to_owned(),
        })
    }

    fn begin(&self) -> Result<Transaction<'_>> {
        let immediate = TransactionBehavior::Immediate;
        Ok(Transaction::new_unchecked(&self.connection, immediate)?)
    }

    fn upsert(&self, tx: &Transaction<'_>, names: &[&str]) -> Result<()> {
        let now = now();
        let until = now + i64::try_from(LEASE.as_micros())?;
        let mut take = tx.prepare_cached(TAKE)?;
        let last: i64 = take.query_row([i64::try_from(names.len())?], |row| row.get(0))?;
        let mut upsert = tx.prepare_cached(UPSERT)?;
        for (token, name) in (last + 1..).zip(names) {
            upsert.execute(params![name, self.host, until, now, token])?;
        }
        Ok(())
    }

    fn exists(&self, name: &str) -> Result<bool> {
        let mut select = self.connection.prepare_cached(SELECT)?;
        Ok(select.exists(params![name, now()])?)
    }

    /// Runs a write transaction over an existing lock, which changes nothing.
    pub(crate) fn set_unchanged(&self, present: &str) -> Result<()> {
        let tx = self.begin()?;
        ensure!(self.exists(present)?, "{present} is not locked");
        Ok(tx.rollback()?)
    }

    /// Runs a write transaction that reads first, as lockmgr's does, and so writes nothing.
    pub(crate) fn set_refused(&self, absent: &str, present: &str) -> Result<()> {
        let tx = self.begin()?;
        ensure!(!self.exists(absent)?, "{absent} is locked");
        ensure!(self.exists(present)?, "{present} is not locked");
        Ok(tx.rollback()?)
    }
}

/// Opens the file as far as SQLite does before the first statement.
pub(crate) fn connect(file: &Path, mode: Mode) -> Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    if mode == Mode::Exclusive {
        // Set before the log is opened, so that its index is in this process's memory, not shared.
        connection.pragma_update(None, "locking_mode", "exclusive")?;
    }
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // A negative size is in KiB.
    connection.pragma_update(None, "cache_size", -((CACHE >> 10) as i64))?;
    Ok(connection)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as i64
}

impl Peer for Sqlite {
    fn set(&mut self, names: &[String]) -> Result<()> {
        let tx = self.begin()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.upsert(&tx, &names)?;
        Ok(tx.commit()?)
    }

    fn remove(&mut self, names: &[String]) -> Result<()> {
        let tx = self.begin()?;
        {
            let mut delete = tx.prepare_cached("DELETE FROM locks WHERE name = ?1")?;
            for name in names {
                delete.execute([name])?;
            }
        }
        Ok(tx.commit()?)
    }

    fn is_locked(&mut self, name: &str) -> Result<bool> {
        self.exists(name)
    }

    fn find(&mut self, name: &str) -> Result<bool> {
        let mut select = self.connection.prepare_cached(SELECT)?;
        let row = select.query_row(params![name, now()], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<u32>>(1)?,
                (row.get::<_, i64>(2)?, row.get::<_, i64>(3)?),
                (row.get::<_, i64>(4)?, row.get::<_, i64>(5)?),
            ))
        });
        Ok(black_box(row.optional()?).is_some())
    }

    fn list(&mut self, prefix: &str) -> Result<usize> {
        let mut select = self.connection.prepare_cached(
            "SELECT * FROM locks WHERE name >= ?1 AND name < ?1 || char(1114111)",
        )?;
        let mut rows = select.query([prefix])?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            black_box(row.get::<_, i64>("token")?);
            found += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_connection_refuses_others_and_shares_no_memory() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("peer.sqlite");
        let shared = dir.path().join("peer.sqlite-shm");
        drop(Sqlite::open(&file, Mode::Exclusive)?);

        for mode in [Mode::Exclusive, Mode::Shared] {
            let held = Sqlite::open(&file, mode)?;
            assert_eq!(shared.exists(), mode == Mode::Shared);
            let other = Connection::open(&file)?;
            other.busy_timeout(Duration::ZERO)?;
            let count = "SELECT count(*) FROM locks";
            let answer = other.query_row(count, [], |row| row.get::<_, i64>(0));
            match mode {
                Mode::Exclusive => assert!(crate::peers::is_busy(&answer.unwrap_err().into())),
                Mode::Shared => assert_eq!(answer?, 0),
            }
            drop(held);
        }
        Ok(())
    }
}
