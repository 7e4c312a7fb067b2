"""Events as PyTorch's users know them, and where PyTorch's leave something open, what holds here."""

from __future__ import annotations

import math
import os
import sys
import threading

import pytest

import gpu_events as ge


def test_a_fresh_event_is_complete_and_waits_for_nothing(stream: ge.Stream) -> None:
    event = ge.Event()
    assert event.query()
    assert event.synchronize()
    assert not event.wait(stream)
    assert event.status == "unrecorded"
    assert (event.device, event.event_id, event.error) == (None, None, None)


def test_a_recording_is_complete_when_the_work_before_it_is_done(stream: ge.Stream, pending) -> None:
    event, signal = pending(stream)
    assert not event.query()
    assert event.status == "pending"
    signal.complete()
    assert event.synchronize()
    assert event.query()
    assert event.status == "complete"


def test_an_event_belongs_to_the_device_of_its_first_recording(stream: ge.Stream) -> None:
    event = ge.Event()
    event.record(stream)
    assert event.device == stream.device
    with pytest.raises(ge.WrongDeviceError):
        event.record(ge.Stream("cpu:1"))
    assert event.query()


def test_without_a_stream_the_devices_default_one_is_meant() -> None:
    event = ge.Event("cpu:1")
    event.record()
    assert event.device == ge.Device("cpu:1")
    free = ge.Event()
    free.record()
    assert free.device == ge.Device.default()


def test_streams_wait_for_events(device: ge.Device, pending) -> None:
    order: list[str] = []
    first, second = device.create_stream(), device.create_stream()
    gate, signal = device.host_event()
    assert first.wait_event(gate)
    first.enqueue(order.append, "first")
    event = first.record_event()
    assert event.wait(second)
    second.enqueue(order.append, "second")
    signal.complete()
    assert second.synchronize()
    assert order == ["first", "second"]
    assert not second.wait_event(event), "there is nothing to wait for any more"


def test_streams_wait_for_streams(device: ge.Device) -> None:
    order: list[str] = []
    first, second = device.create_stream(), device.create_stream()
    gate, signal = device.host_event()
    first.wait_event(gate)
    first.enqueue(order.append, "first")
    assert second.wait_stream(first)
    second.enqueue(order.append, "second")
    assert not second.query()
    signal.complete()
    second.synchronize()
    assert order == ["first", "second"]
    assert second.query()


def test_recording_again_leaves_those_who_wait_alone(device: ge.Device, pending) -> None:
    event, signal = pending(device.create_stream())
    told = device.create_stream()
    told.wait_event(event)
    done = told.record_event()
    again = device.create_stream()
    gate, later = device.host_event()
    again.wait_event(gate)
    event.record(again)
    signal.complete()
    assert done.synchronize()
    assert not event.query()
    later.complete()
    assert event.synchronize()


def test_a_wait_binds_to_the_recording_that_was_current_when_it_began(device: ge.Device, pending) -> None:
    event, signal = pending(device.create_stream())
    gate, later = device.host_event()
    again = device.create_stream()
    again.wait_event(gate)
    begun = threading.Event()
    outcome: list[bool] = []

    def wait() -> None:
        begun.set()
        outcome.append(event.synchronize())

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    # The report names threads that wait.
    while "ThreadId" not in device.stall_report():
        os.sched_yield()
    event.record(again)
    signal.complete()
    thread.join()
    assert outcome == [True]
    assert not event.query()
    later.complete()


def test_waiting_releases_the_gil(pending) -> None:
    # The other thread is to run when this one lets go of the GIL by itself, and not before.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        waits = [
            lambda event: event.synchronize(),
            lambda event: ge.wait_all([event]),
            lambda event: ge.wait_any([event]) == 0,
        ]
        for wait in waits:
            event, signal = pending()
            go = threading.Lock()
            go.acquire()

            def complete() -> None:
                go.acquire()
                signal.complete()

            thread = threading.Thread(target=complete)
            thread.start()
            go.release()
            assert wait(event)
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_many_threads_wait_for_one_event(pending) -> None:
    event, signal = pending()
    outcomes: list[bool] = []
    threads = [threading.Thread(target=lambda: outcomes.append(event.synchronize())) for _ in range(16)]
    for thread in threads:
        thread.start()
    signal.complete()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 16


def test_timing(stream: ge.Stream, pending) -> None:
    start, end = ge.Event(enable_timing=True), ge.Event(enable_timing=True)
    start.record(stream)
    end.record(stream)
    elapsed = start.elapsed_time(end)
    assert elapsed >= 0
    assert start.elapsed_time(end) == elapsed, "a second time, which hangs elsewhere"
    assert end.elapsed_time(start) == -elapsed
    assert start.elapsed_time(start) == 0
    assert math.isclose((end.completion_time() - start.completion_time()) / 1e6, elapsed)


def test_elapsed_time_waits_for_both(device: ge.Device, pending) -> None:
    start, first = pending(enable_timing=True)
    end, second = pending(enable_timing=True)
    thread = threading.Thread(target=lambda: (first.complete(), second.complete()))
    thread.start()
    assert isinstance(start.elapsed_time(end), float)
    assert start.query() and end.query()
    thread.join()


def test_elapsed_time_checks_before_it_waits(pending) -> None:
    timed, _ = pending(enable_timing=True)
    untimed, _ = pending()
    for start, end in [(timed, untimed), (untimed, timed), (untimed, ge.Event())]:
        with pytest.raises(ge.TimingError) as raised:
            start.elapsed_time(end)
        assert raised.value.kind == "Untimed"
    for start, end in [(timed, ge.Event(enable_timing=True)), (ge.Event("cpu", enable_timing=True), timed)]:
        with pytest.raises(ge.TimingError) as raised:
            start.elapsed_time(end)
        assert raised.value.kind == "Unrecorded"
    assert issubclass(ge.TimingError, ValueError), "as in PyTorch"


def test_completion_time_is_of_complete_timed_events(pending) -> None:
    with pytest.raises(ge.TimingError):
        ge.Event().completion_time()
    with pytest.raises(ge.TimingError):
        ge.Event(enable_timing=True).completion_time()
    event, _ = pending(enable_timing=True)
    with pytest.raises(ge.Error) as raised:
        event.completion_time()
    assert raised.value.kind == "NotComplete"


@pytest.mark.parametrize("blocking", [False, True])
def test_timeouts(pending, blocking: bool) -> None:
    event, signal = pending(blocking=blocking)
    assert event.synchronize(0) is False
    assert event.synchronize(timeout=0.001) is False
    assert event.synchronize(timeout=0.12) is False, "longer than a look for signals takes"
    signal.complete()
    assert event.synchronize(timeout=math.inf) is True
    assert event.synchronize(0) is True
    for wrong in (-1, math.nan):
        with pytest.raises(ge.InvalidArgumentError):
            event.synchronize(wrong)


def test_stream_timeouts(stream: ge.Stream, pending) -> None:
    _, signal = pending(stream)
    assert stream.synchronize(0) is False
    assert stream.synchronize(timeout=0.12) is False
    signal.complete()
    assert stream.synchronize(timeout=600) is True


def test_wait_any_and_all(pending) -> None:
    (first, _), (second, signal) = pending(), pending()
    assert ge.wait_any([first, second], timeout=0) is None
    assert ge.wait_all([first, second], timeout=0.12) is False
    signal.complete()
    assert ge.wait_any([first, second]) == 1
    assert ge.wait_any([first, ge.Event()]) == 1, "what is not recorded is settled"
    assert ge.wait_all([second, ge.Event()]) is True
    assert ge.wait_any([]) is None
    assert ge.wait_all([]) is True
    with pytest.raises(TypeError):
        ge.wait_all([first, 3])  # type: ignore[list-item]


def test_failure_reaches_everybody(device: ge.Device, pending) -> None:
    stream = device.create_stream()
    event, signal = pending(stream)
    other = device.create_stream()
    other.wait_event(event)
    passed_on = other.record_event()
    signal.fail("no more paper")
    for failed in (event, passed_on):
        with pytest.raises(ge.WorkFailedError, match="no more paper"):
            failed.synchronize()
        with pytest.raises(ge.WorkFailedError):
            failed.query()
        assert failed.status == "failed"
        assert isinstance(failed.error, ge.WorkFailedError)
    assert ge.wait_any([event]) == 0
    with pytest.raises(ge.WorkFailedError):
        ge.wait_all([event])
    for failed_stream in (stream, other):
        assert isinstance(failed_stream.error, ge.WorkFailedError)
        with pytest.raises(ge.WorkFailedError):
            failed_stream.synchronize()


def test_a_signal_that_is_dropped_fails_its_event(device: ge.Device) -> None:
    event, signal = device.host_event("lost")
    del signal
    with pytest.raises(ge.WorkFailedError) as raised:
        event.synchronize()
    assert raised.value.kind == "Abandoned"


def test_a_signal_is_given_once(device: ge.Device) -> None:
    event, signal = device.host_event()
    signal.complete()
    for again in (signal.complete, lambda: signal.fail("late")):
        with pytest.raises(ge.InvalidArgumentError):
            again()
    assert event.query()


def test_reset(stream: ge.Stream) -> None:
    event = stream.record_event()
    event.reset()
    assert event.status == "unrecorded"
    assert stream.record_event(event) is event
    assert event.status == "complete"


def test_dropping_a_pending_event_cancels_nothing(device: ge.Device) -> None:
    stream = device.create_stream()
    gate, signal = device.host_event()
    stream.wait_event(gate)
    ran: list[int] = []
    stream.enqueue(ran.append, 1)
    for _ in range(1_000):
        stream.record_event()
    signal.complete()
    stream.synchronize()
    assert ran == [1]


def test_pools(device: ge.Device, stream: ge.Stream) -> None:
    pool = ge.EventPool(device, max_idle=1_000)
    events = [pool.acquire() for _ in range(10)]
    assert pool.statistics().live == 10
    assert all(event.query() for event in events)
    timed = pool.acquire(enable_timing=True)
    timed.record(stream)
    assert timed.enable_timing and timed.elapsed_time(timed) == 0
    del events, timed
    statistics = pool.statistics()
    assert (statistics.live, statistics.acquired, statistics.bound) == (0, 11, 1_000)
    pool.empty_cache()
    assert pool.statistics().idle == 0


def test_closing_a_device_ends_everything_on_it() -> None:
    with ge.Device("cpu:7") as device:
        assert device == ge.Device("cpu:7")
        stream = device.create_stream()
        gate, _signal = device.host_event()
        stream.wait_event(gate)
        event = stream.record_event()
        assert not device.closed
    assert device.closed
    with pytest.raises(ge.ClosedError):
        event.synchronize()
    with pytest.raises(ge.ClosedError):
        device.create_stream()
    device.close()
    anew = ge.Device("cpu:7")
    assert anew != device and not anew.closed
    assert anew.create_stream().record_event().query()


def test_a_circle_of_waits_is_named(device: ge.Device, pending) -> None:
    event, _ = pending(device.create_stream(label="upload"))
    assert "upload" in device.stall_report()
    assert not event.query()


def test_concurrent_use_of_one_unbound_event(device: ge.Device) -> None:
    for _ in range(200):
        event = ge.Event()
        start = threading.Barrier(4)

        def record() -> None:
            start.wait()
            event.record(device.create_stream())

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert event.query() and event.device == device
