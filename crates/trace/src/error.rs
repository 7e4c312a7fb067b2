//! What goes wrong with traces.

use std::{fmt, io, path::Path};

/// `std`'s, with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a trace can't be read, merged or written.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    text: String,
    source: Option<io::Error>,
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It ends in the middle.
    Truncated,
    /// It is no trace, or not one that gpu-events wrote.
    Foreign,
    /// There is nothing in it.
    Empty,
    /// Its parts don't fit together: an index out of range, an end before its start.
    Invalid,
    /// Nothing says how two clocks compare.
    NoCommonClock,
    /// A file's name does not say what is to be written.
    UnknownFormat,
    /// The system could not read it, or write it.
    Io,
}

impl Error {
    /// An error that says this.
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, text: text.into(), source: None }))
    }

    /// What the system said of a file.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self(Box::new(Inner { kind: ErrorKind::Io, text: path.display().to_string(), source: Some(source) }))
    }

    /// What the system said of something that is no file.
    pub(crate) fn io_of(what: &str, source: io::Error) -> Self {
        Self(Box::new(Inner { kind: ErrorKind::Io, text: what.to_owned(), source: Some(source) }))
    }

    /// The same, of this file.
    #[cfg(feature = "perfetto")]
    pub(crate) fn of(mut self, path: &Path) -> Self {
        self.0.text = format!("{}: {}", path.display(), self.0.text);
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
