"""Streams: work on the CPU's, what it raises, and bounds."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator

import pytest

import gpu_events as ge


def test_work_runs_in_order_with_its_arguments(stream: ge.Stream) -> None:
    ran: list[int] = []
    for n in range(100):
        stream.enqueue(ran.append, n)
    assert stream.synchronize()
    assert ran == list(range(100))


def test_an_exception_fails_the_stream_with_its_text(stream: ge.Stream) -> None:
    ran: list[int] = []

    def work() -> None:
        raise ValueError("seven is not even")

    before = stream.record_event()
    stream.enqueue(work)
    after = stream.record_event()
    stream.enqueue(ran.append, 1)
    with pytest.raises(ge.WorkFailedError, match="ValueError: seven is not even") as raised:
        after.synchronize()
    assert raised.value.kind == "WorkFailed"
    with pytest.raises(ge.WorkFailedError):
        stream.synchronize()
    assert before.query() and ran == []
    assert isinstance(stream.error, ge.WorkFailedError)


def test_work_may_wait_for_other_streams(device: ge.Device) -> None:
    # More streams that block than there are workers.
    gate, signal = device.host_event()
    streams = [device.create_stream() for _ in range(32)]
    for stream in streams:
        stream.enqueue(gate.synchronize)
    device.create_stream().enqueue(signal.complete)
    for stream in streams:
        assert stream.synchronize()


def test_work_that_waits_for_its_own_stream_is_told(stream: ge.Stream) -> None:
    told: list[str] = []
    gate, signal = stream.device.host_event()
    stream.wait_event(gate)

    def work() -> None:
        try:
            later.synchronize()
        except ge.WouldDeadlockError as error:
            told.append(error.kind)

    stream.enqueue(work)
    later = stream.record_event()
    signal.complete()
    stream.synchronize()
    assert told == ["WouldDeadlock"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    # Where the tests run in a shell's background, it is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_interrupts_the_main_thread(stream: ge.Stream, pending) -> None:
    event, _ = pending(stream)
    full = stream.device.create_stream(queue_depth=1)
    full.wait_event(event)
    full.record_event()
    waits = [
        event.synchronize,
        stream.synchronize,
        full.record_event,
        lambda: ge.wait_any([event]),
        lambda: ge.wait_all([event], timeout=600),
    ]
    for wait in waits:
        thread = threading.Thread(target=_thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            wait()
            pytest.fail("nothing was there to wait for")
        thread.join()
    assert not event.query()


def test_a_full_queue_waits_for_room_with_the_gil_released(device: ge.Device) -> None:
    stream = device.create_stream(queue_depth=1)
    gate, signal = device.host_event()
    stream.wait_event(gate)
    stream.record_event()
    thread = threading.Thread(target=signal.complete)
    thread.start()
    assert stream.record_event().synchronize()
    thread.join()


def test_asking_a_full_stream_does_not_wait(device: ge.Device) -> None:
    stream = device.create_stream(queue_depth=1)
    gate, signal = device.host_event()
    stream.wait_event(gate)
    stream.record_event()
    assert stream.query() is False
    assert stream.synchronize(timeout=0) is False
    signal.complete()
    assert stream.synchronize()


def test_options(device: ge.Device) -> None:
    stream = ge.Stream("cpu", label="upload", queue_depth=8, batch_bound=4, signal="prompt")
    assert stream.label == "upload" and stream.device == device
    stream.flush()
    with pytest.raises(ge.InvalidArgumentError):
        device.create_stream(signal="slow")  # type: ignore[arg-type]
    with pytest.raises(ge.InvalidArgumentError):
        ge.Stream("gpu")
    with pytest.raises(TypeError):
        ge.Stream(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        device.create_stream().enqueue(3)  # type: ignore[arg-type]


def test_a_cpu_stream_has_no_cuda_stream(stream: ge.Stream) -> None:
    with pytest.raises(ge.UnsupportedError):
        stream.cuda_stream
    with pytest.raises(NotImplementedError):
        stream.__cuda_stream__()
