//! docs soon
mod clock;
mod error;
mod grant;
mod guard;
pub mod guide;
mod lock;
mod manager;
mod process;
mod queue;
mod record;
mod set;
mod store;
mod wait;

pub use clock::{Clock, ManualClock};
pub use error::{Error, Result};
pub use guard::{Acquire, LockGuard};
pub use lock::{Holder, InvalidName, InvalidTimeout, Lock, LockName, LockRef, Printable, Timeout};
pub use manager::{Builder, LockManager};
pub use queue::Request;
pub use set::{
    GetOptions, LockSetCounts, LockSetResult, LockSetStatus, RenewOptions, SetOptions, Status,
};
