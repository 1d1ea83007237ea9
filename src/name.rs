//! Checks the names of locks and of their holders once, and shows them so that they steer no
//! terminal.

use std::fmt;
use std::sync::Arc;

/// The longest name or holder, in bytes of UTF-8.
const MAX_NAME: usize = 255;

/// Carries a name or a holder that breaks the rule: 1 to 255 bytes of UTF-8, no control characters.
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

/// Tells whether all of the text is printable ASCII, as most names are, without decoding it.
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
            /// [`InvalidName`], with the text and the remedy.
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

            /// Checks the rule, and keeps no text.
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
    /// Names a lock, uniquely in its store: 1 to 255 bytes of UTF-8 without control characters,
    /// checked once, here. Names sort by their bytes.
    LockName, "lock name"
}

name! {
    /// Names the holder of a lock (a host, an application, a node), by the same rule as a name.
    Holder, "holder"
}

name! {
    /// Says why a lock is held, for people to read. A note has the same rule as a name: 1 to 255
    /// bytes of UTF-8, no control characters.
    Note, "note"
}

impl Holder {
    /// Returns the system's hostname, with replacements for characters that a holder must not have.
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

/// Shows text from outside so that the text cannot steer a terminal, nor hide anything from a
/// reader. Control characters, bidirectional overrides and characters without a shape appear as
/// their Rust escapes. Marks that combine with a letter and joined emoji are shown as they are.
///
/// ```
/// assert_eq!(lockmgr::Printable("a\u{1b}[2Jb\u{202e}é").to_string(), r"a\u{1b}[2Jb\u{202e}é");
/// assert_eq!(lockmgr::Printable("e\u{301} 👩‍🚀").to_string(), "e\u{301} 👩‍🚀");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars().peekable();
        // The last character that was shown as it is.
        let mut last = None;
        while let Some(c) = chars.next() {
            let is_shown = match c {
                '"' | '\'' => true,
                JOINER => {
                    last.is_some_and(is_of_emoji) && chars.peek().copied().is_some_and(is_of_emoji)
                }
                EMOJI_STYLE => last.is_some_and(is_of_emoji) || chars.peek() == Some(&KEYCAP),
                _ => is_visible(last, c),
            };
            let is_escaped = c.escape_debug().count() > 1;
            match (is_shown, is_escaped) {
                (true, _) => fmt::Write::write_char(f, c)?,
                (false, true) => write!(f, "{}", c.escape_debug())?,
                (false, false) => write!(f, "{}", c.escape_unicode())?,
            }
            last = is_shown.then_some(c);
        }
        Ok(())
    }
}

/// Joins several emoji into one.
const JOINER: char = '\u{200d}';

/// Turns the preceding character into an emoji.
const EMOJI_STYLE: char = '\u{fe0f}';

/// Draws a key around the preceding character.
const KEYCAP: char = '\u{20e3}';

/// Tells whether the character is an emoji, or a part of one.
fn is_of_emoji(c: char) -> bool {
    matches!(c, '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{2122}' | '\u{2139}'
        | '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{27bf}' | '\u{2900}'..='\u{2bff}'
        | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}' | '\u{1f000}'..='\u{1faff}'
        | EMOJI_STYLE)
}

/// Tells whether a reader sees the character. A mark needs a character to combine with.
fn is_visible(last: Option<char>, c: char) -> bool {
    // These are letters and marks without a shape.
    let is_blank = matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}');
    // Rust escapes a mark only at the beginning of a whole text.
    let combines = || String::from_iter(['x', c]).escape_debug().count() == 2;
    match last {
        _ if is_blank => false,
        _ if c.escape_debug().count() == 1 => true,
        Some(last) => last != ' ' && combines(),
        None => false,
    }
}

#[cfg(feature = "serde")]
mod serialise {
    use super::{Holder, LockName, Note};
    use serde::ser::{Serialize, Serializer};

    impl Serialize for LockName {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }

    impl Serialize for Note {
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
    fn marks_and_emoji_are_shown_and_shapeless_characters_are_escaped() {
        for shown in [
            "naïve",
            "nai\u{308}ve",
            "日本語",
            "👩‍🚀",
            "👩🏽‍🚀",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "🏳️‍🌈",
            "नमस्ते",
            "\"it's\"",
        ] {
            assert_eq!(Printable(shown).to_string(), shown);
        }
        for (text, shown) in [
            ("a\u{200d}b", r"a\u{200d}b"),
            ("👩\u{200d}", r"👩\u{200d}"),
            ("a\u{200b}b", r"a\u{200b}b"),
            ("a\u{200c}b", r"a\u{200c}b"),
            ("a\u{feff}", r"a\u{feff}"),
            ("a\u{fe0f}b", r"a\u{fe0f}b"),
            ("a\u{e0100}b", r"a\u{e0100}b"),
            ("a\u{34f}b", r"a\u{34f}b"),
            ("a\u{3164}b", r"a\u{3164}b"),
            ("\u{301}a", r"\u{301}a"),
            ("a \u{301}", r"a \u{301}"),
            ("a\u{2066}b", r"a\u{2066}b"),
            ("a\tb", r"a\tb"),
            (r"a\b", r"a\\b"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

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
    fn hostname_is_a_valid_holder() {
        let host = Holder::hostname();
        assert_eq!(Holder::new(host.as_str()), Ok(host));
    }
}
