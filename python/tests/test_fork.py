"""In a fork's child every call is a clear error, nothing hangs, and the parent goes on."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

PREPARE = """
import asyncio, gc, os, sys, threading
import gpu_events as ge

device = ge.Device("cpu")
stream = device.create_stream(label="upload")
gate, signal = device.host_event()
stream.wait_event(gate)
event = stream.record_event()
timed = ge.Event(enable_timing=True)
timed.record(device.create_stream())
callback = event.on_complete(lambda error: None)
unbound = ge.Event()
pool = ge.EventPool(device)
tracer = ge.Tracer("parent")
span, thread_span = tracer.span(stream, "span"), tracer.thread_span("span")
thread_span.__enter__()

class Foreign:
    cuda_stream = 7
"""


def test_every_call_in_a_child_is_a_clear_error(script) -> None:
    out = script(
        PREPARE
        + """
calls = [
    ge.devices,
    lambda: ge.Device("cpu"),
    ge.Device.default,
    device.create_stream,
    device.default_stream,
    device.host_event,
    device.stall_report,
    device.close,
    ge.Stream,
    lambda: ge.Stream.from_external(Foreign()),
    lambda: ge.Stream.from_external(stream).query(),
    stream.record_event,
    lambda: stream.record_event(event),
    lambda: stream.wait_event(event),
    lambda: stream.wait_stream(stream),
    stream.synchronize,
    stream.query,
    stream.flush,
    lambda: stream.enqueue(print),
    lambda: stream.error,
    lambda: stream.cuda_stream,
    ge.Event,
    lambda: ge.Event("cpu"),
    event.record,
    lambda: event.record(stream),
    lambda: event.record(Foreign()),
    event.wait,
    event.query,
    event.synchronize,
    lambda: event.synchronize(0),
    lambda: timed.elapsed_time(timed),
    timed.completion_time,
    lambda: event.on_complete(print),
    event.reset,
    lambda: event.status,
    lambda: event.error,
    event.__await__,
    unbound.query,
    unbound.synchronize,
    unbound.record,
    lambda: unbound.wait(stream),
    callback.cancel,
    signal.complete,
    lambda: signal.fail("in a child"),
    lambda: ge.EventPool(),
    pool.acquire,
    pool.empty_cache,
    pool.statistics,
    lambda: ge.wait_all([event]),
    lambda: ge.wait_any([event]),
    lambda: ge.wait_all([]),
    lambda: ge.Tracer("child"),
    lambda: tracer.span(stream, "child"),
    lambda: tracer.thread_span("child"),
    lambda: tracer.watch(stream),
    tracer.finish,
    span.__enter__,
    span.__exit__,
    thread_span.__enter__,
    thread_span.__exit__,
]
child = os.fork()
if child == 0:
    for n, call in enumerate(calls):
        try:
            answer = call()
        except ge.ForkedError as error:
            assert error.kind == "Forked" and "forked" in str(error)
        else:
            print(f"call {n} went through: {answer!r}")
            sys.stdout.flush()
            os._exit(1)
    assert "parent" in repr(event) and "parent" in repr(unbound)
    repr([stream, device, callback, signal, pool, tracer])
    hash(stream), hash(device)
    # Garbage is collected as ever, and the interpreter exits as ever.
    del calls, event, timed, callback, unbound, pool, tracer, span, thread_span, gate, signal, stream, device
    gc.collect()
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
signal.complete()
assert event.synchronize()
assert stream.record_event().synchronize()
print("went on")
"""
    )
    assert out == "went on\n"


def test_a_fork_in_the_middle_of_everything_hangs_nobody(script) -> None:
    out = script(
        """
import os, sys, threading
import gpu_events as ge

device = ge.Device("cpu")
stop = threading.Event()

def busy():
    stream = device.create_stream()
    while not stop.is_set():
        event = ge.Event()
        stream.enqueue(lambda: None)
        event.record(stream)
        event.on_complete(lambda error: None)
        gate, signal = device.host_event()
        gate.on_complete(lambda error: None).cancel()
        event.synchronize()

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
kept = [ge.Event("cpu") for _ in range(100)]
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            kept[0].record()
        except ge.ForkedError:
            kept.clear()
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
stop.set()
for thread in threads:
    thread.join()
print("went on")
"""
    )
    assert out == "went on\n"


def test_a_child_that_is_first_to_open_a_device_may(script) -> None:
    out = script(
        """
import os, sys
import gpu_events as ge

child = os.fork()
if child == 0:
    stream = ge.Stream("cpu")
    stream.enqueue(print, "worked")
    stream.synchronize()
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
"""
    )
    assert out == "worked\n"


PARENTS_LOOP = """
import asyncio, os, signal, time
import gpu_events as ge

device = ge.Device("cpu")
loop = %s
# The first is complete, and the loop has not been told: the byte is there to be read, and the child must not.
first, complete_first = device.host_event()
second, complete_second = device.host_event()
never = loop.create_future()
reports = []
loop.set_exception_handler(lambda _, context: reports.append(type(context.get("exception"))))

async def wait(event):
    await event

def fork():
    complete_first.complete()
    child = os.fork()
    if child == 0:
        # Ends a child that spins or hangs, and with it the test.
        signal.alarm(60)
        return child
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    return child

async def go_on(tasks):
    # All of this the child did not touch.
    await tasks[0]
    assert not tasks[1].done() and reports == []
    complete_second.complete()
    await tasks[1]
    print("went on")
"""

LOOPS = {"asyncio": "asyncio.new_event_loop()", "uvloop": "__import__('uvloop').new_event_loop()"}


@pytest.fixture(params=LOOPS)
def parents_loop(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return PARENTS_LOOP % LOOPS[request.param]


def test_a_child_takes_no_news_from_its_parents_loop(script, parents_loop: str) -> None:
    out = script(
        parents_loop
        + """
async def main():
    tasks = [loop.create_task(wait(event)) for event in (first, second)]
    await asyncio.sleep(0)
    if fork() != 0:
        return await go_on(tasks)
    told = 0
    for task in tasks:
        try:
            await task
        except ge.ForkedError:
            told += 1
    assert told == 2
    # It has been told, and goes on as if nothing had happened.
    await never

try:
    loop.run_until_complete(main())
except RuntimeError as error:
    assert not isinstance(error, ge.Error) and "stopped" in str(error), error
    assert reports == [ge.ForkedError], reports
    # And it does not run any further, but for what has to be cleaned up.
    began = time.process_time()
    try:
        loop.run_until_complete(never)
    except RuntimeError:
        pass
    assert time.process_time() - began < 10 and reports == [ge.ForkedError]
    os._exit(7)
"""
    )
    assert out == "went on\n"


def test_what_a_child_awaits_of_its_parents_fails(script, parents_loop: str) -> None:
    out = script(
        parents_loop
        + """
async def main():
    tasks = [loop.create_task(wait(event)) for event in (first, second)]
    both = asyncio.gather(*tasks)
    await asyncio.sleep(0)
    if fork() == 0:
        # Not that the loop was stopped: that would hide what was the matter.
        await both
    await go_on(tasks)

try:
    loop.run_until_complete(main())
except ge.ForkedError:
    os._exit(7)
"""
    )
    assert out == "went on\n"
