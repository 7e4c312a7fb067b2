//! What every call answers, and the text behind it.

use gpu_events::{Error, ErrorKind};
use std::{
    any::Any,
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What a call answers: zero or more if it did what it was asked to, less than zero if not.
///
/// `gpuev_last_error` has the text that goes with the newest error of the calling thread.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The time ran out first. Nothing has changed: wait again, or do something else.
    TimedOut = 1,
    /// The event was never recorded, or was reset since.
    ErrorUnrecorded = -1,
    /// The recording's foreign submission has not been submitted yet.
    ErrorNotSubmitted = -2,
    /// The recording is still pending, and the call needs a complete one.
    ErrorNotComplete = -3,
    /// The event was acquired without timing.
    ErrorUntimed = -4,
    /// The device has no usable time for this recording.
    ErrorNotMeasured = -5,
    /// The two times come from different clocks.
    ErrorClockMismatch = -6,
    /// The end was recorded before the start.
    ErrorEndBeforeStart = -7,
    /// The event and the stream belong to different devices.
    ErrorWrongDevice = -8,
    /// The call would have to block for room in the queue, and was asked not to.
    ErrorWouldBlock = -9,
    /// The thread would wait for something that only it can bring about.
    ErrorWouldDeadlock = -10,
    /// A handle that is null, was released, was never given out, or is of something else.
    ErrorInvalidHandle = -11,
    /// The device was closed.
    ErrorClosed = -12,
    /// Work on the stream failed.
    ErrorWorkFailed = -13,
    /// Work on the stream panicked.
    ErrorPanicked = -14,
    /// Whoever was to signal this went away without doing so.
    ErrorAbandoned = -15,
    /// The device is lost; a new process may be needed.
    ErrorDeviceLost = -16,
    /// The device cannot do this.
    ErrorUnsupported = -17,
    /// No such device here, or its driver is missing.
    ErrorUnavailable = -18,
    /// The backend exists, but this library was built without it.
    ErrorFeatureDisabled = -19,
    /// The process was forked; a child cannot use what its parent opened.
    ErrorForked = -20,
    /// The stream is under graph capture.
    ErrorCapturing = -21,
    /// An argument makes no sense: a null pointer, a name that is none, a number that is no choice.
    ErrorInvalidArgument = -22,
    /// The system refused a thread or memory.
    ErrorResources = -23,
    /// The driver reported something that has no status of its own; the text has its code.
    ErrorDriver = -24,
    /// A mistake of this library's, or an error that this version has no number for. The text says more.
    ErrorInternal = -25,
}

impl Status {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unrecorded => Self::ErrorUnrecorded,
            ErrorKind::NotSubmitted => Self::ErrorNotSubmitted,
            ErrorKind::NotComplete => Self::ErrorNotComplete,
            ErrorKind::Untimed => Self::ErrorUntimed,
            ErrorKind::NotMeasured => Self::ErrorNotMeasured,
            ErrorKind::ClockMismatch => Self::ErrorClockMismatch,
            ErrorKind::EndBeforeStart => Self::ErrorEndBeforeStart,
            ErrorKind::WrongDevice => Self::ErrorWrongDevice,
            ErrorKind::WouldBlock => Self::ErrorWouldBlock,
            ErrorKind::WouldDeadlock => Self::ErrorWouldDeadlock,
            ErrorKind::InvalidId => Self::ErrorInvalidHandle,
            ErrorKind::Closed => Self::ErrorClosed,
            ErrorKind::WorkFailed => Self::ErrorWorkFailed,
            ErrorKind::Panicked => Self::ErrorPanicked,
            ErrorKind::Abandoned => Self::ErrorAbandoned,
            ErrorKind::DeviceLost => Self::ErrorDeviceLost,
            ErrorKind::Unsupported => Self::ErrorUnsupported,
            ErrorKind::Unavailable => Self::ErrorUnavailable,
            ErrorKind::FeatureDisabled => Self::ErrorFeatureDisabled,
            ErrorKind::Forked => Self::ErrorForked,
            ErrorKind::Capturing => Self::ErrorCapturing,
            ErrorKind::InvalidArgument => Self::ErrorInvalidArgument,
            ErrorKind::Resources => Self::ErrorResources,
            ErrorKind::Driver => Self::ErrorDriver,
            _ => Self::ErrorInternal,
        }
    }

    /// The words for a status, by its number: C may hand in any.
    fn name(number: i32) -> &'static CStr {
        /// The numbers of errors are those from -1 down, without a gap.
        const ERRORS: [&CStr; 25] = [
            c"unrecorded",
            c"not submitted",
            c"not complete",
            c"untimed",
            c"not measured",
            c"clock mismatch",
            c"end before start",
            c"wrong device",
            c"would block",
            c"would deadlock",
            c"invalid handle",
            c"closed",
            c"work failed",
            c"panicked",
            c"abandoned",
            c"device lost",
            c"unsupported",
            c"unavailable",
            c"feature disabled",
            c"forked",
            c"capturing",
            c"invalid argument",
            c"resources",
            c"driver",
            c"internal",
        ];
        const _: () = assert!(ERRORS.len() as i32 == -(Status::ErrorInternal as i32));
        match number {
            0 => c"ok",
            1 => c"timed out",
            _ => {
                let index = number.checked_neg().and_then(|number| usize::try_from(number - 1).ok());
                index.and_then(|index| ERRORS.get(index)).copied().unwrap_or(c"no status")
            }
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// A pointer that must not be null is.
    pub(crate) fn null(argument: &str) -> Self {
        Self::new(Status::ErrorInvalidArgument, format!("invalid argument: `{argument}` is null"))
    }

    /// A number of members that no array has.
    pub(crate) fn no_such_size(argument: &str, count: usize) -> Self {
        Self::new(
            Status::ErrorInvalidArgument,
            format!("invalid argument: `{argument}` can't have {count} members"),
        )
    }

    /// A number that must be one of some choices is none.
    pub(crate) fn no_choice(argument: &str, number: u32) -> Self {
        Self::new(Status::ErrorInvalidArgument, format!("invalid argument: `{argument}` can't be {number}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { status: Status::of(error.kind()), text: error.to_string() }
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Error::new(kind).into()
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Carries out a call: nothing is looked up in a fork's child, where locks may be held for good, and no panic gets out.
pub(crate) fn call(body: impl FnOnce() -> Result<Status>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        gpu_events::check_fork()?;
        body()
    }));
    match outcome {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => {
            remember(&failure.text);
            failure.status
        }
        Err(panic) => {
            remember(&format!("a mistake of this library's: {}", message(&*panic)));
            Status::ErrorInternal
        }
    }
}

/// As [`call`], for what has nothing to answer but that it is done.
pub(crate) fn done(body: impl FnOnce() -> Result<()>) -> Status {
    call(|| body().map(|()| Status::Ok))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

fn remember(text: &str) {
    let text = c_string(text);
    // A thread that is ending has nobody to read it.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// The text up to its first NUL, if it has one.
pub(crate) fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

/// The status and text of how something went, for those who are called back.
pub(crate) fn outcome(result: gpu_events::Result<()>) -> (Status, CString) {
    match result {
        Ok(()) => (Status::Ok, CString::default()),
        Err(error) => (Status::of(error.kind()), c_string(&error.to_string())),
    }
}

/// The text of the newest error that a call returned on this thread; empty if there was none. Calls that succeed leave it.
///
/// The text is this library's, and good until the next error on this thread, or the thread's end.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Two or three words for a status, which are this library's and good for ever; "no status" for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_status_name(status: i32) -> *const c_char {
    Status::name(status).as_ptr()
}

/// The library's version, as in "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}
