//! The names of locks and of their holders: checked once, and shown so that they steer no terminal.

use std::fmt;
use std::sync::Arc;

/// The longest name or holder, in bytes of UTF-8.
const MAX_NAME: usize = 255;

/// A name or a holder that breaks the rule: 1 to 255 bytes of UTF-8, no control characters.
///
/// [`Error::InvalidName`](crate::Error::InvalidName) carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {role} \"{}\": {rule}", Printable(text))]
pub struct InvalidName {
    role: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    fn check(role: &'static str, text: &str) -> Result<(), Self> {
        let rule = if text.is_empty() {
            "it is empty; give at least one character"
        } else if text.len() > MAX_NAME {
            "it is longer than 255 bytes of UTF-8; shorten it"
        } else if !is_plain(text) && text.chars().any(char::is_control) {
            "it holds a control character; leave that out"
        } else {
            return Ok(());
        };
        Err(Self {
            role,
            text: text.to_owned(),
            rule,
        })
    }

    /// Returns the text that was refused.
    ///
    /// ```
    /// let refused = lockmgr::LockName::new("tab\there").unwrap_err();
    /// assert_eq!(refused.text(), "tab\there");
    /// assert_eq!(
    ///     refused.to_string(),
    ///     r#"invalid lock name "tab\there": it holds a control character; leave that out"#,
    /// );
    /// ```
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether all of it is printable ASCII, as most names are: looked at without decoding them.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

macro_rules! name {
    ($(#[$docs:meta])* $type:ident, $role:literal) => {
        $(#[$docs])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the rule: 1 to 255 bytes of UTF-8, no control characters.
            ///
            /// # Errors
            /// [`InvalidName`], with the text and what to change about it.
            ///
            /// ```
            #[doc = concat!("use lockmgr::", stringify!($type), ";")]
            #[doc = concat!("assert_eq!(", stringify!($type), "::new(\"job:1\")?.as_str(), \"job:1\");")]
            #[doc = concat!("assert!(", stringify!($type), "::new(\"\").is_err());")]
            /// # Ok::<(), lockmgr::InvalidName>(())
            /// ```
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks the rule, and keeps nothing.
            pub(crate) fn check(text: &str) -> Result<(), InvalidName> {
                InvalidName::check($role, text)
            }

            /// Returns the text as it was given.
            ///
            /// ```
            #[doc = concat!("assert_eq!(lockmgr::", stringify!($type), "::new(\"é\")?.as_str(), \"é\");")]
            /// # Ok::<(), lockmgr::InvalidName>(())
            /// ```
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

name! {
    /// The name of a lock, unique in its store: 1 to 255 bytes of UTF-8 without control
    /// characters, checked once, here. Names sort by their bytes.
    LockName, "lock name"
}

name! {
    /// Who holds a lock (a host, an application, a node), by the same rule as a name.
    Holder, "holder"
}

impl Holder {
    /// The system's hostname, with what a holder must not have replaced.
    pub(crate) fn hostname() -> Self {
        Self::of_host(&gethostname::gethostname().to_string_lossy())
    }

    fn of_host(host: &str) -> Self {
        let mut text: String = host
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        while text.len() > MAX_NAME {
            text.pop();
        }
        Self(if text.is_empty() {
            "localhost".into()
        } else {
            text.into()
        })
    }
}

/// Shows text from outside so that it cannot steer a terminal: control characters, bidirectional
/// overrides and the like appear as their Rust escapes.
///
/// ```
/// assert_eq!(lockmgr::Printable("a\u{1b}[2Jb\u{202e}é").to_string(), r"a\u{1b}[2Jb\u{202e}é");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\'' => fmt::Write::write_char(f, c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
mod serialise {
    use super::{Holder, LockName};
    use serde::ser::{Serialize, Serializer};

    impl Serialize for LockName {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }

    impl Serialize for Holder {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_hostname_makes_a_holder() {
        assert_eq!(Holder::of_host("host-1.local"), "host-1.local");
        assert_eq!(Holder::of_host("a\nb"), "a?b");
        assert_eq!(Holder::of_host(""), "localhost");
        let longest = "h".repeat(MAX_NAME);
        assert_eq!(Holder::of_host(&longest), *longest);
        assert_eq!(Holder::of_host(&format!("{longest}h")), *longest);
        assert_eq!(Holder::of_host(&"é".repeat(200)).as_str().len(), 254);
    }

    #[test]
    fn names_are_one_to_255_bytes_without_control_characters() {
        for good in ["a", "with space", "名前", &"x".repeat(255), "\u{202e}"] {
            assert_eq!(LockName::new(good).unwrap(), good);
        }
        for bad in [
            "",
            &"x".repeat(256),
            "é".repeat(128).as_str(),
            "\u{7f}",
            "\u{85}",
            "a\n",
        ] {
            assert_eq!(LockName::new(bad).unwrap_err().text(), bad);
        }
    }

    #[test]
    fn the_hostname_is_a_valid_holder() {
        let host = Holder::hostname();
        assert_eq!(Holder::new(host.as_str()), Ok(host));
    }
}
