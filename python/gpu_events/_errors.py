"""The exceptions, and which kind of error is which."""

from __future__ import annotations


class Error(RuntimeError):
    """What the library's calls raise, and what failed work is observed to have failed with."""

    kind: str
    """What went wrong, to match on: the name of an ErrorKind of the Rust library."""

    def __init__(self, message: str, kind: str = "WorkFailed") -> None:
        super().__init__(message, kind)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidArgumentError(Error, ValueError):
    """An argument makes no sense."""


class TimingError(Error, ValueError):
    """There is no such time: not timed, not recorded, not measured, or of two different clocks."""


class WrongDeviceError(Error, ValueError):
    """The event and the stream, or the stream and its GPU, belong to different devices."""


class WorkFailedError(Error):
    """Work on the stream failed, or whoever was to signal the event went away without doing so."""


class ClosedError(Error):
    """The device was closed."""


class DeviceLostError(Error):
    """The device is lost; a new process may be needed."""


class ForkedError(Error):
    """The process was forked, and a child cannot use what its parent opened."""


class WouldDeadlockError(Error):
    """The thread would wait for something that only it can bring about."""


class UnavailableError(Error):
    """There is no such device here, or its driver is missing."""


class UnsupportedError(Error, NotImplementedError):
    """The device cannot do this."""


_CLASSES: dict[str, type[Error]] = {
    "InvalidArgument": InvalidArgumentError,
    "Untimed": TimingError,
    "Unrecorded": TimingError,
    "NotMeasured": TimingError,
    "ClockMismatch": TimingError,
    "WrongDevice": WrongDeviceError,
    "WorkFailed": WorkFailedError,
    "Panicked": WorkFailedError,
    "Abandoned": WorkFailedError,
    "Closed": ClosedError,
    "DeviceLost": DeviceLostError,
    "Forked": ForkedError,
    "WouldDeadlock": WouldDeadlockError,
    "Unavailable": UnavailableError,
    "Unsupported": UnsupportedError,
    "FeatureDisabled": UnsupportedError,
}


def make(kind: str, message: str) -> Error:
    """The exception for an error of the native half's."""
    return _CLASSES.get(kind, Error)(message, kind)


for _class in [Error, *_CLASSES.values()]:
    _class.__module__ = "gpu_events"
