"""Other libraries' streams, by their protocols. What they do on a GPU is in test_cuda.py."""

from __future__ import annotations

import collections
import ctypes
import sys
import types

import pytest

import gpu_events as ge


def has_cuda() -> bool:
    return any(info.backend == "cuda" for info in ge.devices())


class ByMethod:
    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, 0)


class ByAttribute:
    __cuda_stream__ = (0, 0)


class OfTorch:
    cuda_stream = 0
    device_index = 0


class OfCupy:
    ptr = 0
    device_id = -1


class OfNumba:
    handle = ctypes.c_void_p(None)


class OfOldNumba:
    handle = 0


PROTOCOLS = [ByMethod, ByAttribute, OfTorch, OfCupy, OfNumba, OfOldNumba]


@pytest.mark.skipif(has_cuda(), reason="there is a GPU, for which these are streams")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_gpu_a_stream_is_refused_with_the_reason(protocol: type, stream: ge.Stream) -> None:
    foreign = protocol()
    tries = [
        lambda: ge.Event().record(foreign),
        lambda: ge.Event().wait(foreign),
        lambda: stream.wait_stream(foreign),
        lambda: ge.Stream.from_external(foreign),
        lambda: ge.Tracer("test").span(foreign, "copy"),
    ]
    for attempt in tries:
        with pytest.raises(ge.UnavailableError, match="the device is not available: .*"):
            attempt()


@pytest.mark.parametrize("thing", [3, "cuda:0", object(), None.__class__])
def test_what_is_no_stream_is_a_type_error(thing: object) -> None:
    with pytest.raises(TypeError, match="__cuda_stream__"):
        ge.Event().record(thing)  # type: ignore[arg-type]


def test_what_a_protocol_answers_is_checked() -> None:
    class FromTheFuture:
        def __cuda_stream__(self) -> tuple[int, int]:
            return (9, 0)

    class Confused:
        def __cuda_stream__(self) -> str:
            return "seven"

    class Raises:
        @property
        def cuda_stream(self) -> int:
            raise LookupError("no stream today")

    with pytest.raises(ge.InvalidArgumentError, match="version 9"):
        ge.Event().record(FromTheFuture())
    with pytest.raises((TypeError, ValueError)):
        ge.Event().record(Confused())  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="no stream today"):
        ge.Event().record(Raises())


def test_a_stream_of_ours_is_itself(stream: ge.Stream) -> None:
    assert ge.Stream.from_external(stream) == stream
    assert ge.Stream.from_external(stream, "cpu") == stream
    with pytest.raises(ge.WrongDeviceError):
        ge.Stream.from_external(stream, "cpu:1")


@pytest.mark.skipif(has_cuda(), reason="there is a GPU, where PyTorch itself is asked")
def test_no_stream_is_torchs_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    initialized = False

    def current_stream(device: int | None = None) -> OfTorch:
        asked.append(device)
        return OfTorch()

    cuda = types.SimpleNamespace(is_initialized=lambda: initialized, current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    ge.Event("cpu").record()
    assert asked == [], "PyTorch uses no GPU yet"
    initialized = True
    with pytest.raises(ge.UnavailableError):
        ge.Event().record()
    assert asked == [None]
    # PyTorch has no say in what is of another device.
    event = ge.Event("cpu")
    event.record()
    assert event.synchronize() and asked == [None]


@pytest.mark.skipif(has_cuda(), reason="there is a GPU, where PyTorch itself is asked")
@pytest.mark.parametrize("kind", [dict, type("Modules", (dict,), {}), collections.UserDict])
def test_modules_are_looked_for_where_python_has_them_now(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def is_initialized() -> bool:
        nonlocal asked
        asked += 1
        return False

    ge.Event().record()
    modules = kind(sys.modules)
    monkeypatch.setattr(sys, "modules", modules)
    modules.pop("torch", None)
    ge.Event().record()
    assert asked == 0
    modules["torch"] = types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized=is_initialized))
    ge.Event().record()
    assert asked == 1
    # What an import leaves that was told not to happen.
    modules["torch"] = None
    ge.Event().record()
    assert asked == 1
