"""Events under asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

import gpu_events as ge


def test_a_complete_event_does_not_suspend(stream: ge.Stream) -> None:
    # No loop is there that could resume it.
    for event in (stream.record_event(), ge.Event()):
        with pytest.raises(StopIteration):
            event.__await__().__next__()


def test_the_loop_goes_on_meanwhile(pending) -> None:
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

    assert asyncio.run(main()) == ["other", "event"]


def test_a_thousand_at_once(device: ge.Device) -> None:
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

    asyncio.run(main())


def test_many_tasks_await_one_event(pending) -> None:
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

    asyncio.run(main())


def test_failure_raises(pending) -> None:
    async def main() -> None:
        event, signal = pending()
        task = asyncio.ensure_future(event)
        await asyncio.sleep(0)
        signal.fail("no more paper")
        with pytest.raises(ge.WorkFailedError, match="no more paper"):
            await task
        with pytest.raises(ge.WorkFailedError, match="no more paper"):
            await event

    asyncio.run(main())


def test_wait_for_times_out_and_leaves_nothing_behind(pending) -> None:
    async def main() -> None:
        event, signal = pending()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(event, timeout=0.001)
        assert not event.query()
        signal.complete()
        await asyncio.wait_for(event, timeout=600)

    asyncio.run(main())


def test_cancelling_a_task_cancels_the_callback(pending) -> None:
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

    asyncio.run(main())


def test_cancelling_against_completion(device: ge.Device) -> None:
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

    asyncio.run(main())


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


def test_a_subclass_may_have_an_on_complete_of_its_own(pending) -> None:
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

    asyncio.run(main())
