"""The interpreter exits cleanly whatever is pending."""

from __future__ import annotations

import pytest

PENDING = """
stream = ge.Stream("cpu")
gate, signal = stream.device.host_event()
stream.wait_event(gate)
event = stream.record_event()
"""

ENDINGS = {
    "nothing was used": "",
    "events are pending": PENDING,
    "callbacks are registered": PENDING + "event.on_complete(print)",
    "callbacks are about to run": """
stream = ge.Stream("cpu")
for _ in range(1_000):
    stream.record_event().on_complete(lambda error: None)
""",
    "the signal completes the event as it goes": PENDING
    + """
import atexit
event.on_complete(lambda error: None)
atexit.register(signal.complete)
""",
    "work is queued behind a gate": PENDING + "stream.enqueue(print, 'never')",
    "work is queued": """
streams = [ge.Stream("cpu") for _ in range(8)]
for stream in streams:
    for _ in range(200):
        stream.enqueue(sum, range(100))
""",
    "work waits for what nobody will complete": PENDING
    + """
import threading
begun = threading.Event()
def work():
    begun.set()
    gate.synchronize()
other = ge.Stream("cpu")
other.enqueue(work)
begun.wait()
""",
    "a callback waits for what nobody will complete": PENDING
    + """
import threading
begun = threading.Event()
def callback(error):
    begun.set()
    try:
        gate.synchronize()
    except ge.ClosedError:
        pass
ge.Stream("cpu").record_event().on_complete(callback)
begun.wait()
""",
    "daemon threads wait": PENDING
    + """
import threading
for _ in range(4):
    threading.Thread(target=event.synchronize, daemon=True).start()
    threading.Thread(target=lambda: ge.wait_any([event], 1000), daemon=True).start()
""",
    "daemon threads are busy": """
import threading
stream = ge.Stream("cpu")
def busy():
    try:
        while True:
            stream.enqueue(int)
            event = stream.record_event()
            event.on_complete(lambda error: None)
            event.synchronize()
    except (ge.WorkFailedError, ge.ClosedError) as error:
        assert "exiting" in str(error)
for _ in range(3):
    threading.Thread(target=busy, daemon=True).start()
for _ in range(100):
    stream.record_event().synchronize()
""",
    "work makes more work": """
stream = ge.Stream("cpu")
def work():
    stream.enqueue(work)
    stream.record_event().on_complete(lambda error: stream.enqueue(work))
stream.enqueue(work)
stream.record_event().synchronize()
""",
    "a task awaits": PENDING
    + """
import asyncio
async def main():
    task = asyncio.ensure_future(event)
    await asyncio.sleep(0)
    global kept
    kept = event.on_complete(lambda error: None)
asyncio.run(main())
""",
    "tasks of a loop that stays open await": PENDING
    + """
import asyncio
loop = asyncio.new_event_loop()
async def begin():
    task = asyncio.ensure_future(event)
    task._log_destroy_pending = False
    await asyncio.sleep(0)
    return task
task = loop.run_until_complete(begin())
""",
    "the signal completes what a task awaits as it goes": PENDING
    + """
import asyncio, atexit
loop = asyncio.new_event_loop()
async def begin():
    task = asyncio.ensure_future(event)
    task._log_destroy_pending = False
    await asyncio.sleep(0)
    return task
task = loop.run_until_complete(begin())
atexit.register(signal.complete)
""",
    "a daemon thread's loop awaits one event after the other": """
import asyncio, threading
begun = threading.Event()
async def main():
    stream = ge.Stream("cpu")
    try:
        while True:
            gate, signal = stream.device.host_event()
            stream.wait_event(gate)
            event = stream.record_event()
            asyncio.get_running_loop().call_soon(signal.complete)
            await event
            begun.set()
    except ge.ClosedError as error:
        assert "exiting" in str(error)
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
begun.wait()
""",
    "a tracer collects": PENDING
    + """
tracer = ge.Tracer("exits")
span = tracer.span(stream, "open")
span.__enter__()
inner = tracer.thread_span("open")
inner.__enter__()
""",
    "the device is closed at exit": PENDING
    + """
import atexit
event.on_complete(lambda error: None)
atexit.register(stream.device.close)
""",
    "objects are in a circle with what is pending": PENDING
    + """
class Owner:
    def __init__(self):
        self.event = event
        self.callback = event.on_complete(self.done)
    def done(self, error):
        pass
owners = [Owner() for _ in range(10)]
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_exit_is_clean_while(script, ending: str) -> None:
    assert script("import gpu_events as ge\n" + ENDINGS[ending]) == ""


def test_exit_by_an_exception_is_clean(script) -> None:
    program = "import gpu_events as ge\n" + PENDING + "event.on_complete(print)\nraise SystemExit(3)"
    script(program, returncode=3)


def test_work_that_has_begun_is_waited_for(script) -> None:
    out = script(
        """
        import threading
        import gpu_events as ge

        begun, go_on = threading.Event(), threading.Event()
        def work():
            begun.set()
            go_on.wait()
            print("done")
        ge.Stream("cpu").enqueue(work)
        begun.wait()
        # Registered after the library's own hook, and so run before it.
        import atexit
        atexit.register(go_on.set)
        """
    )
    assert out == "done\n"


def test_a_subinterpreter_is_refused_and_harms_nobody(script) -> None:
    out = script(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            try:
                import _xxsubinterpreters as interpreters
            except ImportError:
                print("refused")
                raise SystemExit
        import sys
        import gpu_events as ge

        code = '''
        try:
            import gpu_events
        except ImportError as error:
            assert "interpreter" in str(error), error
        else:
            raise AssertionError("it was let in")
        '''
        import textwrap
        other = interpreters.create()
        wrong = interpreters.run_string(other, textwrap.dedent(code))
        assert wrong is None, wrong
        interpreters.destroy(other)

        called = []
        event = ge.Stream("cpu").record_event()
        event.on_complete(called.append)
        while not called:
            ge.Stream("cpu").record_event().synchronize()
        print("refused")
        """
    )
    assert out == "refused\n"


def test_nothing_is_awaited_once_the_interpreter_is_exiting(script) -> None:
    out = script(
        """
        import asyncio
        import atexit

        def late():
            async def main():
                try:
                    await event
                except ge.ClosedError as error:
                    print(error)
            asyncio.run(main())

        # Before the library's own hook is, and so run after it.
        atexit.register(late)
        import gpu_events as ge

        gate, signal = ge.Device("cpu").host_event()
        stream = ge.Stream("cpu")
        stream.wait_event(gate)
        event = stream.record_event()
        """
    )
    assert "exiting" in out
