//! The one error type.

use std::{fmt, sync::Arc, time::Duration};

/// What this crate's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call, or the work that an event stands for, failed.
///
/// Opaque and small (16 bytes) on purpose: match on [`Error::kind`], print the rest. An error that reached a
/// stream is cloned to everyone who observes it, and cloning costs a reference count at most.
///
/// ```
/// use gpu_events::{Device, ErrorKind};
///
/// let device = Device::open("cpu")?;
/// let (start, end) = (device.pool().acquire(), device.pool().acquire_timed());
/// let error = end.elapsed_since(&start).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Untimed);
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    detail: Option<Arc<Detail>>,
}

#[derive(Debug)]
enum Detail {
    Text(Box<str>),
    Late(Duration),
    /// The failure of a stream that waited for a failed recording.
    Source {
        stream: Box<str>,
        error: Error,
    },
}

/// The kinds of [`Error`]. New ones may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The event was never recorded, or was reset since.
    Unrecorded,
    /// The recording's foreign submission has not been submitted yet (R37).
    NotSubmitted,
    /// The recording is still pending, and the call needs a complete one (R21).
    NotComplete,
    /// The event was acquired without timing.
    Untimed,
    /// The device has no usable timestamp for this recording (R20, R23).
    NotMeasured,
    /// The two timestamps come from different clocks.
    ClockMismatch,
    /// The end was recorded before the start; [`Error::lateness`] says by how much (R22).
    EndBeforeStart,
    /// The event and the stream belong to different devices.
    WrongDevice,
    /// The call would have to block for room in the queue, and was asked not to (R5).
    WouldBlock,
    /// The thread would wait for something that only it can bring about (R7).
    WouldDeadlock,
    /// No such event: the id is stale, or was never handed out (R33).
    InvalidId,
    /// The device was closed (R32).
    Closed,
    /// Work on the stream returned an error (R26).
    WorkFailed,
    /// Work on the stream panicked (R28).
    Panicked,
    /// Whoever was to signal this went away without doing so (R37, R39).
    Abandoned,
    /// The device is lost; a new process may be needed.
    DeviceLost,
    /// The backend cannot do this.
    Unsupported,
    /// No such device here, or its driver is missing.
    Unavailable,
    /// The backend exists but was not compiled in.
    FeatureDisabled,
    /// The process was forked; a child cannot use what its parent opened (R41).
    Forked,
    /// The stream is under graph capture (R35).
    Capturing,
    /// An argument makes no sense.
    InvalidArgument,
    /// The system refused a thread or memory, or a stream has used up its positions.
    Resources,
    /// The driver reported something that has no kind of its own; the text has its code.
    Driver,
}

impl ErrorKind {
    fn describe(self) -> &'static str {
        match self {
            Self::Unrecorded => "the event is not recorded",
            Self::NotSubmitted => "the recording is not submitted yet",
            Self::NotComplete => "the recording is not complete yet",
            Self::Untimed => "the event was acquired without timing",
            Self::NotMeasured => "the device did not measure this recording's time",
            Self::ClockMismatch => "the two times come from different clocks",
            Self::EndBeforeStart => "the end was reached before the start",
            Self::WrongDevice => "the event and the stream belong to different devices",
            Self::WouldBlock => "the stream's queue is full",
            Self::WouldDeadlock => {
                "this thread would wait for itself: it holds the stream's lock, or runs its work"
            }
            Self::InvalidId => "no event has this id",
            Self::Closed => "the device is closed",
            Self::WorkFailed => "work on the stream failed",
            Self::Panicked => "work on the stream panicked",
            Self::Abandoned => "the producer went away without signaling",
            Self::DeviceLost => "the device is lost",
            Self::Unsupported => "the device does not support this",
            Self::Unavailable => "the device is not available",
            Self::FeatureDisabled => "the backend was not compiled in",
            Self::Forked => "the process was forked, and its parent's devices do not work in the child",
            Self::Capturing => "the stream is being captured",
            Self::InvalidArgument => "invalid argument",
            Self::Resources => "the system is out of resources",
            Self::Driver => "the driver reported an error",
        }
    }
}

impl Error {
    /// An error of this kind, with nothing to add. For backends.
    #[inline]
    pub const fn new(kind: ErrorKind) -> Self {
        Self { kind, detail: None }
    }

    /// An error of this kind with a text that says more. For backends.
    pub fn with_text(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, detail: Some(Arc::new(Detail::Text(text.into().into_boxed_str()))) }
    }

    pub(crate) fn end_before_start(by: Duration) -> Self {
        Self { kind: ErrorKind::EndBeforeStart, detail: Some(Arc::new(Detail::Late(by))) }
    }

    /// The failure that `stream`'s failure is for those who waited for it: same kind, with the way it came.
    pub(crate) fn passed_on(&self, stream: &dyn fmt::Display) -> Self {
        // One hop is enough to find the culprit; a chain of a thousand streams is not to print a thousand.
        if matches!(self.detail.as_deref(), Some(Detail::Source { .. })) {
            return self.clone();
        }
        let stream = stream.to_string().into_boxed_str();
        Self { kind: self.kind, detail: Some(Arc::new(Detail::Source { stream, error: self.clone() })) }
    }

    /// What went wrong, to match on.
    #[inline]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text that came with it: a panic's message, a driver's code, the name that was not found.
    pub fn detail(&self) -> Option<&str> {
        match self.detail.as_deref()? {
            Detail::Text(text) => Some(text),
            Detail::Late(_) => None,
            Detail::Source { error, .. } => error.detail(),
        }
    }

    /// For [`ErrorKind::EndBeforeStart`]: by how much the end was early.
    pub fn lateness(&self) -> Option<Duration> {
        match self.detail.as_deref()? {
            Detail::Late(by) => Some(*by),
            _ => None,
        }
    }

    /// Whether the call would work if the crate were built with another feature.
    pub fn is_feature_disabled(&self) -> bool {
        self.kind == ErrorKind::FeatureDisabled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_deref() {
            None => f.write_str(self.kind.describe()),
            Some(Detail::Text(text)) => write!(f, "{}: {text}", self.kind.describe()),
            Some(Detail::Late(by)) => write!(f, "{}, by {by:?}", self.kind.describe()),
            Some(Detail::Source { stream, error }) => {
                write!(f, "{error} (on {stream}, which this waited for)")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.kind)
    }
}

impl std::error::Error for Error {}

impl From<ErrorKind> for Error {
    #[inline]
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

// An error travels in every `Result` of the hot paths and in every future.
const _: () = assert!(size_of::<Error>() <= 16);
