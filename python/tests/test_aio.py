"""Events under asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import gpu_events as ge
from gpu_events import _aio

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Unwatching(asyncio.SelectorEventLoop):
    """A loop that watches nobody's sockets, as Windows' Proactor."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


def uvloops() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()


WATCHING = {"asyncio": asyncio.new_event_loop, "uvloop": uvloops}
"""Loops that news come to without the GIL."""
if sys.platform == "win32":
    WATCHING.clear()


def runner(new_loop: Callable[[], asyncio.AbstractEventLoop], debug: bool = False) -> Run:
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        try:
            loop = new_loop()
        except pytest.skip.Exception:
            main.close()
            raise
        loop.set_debug(debug)
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run


RUNS = {name: runner(new_loop) for name, new_loop in WATCHING.items()}
RUNS |= {"debug": runner(asyncio.new_event_loop, debug=True), "unwatching": runner(Unwatching)}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine, on each kind of loop."""
    return RUNS[request.param]


@pytest.fixture(params=WATCHING)
def watching(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine, on each kind of loop that news come to without the GIL."""
    return RUNS[request.param]


@pytest.fixture
def never_switching() -> Iterator[None]:
    """A thread that runs Python is not asked for the GIL."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1_000)
    yield
    sys.setswitchinterval(before)


def test_a_complete_event_does_not_suspend(stream: ge.Stream) -> None:
    # No loop is there that could resume it.
    for event in (stream.record_event(), ge.Event()):
        with pytest.raises(StopIteration):
            event.__await__().__next__()


def test_the_loop_goes_on_meanwhile(run, pending) -> None:
    async def main() -> list[str]:
        event, signal = pending()
        order: list[str] = []

        async def other() -> None:
            order.append("other")
            signal.complete()

        task = asyncio.create_task(other())
        assert await event is None
        order.append("event")
        await task
        return order

    assert run(main()) == ["other", "event"]


def test_a_thousand_at_once(run, device: ge.Device) -> None:
    async def main() -> None:
        stream = device.create_stream()
        gate, signal = device.host_event()
        stream.wait_event(gate)
        events = [stream.record_event() for _ in range(1_000)]

        async def wait(event: ge.Event) -> None:
            await event

        tasks = asyncio.gather(*(wait(event) for event in events))
        await asyncio.sleep(0)
        signal.complete()
        await tasks
        assert all(event.query() for event in events)

    run(main())


def test_many_tasks_await_one_event(run, pending) -> None:
    async def main() -> None:
        event, signal = pending()

        async def wait() -> bool:
            await event
            return event.query()

        tasks = [asyncio.create_task(wait()) for _ in range(10)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=signal.complete)
        thread.start()
        assert await asyncio.gather(*tasks) == [True] * 10
        thread.join()

    run(main())


def test_failure_raises(run, pending) -> None:
    async def main() -> None:
        event, signal = pending()
        task = asyncio.ensure_future(event)
        await asyncio.sleep(0)
        signal.fail("no more paper")
        with pytest.raises(ge.WorkFailedError, match="no more paper"):
            await task
        with pytest.raises(ge.WorkFailedError, match="no more paper"):
            await event

    run(main())


def test_wait_for_times_out_and_leaves_nothing_behind(run, pending) -> None:
    async def main() -> None:
        event, signal = pending()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(event, timeout=0.001)
        assert not event.query()
        signal.complete()
        await asyncio.wait_for(event, timeout=600)

    run(main())


def test_cancelling_a_task_cancels_the_callback(run, pending) -> None:
    async def main() -> None:
        event, signal = pending()

        async def wait() -> None:
            await event

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone = weakref.ref(task)
        del task
        # The loop lets go of it in its next round.
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None, "the pending event holds on to nothing of it"
        signal.complete()
        await event

    run(main())


def test_cancelling_against_completion(run, device: ge.Device) -> None:
    async def main() -> None:
        for _ in range(200):
            event, signal = device.host_event()
            task = asyncio.ensure_future(event)
            await asyncio.sleep(0)
            thread = threading.Thread(target=signal.complete)
            thread.start()
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            thread.join()
            await event

    run(main())


def test_a_closed_loop_is_tolerated(pending) -> None:
    event, signal = pending()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Future[None]:
        return asyncio.ensure_future(event)

    task = loop.run_until_complete(begin())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    told = threading.Event()
    signal.complete()
    # Behind the one of the loop.
    event.on_complete(lambda _: told.set())
    told.wait()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_awaiting_takes_a_loop(pending) -> None:
    event, _ = pending()
    with pytest.raises(RuntimeError, match="no running event loop"):
        event.__await__()


def test_a_subclass_may_have_an_on_complete_of_its_own(run, pending) -> None:
    class Named(ge.Event):
        def on_complete(self, name: str, callback: object) -> None:  # type: ignore[override]
            raise AssertionError("asked by await")

    async def main() -> None:
        stream = ge.Stream("cpu")
        gate, signal = stream.device.host_event()
        stream.wait_event(gate)
        event = Named()
        event.record(stream)
        task = asyncio.ensure_future(event)
        await asyncio.sleep(0)
        signal.complete()
        await task

    run(main())


def test_closing_the_device_ends_an_await(run) -> None:
    async def main() -> None:
        device = ge.Device("cpu:7")
        event, _signal = device.host_event()
        task = asyncio.ensure_future(event)
        await asyncio.sleep(0)
        device.close()
        with pytest.raises(ge.ClosedError):
            await task

    run(main())


def test_awaits_one_after_the_other(run, stream: ge.Stream, loops: int) -> None:
    async def main() -> None:
        for _ in range(loops):
            gate, signal = stream.device.host_event()
            stream.wait_event(gate)
            event = stream.record_event()
            asyncio.get_running_loop().call_soon(signal.complete)
            await event
            assert event.query()

    run(main())


def test_news_come_in_a_few_turns_of_a_busy_loop(watching, device: ge.Device, never_switching: None, loops: int) -> None:
    async def main() -> None:
        running = True

        async def busy() -> None:
            while running:
                await asyncio.sleep(0)

        other = asyncio.create_task(busy())
        for _ in range(loops):
            event, signal = device.host_event()
            task = asyncio.ensure_future(event)
            await asyncio.sleep(0)
            # Whoever completes it brings the news as well: no other thread has to come into Python.
            signal.complete()
            turns = 0
            while not task.done():
                assert turns < 10
                turns += 1
                await asyncio.sleep(0)
        running = False
        await other

    watching(main())


def test_threads_without_the_gil_bring_news_to_a_busy_loop(
    watching, device: ge.Device, never_switching: None, loops: int
) -> None:
    async def main() -> None:
        running = True

        async def busy() -> None:
            while running:
                await asyncio.sleep(0)

        other = asyncio.create_task(busy())
        first, second = device.create_stream(), device.create_stream()
        for _ in range(loops):
            gate, signal = device.host_event()
            first.wait_event(gate)
            second.wait_event(first.record_event())
            event = second.record_event()
            task = asyncio.ensure_future(event)
            await asyncio.sleep(0)
            signal.complete()
            # The GIL stays here, until those threads are done with their part of it.
            while not event.query():
                pass
            await task
        running = False
        await other

    watching(main())


def test_a_callback_that_blocks_delays_no_await(watching, pending, loops: int) -> None:
    async def main() -> None:
        for _ in range(loops):
            event, signal = pending()
            inside, go_on = threading.Event(), threading.Event()

            def block(_: object, inside: threading.Event = inside, go_on: threading.Event = go_on) -> None:
                inside.set()
                go_on.wait()

            event.on_complete(block)
            task = asyncio.ensure_future(event)
            await asyncio.sleep(0)
            signal.complete()
            inside.wait()
            await task
            go_on.set()

    watching(main())


def test_loops_in_many_threads(run, device: ge.Device, loops: int) -> None:
    for _ in range(max(1, loops // 5)):
        stream = device.create_stream()
        gate, signal = device.host_event()
        stream.wait_event(gate)
        events = [stream.record_event() for _ in range(20)]
        awaiting, failures = threading.Semaphore(0), []

        async def main() -> None:
            async def wait(event: ge.Event) -> None:
                await event

            tasks = [asyncio.create_task(wait(event)) for event in events for _ in range(2)]
            await asyncio.sleep(0)
            awaiting.release()
            tasks[3].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            if [outcome for outcome in outcomes[:3] + outcomes[4:] if outcome is not None]:
                failures.append(outcomes)

        threads = [threading.Thread(target=lambda: run(main())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert awaiting.acquire(timeout=600)
        signal.complete()
        for thread in threads:
            thread.join()
        assert failures == []


def test_a_loop_that_stands_still_is_told_later(pending) -> None:
    events = [pending() for _ in range(3)]
    loop = asyncio.new_event_loop()

    async def begin() -> list[asyncio.Future[None]]:
        tasks = [asyncio.ensure_future(event) for event, _ in events]
        await asyncio.sleep(0)
        return tasks

    async def end(tasks: list[asyncio.Future[None]]) -> None:
        await asyncio.gather(*tasks)

    tasks = loop.run_until_complete(begin())
    for event, signal in events:
        signal.complete()
        event.synchronize()
    assert not any(task.done() for task in tasks)
    loop.run_until_complete(end(tasks))
    loop.close()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc/self/fd")
def test_no_descriptors_are_left(watching, pending, device: ge.Device, loops: int) -> None:
    async def main() -> None:
        event, signal = pending()
        asyncio.get_running_loop().call_soon(signal.complete)
        await event

    watching(main())
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for _ in range(loops):
        watching(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(not WATCHING, reason="no loop watches sockets here")
def test_news_for_a_closed_loop_go_nowhere(device: ge.Device, loops: int) -> None:
    for turn in range(loops):
        event, signal = device.host_event()
        loop = asyncio.new_event_loop()

        async def begin() -> asyncio.Future[None]:
            return asyncio.ensure_future(event)

        task = loop.run_until_complete(begin())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        gone = weakref.ref(loop)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        # Before the collector has been there, and after.
        if turn % 2:
            del loop, task
            gc.collect()
            assert gone() is None
        # They may get the numbers that were closed.
        pairs = [socket.socketpair() for _ in range(3)]
        signal.complete()
        assert event.query()
        ends = [end for pair in pairs for end in pair]
        for end in ends:
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(1)
        for end in ends:
            end.close()


def test_a_loop_keeps_no_context(run, pending) -> None:
    class Request:
        pass

    current: contextvars.ContextVar[Request] = contextvars.ContextVar("current")

    async def serve() -> weakref.ref[Request]:
        request = Request()
        current.set(request)
        event, signal = pending()
        asyncio.get_running_loop().call_soon(signal.complete)
        await event
        assert current.get() is request
        return weakref.ref(request)

    async def main() -> None:
        gone = await asyncio.create_task(serve())
        # The last callbacks of the task have run.
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        assert gone() is None

    run(main())


def test_without_descriptors_callbacks_do(run, pending, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(_aio, "Inbox", refuse)

    async def main() -> None:
        event, signal = pending()
        asyncio.get_running_loop().call_soon(signal.complete)
        await event

    run(main())


def test_a_loop_that_watches_nothing_is_asked_once(pending, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    class Counted:
        def __init__(self) -> None:
            nonlocal made
            made += 1

        def fileno(self) -> int:
            return -1

    monkeypatch.setattr(_aio, "Inbox", Counted)

    async def main() -> None:
        for _ in range(3):
            event, signal = pending()
            asyncio.get_running_loop().call_soon(signal.complete)
            await event

    for loops in range(1, 3):
        loop = Unwatching()
        loop.run_until_complete(main())
        loop.close()
        assert made == loops
        gone = weakref.ref(loop)
        del loop
        gc.collect()
        assert gone() is None, "it is remembered, and not kept"


def test_a_process_that_may_open_more_again_is_asked_again(watching, pending, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0

    def refuse() -> None:
        nonlocal refused
        refused += 1
        raise OSError("too many open files")

    async def main() -> None:
        for turn in range(3):
            with monkeypatch.context() as patched:
                if turn < 2:
                    patched.setattr(_aio, "Inbox", refuse)
                event, signal = pending()
                asyncio.get_running_loop().call_soon(signal.complete)
                await event
        assert refused == 2
        assert _aio._channels.get(asyncio.get_running_loop()) is not None

    watching(main())
