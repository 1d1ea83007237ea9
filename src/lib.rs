//! docs soon
mod clock;
mod error;
mod lock;
mod manager;
mod record;
mod set;
mod store;

pub use clock::{Clock, ManualClock};
pub use error::{Error, Result};
pub use lock::{Holder, InvalidName, InvalidTimeout, Lock, LockName, LockRef, Printable, Timeout};
pub use manager::{Builder, LockManager};
pub use set::{
    GetOptions, LockSetCounts, LockSetResult, LockSetStatus, RenewOptions, SetOptions, Status,
};
