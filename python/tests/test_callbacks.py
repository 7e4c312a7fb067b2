"""Callbacks: once, in order, truthfully cancelled, and never able to stop anything else."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest

import gpu_events as ge


class Outcomes:
    """Collects what callbacks are told, and waits for so many."""

    def __init__(self) -> None:
        self.told: list[ge.Error | None] = []
        self._more = threading.Semaphore(0)

    def __call__(self, error: ge.Error | None) -> None:
        self.told.append(error)
        self._more.release()

    def wait(self, count: int = 1) -> list[ge.Error | None]:
        for _ in range(count):
            self._more.acquire()
        return self.told


def test_a_callback_is_told_of_completion(pending) -> None:
    event, signal = pending()
    outcomes = Outcomes()
    event.on_complete(outcomes)
    assert outcomes.told == []
    signal.complete()
    assert outcomes.wait() == [None]


@pytest.mark.parametrize("bound", [False, True])
def test_a_late_callback_still_runs(stream: ge.Stream, bound: bool) -> None:
    outcomes = Outcomes()
    event = stream.record_event() if bound else ge.Event()
    event.on_complete(outcomes)
    assert outcomes.wait() == [None]


def test_a_callback_is_told_of_failure(pending) -> None:
    event, signal = pending()
    outcomes = Outcomes()
    event.on_complete(outcomes)
    signal.fail("no more paper")
    (error,) = outcomes.wait()
    assert isinstance(error, ge.WorkFailedError) and "no more paper" in str(error)


def test_callbacks_of_a_stream_come_in_order(device: ge.Device) -> None:
    stream = device.create_stream()
    gate, signal = device.host_event()
    stream.wait_event(gate)
    order: list[int] = []
    last = Outcomes()
    for n in range(100):
        stream.record_event().on_complete(lambda _, n=n: order.append(n))
    stream.record_event().on_complete(last)
    signal.complete()
    last.wait()
    assert order == list(range(100))


def test_cancelling_tells_the_truth(pending) -> None:
    event, signal = pending()
    cancelled, kept = Outcomes(), Outcomes()
    callback = event.on_complete(cancelled)
    stays = event.on_complete(kept)
    assert callback.cancel() is True
    assert callback.cancel() is False
    signal.complete()
    kept.wait()
    assert cancelled.told == []
    assert stays.cancel() is False


def test_cancelling_tells_the_truth_under_load(device: ge.Device) -> None:
    for _ in range(300):
        event, signal = device.host_event()
        outcomes = Outcomes()
        callback = event.on_complete(outcomes)
        thread = threading.Thread(target=signal.complete)
        thread.start()
        if not callback.cancel():
            outcomes.wait()
        thread.join()
        last = Outcomes()
        event.on_complete(last)
        last.wait()
        assert len(outcomes.told) <= 1


def test_a_cancelled_function_is_let_go_of(pending) -> None:
    event, _ = pending()
    outcomes = Outcomes()
    gone = weakref.ref(outcomes)
    callback = event.on_complete(outcomes)
    del outcomes
    assert gone() is not None
    callback.cancel()
    gc.collect()
    assert gone() is None


def test_an_exception_goes_to_the_unraisable_hook(pending, monkeypatch: pytest.MonkeyPatch) -> None:
    event, signal = pending()
    raised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append((args.exc_value, args.object)))

    def callback(_: object) -> None:
        raise ValueError("in a callback")

    after = Outcomes()
    event.on_complete(callback)
    event.on_complete(after)
    signal.complete()
    assert after.wait() == [None], "it stops nothing else"
    ((error, source),) = raised
    assert isinstance(error, ValueError) and source is callback


def test_a_callback_may_call_anything(stream: ge.Stream, pending) -> None:
    event, signal = pending(stream)
    second = Outcomes()

    def callback(_: object) -> None:
        again = stream.record_event()
        assert again.synchronize()
        again.on_complete(second)

    event.on_complete(callback)
    signal.complete()
    assert second.wait() == [None]


def test_the_librarys_threads_stay_the_same_to_python(device: ge.Device) -> None:
    local = threading.local()
    last = Outcomes()
    seen: list[int] = []

    def count(_: object) -> None:
        local.count = getattr(local, "count", 0) + 1
        seen.append(local.count)

    event = device.create_stream().record_event()
    for _ in range(3):
        event.on_complete(count)
    event.on_complete(last)
    last.wait()
    assert seen == [1, 2, 3]


def test_a_thread_of_the_librarys_may_end() -> None:
    # With its device.
    for _ in range(20):
        device = ge.Device("cpu:9")
        outcomes = Outcomes()
        device.create_stream().record_event().on_complete(outcomes)
        assert outcomes.wait() == [None]
        device.close()


def test_closing_a_device_runs_callbacks() -> None:
    device = ge.Device("cpu:8")
    event, _signal = device.host_event()
    outcomes = Outcomes()
    event.on_complete(outcomes)
    device.close()
    (error,) = outcomes.wait()
    assert isinstance(error, ge.ClosedError)


def test_what_is_no_function_is_refused(stream: ge.Stream) -> None:
    with pytest.raises(TypeError):
        stream.record_event().on_complete(3)  # type: ignore[arg-type]
