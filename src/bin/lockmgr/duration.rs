//! Reads durations of the command line.

use chrono::Utc;
use lockmgr::{InvalidTimeout, Timeout};
use std::time::Duration;

/// A duration that cannot be used, and the reason.
#[derive(Debug)]
pub(crate) struct BadDuration {
    pub(crate) text: String,
    pub(crate) rule: String,
}

/// The time that a request waits for its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    For(Duration),
    Forever,
}

/// Reads seconds (`90`, `0.25`) or units (`250ms`, `10m`, `1h30m`).
pub(crate) fn duration(text: &str) -> Result<Timeout, BadDuration> {
    let bad = |rule: &str| BadDuration {
        text: text.to_owned(),
        rule: rule.to_owned(),
    };
    let refused = |invalid: InvalidTimeout| bad(invalid.rule());
    let is_written_as_zero = |text: &str| {
        let digits = text.split(['e', 'E']).next().unwrap_or_default();
        !digits.contains(|c: char| c.is_ascii_digit() && c != '0')
    };
    let timeout = match (text.trim().parse(), humantime::parse_duration(text)) {
        // Too small for the type, and still not zero, which would mean for ever.
        (Ok(0.0), _) if !is_written_as_zero(text) => Timeout::After(Duration::from_micros(1)),
        (Ok(secs), _) => Timeout::from_secs_f64(secs).map_err(refused)?,
        (_, Ok(Duration::ZERO)) => Timeout::Never,
        (_, Ok(duration)) => duration.into(),
        _ => return Err(bad("give seconds (90, 0.25) or units (250ms, 10m, 1h30m)")),
    };
    // Checked before the store is opened, so that a wrong timeout leaves the store untouched.
    timeout.ends_at(Utc::now()).map_err(refused)?;
    Ok(timeout)
}

/// Reads a span of time. Zero is an empty span.
pub(crate) fn span(text: &str) -> Result<Duration, BadDuration> {
    match duration(text) {
        Ok(Timeout::After(span)) => Ok(span),
        Ok(Timeout::Never) => Ok(Duration::ZERO),
        Err(bad) if text.trim_start().starts_with('-') => Err(BadDuration {
            rule: "it is negative; 0 does not wait".into(),
            ..bad
        }),
        Err(bad) => Err(bad),
    }
}

/// Reads the bound of a wait: a span of time, or `forever`. Zero does not wait.
pub(crate) fn wait(text: &str) -> Result<Wait, BadDuration> {
    if text == "forever" {
        return Ok(Wait::Forever);
    }
    Ok(match span(text)? {
        Duration::ZERO => Wait::Not,
        bound => Wait::For(bound),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, millis) in [
            ("90", 90_000),
            ("0.25", 250),
            ("250ms", 250),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
        ] {
            let read = duration(text).unwrap();
            assert_eq!(
                read,
                Timeout::After(Duration::from_millis(millis)),
                "{text}"
            );
        }
        let shortest = Timeout::After(Duration::from_micros(1));
        assert_eq!(duration("1e-400").unwrap(), shortest);
        for text in ["0", "0.0", "0s", "-0", "0e5"] {
            assert_eq!(duration(text).unwrap(), Timeout::Never, "{text}");
            assert_eq!(wait(text).unwrap(), Wait::Not, "{text}");
        }
        assert_eq!(wait("forever").unwrap(), Wait::Forever);
        for text in [
            "",
            "-1",
            "nan",
            "inf",
            "1e999",
            "ten",
            "5x",
            "-5m",
            "9999999999999y",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
