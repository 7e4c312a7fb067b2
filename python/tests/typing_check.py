"""Type-checked, and never run: what callers write has the types that they expect."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from typing_extensions import assert_type

import gpu_events as ge

if TYPE_CHECKING:
    from gpu_events.typing import StreamLike


class OfCudaCore:
    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, 7)


class OfTorch:
    @property
    def cuda_stream(self) -> int:
        return 7


class OfCupy:
    ptr = 7


class OfNumba:
    handle = ctypes.c_void_p(7)


class Stamped(ge.Event):
    stamp: int = 0


def streams() -> list[StreamLike]:
    return [ge.Stream(), OfCudaCore(), OfTorch(), OfCupy(), OfNumba()]


def events() -> None:
    event = ge.Event(enable_timing=True, blocking=True, label="upload")
    for stream in streams():
        event.record(stream)
        assert_type(event.wait(stream), bool)
    event.record()
    assert_type(event.query(), bool)
    assert_type(event.synchronize(timeout=1), bool)
    assert_type(event.elapsed_time(ge.Event("cpu")), float)
    assert_type(event.error, "ge.Error | None")
    assert_type(event.device, "ge.Device | None")
    assert_type(ge.wait_any([event], 0.5), "int | None")
    assert_type(ge.wait_all(iter([event])), bool)
    assert_type(Stamped().stamp, int)
    assert_type(event.on_complete(lambda error: error and error.kind).cancel(), bool)
    event.record("cuda:0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    event.label = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def devices() -> None:
    with ge.Device("cpu") as device:
        event, signal = device.host_event()
        assert_type(event, ge.Event)
        assert_type(signal, ge.HostSignal)
        stream = device.create_stream(label="upload", signal="prompt")
        assert_type(stream.record_event(), ge.Event)
        stream.enqueue(print, 1, 2)
    ge.Stream(signal="slow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def traces() -> None:
    tracer = ge.Tracer("typing")
    with tracer.span(OfTorch(), "copy") as span:
        assert_type(span, ge.Span)
    assert_type(tracer.finish().spans, "list[tuple[str, str, int, int]]")


async def awaiting(event: ge.Event) -> None:
    assert_type(await event, None)
