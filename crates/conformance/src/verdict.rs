//! How a case says what it found.

use gpu_events::Error;
use std::{
    fmt::{Debug, Display},
    panic::Location,
};

/// Why a case stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The subject cannot run the case; the text says why.
    Skip(String),
    /// The subject broke a promise; the text says which and how.
    Fail(String),
}

/// What a case, or a step of one, comes to.
pub type Verdict<T = ()> = Result<T, Stop>;

impl Stop {
    /// A skip, for this reason.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self::Skip(reason.into())
    }

    /// A failure, for this reason, at the caller's place in the source.
    #[track_caller]
    pub fn fail(reason: impl Display) -> Self {
        Self::Fail(format!("{reason} ({})", place(Location::caller())))
    }
}

/// An error where a case expected none is a failure. `?` leaves its own place in the text.
impl From<Error> for Stop {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::Fail(format!("unexpected error: {error} ({})", place(Location::caller())))
    }
}

/// The file's name and the line: enough to find it, and the same on every machine.
fn place(location: &Location<'_>) -> String {
    let file = location.file().rsplit(['/', '\\']).next().unwrap_or_default();
    format!("{file}:{}", location.line())
}

/// Fails with `otherwise` unless `holds`.
#[track_caller]
pub(crate) fn ensure(holds: bool, otherwise: impl Display) -> Verdict {
    if holds { Ok(()) } else { Err(Stop::fail(otherwise)) }
}

/// Fails unless what was found is what was expected.
#[track_caller]
pub(crate) fn equal<T: PartialEq<U> + Debug, U: Debug>(what: impl Display, found: T, expected: U) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(Stop::fail(format_args!("{what}: {found:?} where {expected:?} was expected")))
    }
}
