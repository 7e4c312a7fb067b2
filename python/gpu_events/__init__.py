"""Events for GPU work: portable, pooled, awaitable, truthful about failure and time.

An Event marks a point in a Stream of work. Other streams wait for it, on the device; the host asks it, blocks on it, awaits it
or is called back by it; and two of them tell how long the work between took. Streams of PyTorch, CuPy, Numba and cuda.core are
taken as they are.

Everything may be called from any thread, callbacks and work on CPU streams included. Whatever may block releases the GIL, and on
the main thread a signal interrupts it. In the child of a fork every call that does something raises ForkedError.
"""

from __future__ import annotations

import atexit
import os

from ._errors import (
    ClosedError,
    DeviceLostError,
    Error,
    ForkedError,
    InvalidArgumentError,
    TimingError,
    UnavailableError,
    UnsupportedError,
    WorkFailedError,
    WouldDeadlockError,
    WrongDeviceError,
)
from ._native import (
    Callback,
    Device,
    DeviceInfo,
    Event,
    EventPool,
    HostSignal,
    PoolStatistics,
    Span,
    Stream,
    ThreadSpan,
    Trace,
    Tracer,
    __version__,
    after_fork,
    before_fork,
    close_gate,
    devices,
    wait_all,
    wait_any,
)

__all__ = [
    "Callback",
    "ClosedError",
    "Device",
    "DeviceInfo",
    "DeviceLostError",
    "Error",
    "Event",
    "EventPool",
    "ForkedError",
    "HostSignal",
    "InvalidArgumentError",
    "PoolStatistics",
    "Span",
    "Stream",
    "ThreadSpan",
    "TimingError",
    "Trace",
    "Tracer",
    "UnavailableError",
    "UnsupportedError",
    "WorkFailedError",
    "WouldDeadlockError",
    "WrongDeviceError",
    "__version__",
    "devices",
    "wait_all",
    "wait_any",
]

atexit.register(close_gate)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork)
