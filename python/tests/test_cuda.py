"""On a GPU: PyTorch's events and these in the same program, and other libraries' streams as they are."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

import gpu_events as ge

try:
    import torch
except ImportError:
    pytest.skip("PyTorch is not installed", allow_module_level=True)
if not torch.cuda.is_available():
    pytest.skip("PyTorch finds no GPU", allow_module_level=True)

N = 1 << 22
"""Numbers in a tensor whose kernels are long enough to be told from nothing."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    # The driver loads a kernel when it is first launched, for which it may wait for the GPU: never behind a gate of ours.
    data = torch.zeros(N, device="cuda")
    data += 1
    data *= 1.5
    data -= 1
    torch.cuda.synchronize()
    yield
    torch.cuda.synchronize()


class Program:
    """Work on two streams that only events keep in order."""

    def __init__(self, event: Any) -> None:
        self.start, self.middle, self.end = (event() for _ in range(3))
        self.first, self.second = torch.cuda.Stream(), torch.cuda.Stream()
        self.data = torch.zeros(N, device="cuda")
        torch.cuda.synchronize()

    def run(self) -> None:
        self.start.record(self.first)
        with torch.cuda.stream(self.first):
            for _ in range(50):
                self.data += 1
        self.middle.record(self.first)
        self.middle.wait(self.second)
        with torch.cuda.stream(self.second):
            for _ in range(50):
                self.data *= 1.5
                self.data -= 1
        self.end.record(self.second)
        self.end.synchronize()


def test_the_same_program_with_both() -> None:
    theirs = Program(lambda: torch.cuda.Event(enable_timing=True))
    ours = Program(lambda: ge.Event("cuda:0", enable_timing=True))
    for program in (theirs, ours, theirs, ours):
        program.data.zero_()
        torch.cuda.synchronize()
        program.run()
        assert all(event.query() for event in (program.start, program.middle, program.end))
    assert torch.equal(theirs.data, ours.data)
    for program in (theirs, ours):
        whole = program.start.elapsed_time(program.end)
        parts = program.start.elapsed_time(program.middle) + program.middle.elapsed_time(program.end)
        assert whole == pytest.approx(parts, abs=1e-3)
        assert 0 < program.start.elapsed_time(program.middle) < whole
        assert program.end.elapsed_time(program.start) == pytest.approx(-whole, abs=1e-3)


def test_both_measure_the_same() -> None:
    stream = torch.cuda.Stream()
    data = torch.zeros(N, device="cuda")
    torch.cuda.synchronize()
    theirs = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    ours = [ge.Event(enable_timing=True) for _ in range(2)]
    theirs[0].record(stream)
    ours[0].record(stream)
    with torch.cuda.stream(stream):
        for _ in range(500):
            data += 1
    ours[1].record(stream)
    theirs[1].record(stream)
    theirs[1].synchronize()
    inner, outer = ours[0].elapsed_time(ours[1]), theirs[0].elapsed_time(theirs[1])
    # One encloses the other; both are good to a microsecond.
    assert 0 < inner <= outer + 1e-3


def test_torchs_contract() -> None:
    for event in (torch.cuda.Event(), ge.Event("cuda:0")):
        assert event.query(), "a fresh event"
        event.synchronize()
        event.wait(torch.cuda.current_stream())
    for make in (torch.cuda.Event, ge.Event):
        start, end = make(), make(enable_timing=True)
        start.record(torch.cuda.current_stream())
        end.record(torch.cuda.current_stream())
        with pytest.raises((ValueError, RuntimeError)):
            start.elapsed_time(end)
        with pytest.raises((ValueError, RuntimeError)):
            make(enable_timing=True).elapsed_time(end)


def test_streams_are_adopted_once() -> None:
    stream = torch.cuda.Stream()
    adopted = ge.Stream.from_external(stream)
    assert adopted.device == ge.Device("cuda:0")
    assert adopted.cuda_stream == stream.cuda_stream
    assert adopted.__cuda_stream__() == (0, stream.cuda_stream)
    with torch.cuda.stream(stream):
        # An object of its own each time, for the same stream.
        assert ge.Stream.from_external(torch.cuda.current_stream()) == adopted
    assert ge.Stream.from_external(torch.cuda.Stream()) != adopted


def test_more_streams_than_are_remembered() -> None:
    events = []
    for _ in range(4):
        for _ in range(40):
            stream = ge.Stream("cuda:0")
            foreign = torch.cuda.ExternalStream(stream.cuda_stream)
            foreign.owner = stream
            event = ge.Event()
            event.record(foreign)
            events.append(event)
        gc.collect()
    assert ge.wait_all(events)


def test_no_stream_is_torchs_current_one() -> None:
    stream, gate = torch.cuda.Stream(), ge.Device("cpu").host_event()
    ge.Stream.from_external(stream).wait_event(gate[0])
    event, elsewhere = ge.Event(), ge.Event("cuda:0")
    with torch.cuda.stream(stream):
        event.record()
        elsewhere.record()
    assert not event.query() and not elsewhere.query()
    gate[1].complete()
    assert event.synchronize() and elsewhere.synchronize()


def test_the_default_stream() -> None:
    data = torch.zeros(N, device="cuda")
    data += 1
    event = ge.Event()
    event.record(torch.cuda.default_stream())
    assert event.device == ge.Device("cuda:0")
    assert event.synchronize()


def test_our_stream_runs_torchs_work() -> None:
    ours, event = ge.Stream("cuda:0"), ge.Event(enable_timing=True)
    gate, signal = ge.Device("cpu").host_event()
    data = torch.zeros(N, device="cuda")
    torch.cuda.synchronize()
    assert ours.wait_event(gate)
    with torch.cuda.stream(torch.cuda.ExternalStream(ours.cuda_stream)):
        data += 1
    event.record(ours)
    assert not event.query()
    signal.complete()
    assert event.synchronize()
    assert data[-1].item() == 1


def test_waits_overlap_and_time_out() -> None:
    stream = torch.cuda.Stream()
    gate, signal = ge.Device("cpu").host_event()
    ge.Stream.from_external(stream).wait_event(gate)
    event = ge.Event()
    event.record(stream)
    assert event.synchronize(timeout=0.12) is False
    outcomes: list[bool] = []
    threads = [threading.Thread(target=lambda: outcomes.append(event.synchronize())) for _ in range(4)]
    for thread in threads:
        thread.start()
    signal.complete()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 4


def test_callbacks_and_await() -> None:
    async def main() -> None:
        stream = torch.cuda.Stream()
        data = torch.zeros(N, device="cuda")
        torch.cuda.synchronize()
        gate, signal = ge.Device("cpu").host_event()
        ge.Stream.from_external(stream).wait_event(gate)
        events = []
        with torch.cuda.stream(stream):
            for _ in range(100):
                data += 1
                event = ge.Event()
                event.record(stream)
                events.append(event)
        told: list[object] = []
        called = threading.Event()

        def callback(error: object) -> None:
            told.append(error)
            called.set()

        events[-1].on_complete(callback)
        tasks = [asyncio.ensure_future(event) for event in events]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        signal.complete()
        await asyncio.gather(*tasks)
        # News of the same completion come apart from each other.
        await asyncio.to_thread(called.wait)
        assert told == [None]
        assert data[0].item() == 100

    asyncio.run(main())


def test_a_capture_is_refused_and_goes_on() -> None:
    data = torch.zeros(N, device="cuda")
    data += 1
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    ge.Stream.from_external(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        data += 1
        with pytest.raises(ge.Error) as raised:
            ge.Event().record(stream)
        assert raised.value.kind == "Capturing"
        data += 1
    graph.replay()
    torch.cuda.synchronize()
    assert data[0].item() == 3


def test_spans() -> None:
    stream = torch.cuda.Stream()
    data = torch.zeros(N, device="cuda")
    torch.cuda.synchronize()
    tracer = ge.Tracer("test")
    with tracer.span(stream, "adding"), torch.cuda.stream(stream):
        for _ in range(100):
            data += 1
    ((_, name, start, end),) = tracer.finish().spans
    assert name == "adding" and start < end


def test_cupy_streams() -> None:
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    event = ge.Event(enable_timing=True)
    event.record(stream)
    with stream:
        data = cupy.ones(N)
        data += 1
    end = ge.Event(enable_timing=True)
    end.record(stream)
    assert event.elapsed_time(end) > 0
    assert ge.Stream.from_external(stream).cuda_stream == stream.ptr
    assert float(data[0]) == 2
    null = ge.Event()
    null.record(cupy.cuda.Stream.null)
    assert null.synchronize()


def test_cuda_core_streams() -> None:
    core = pytest.importorskip("cuda.core")
    device_class = getattr(core, "Device", None)
    if device_class is None:
        device_class = pytest.importorskip("cuda.core.experimental").Device
    device = device_class(0)
    device.set_current()
    stream = device.create_stream()
    event = ge.Event()
    event.record(stream)
    assert event.device == ge.Device("cuda:0")
    assert event.synchronize()
    # And the other way round.
    ours = ge.Stream("cuda:0")
    theirs = device.create_stream(ours)
    assert int(theirs.handle) == ours.cuda_stream


def test_a_keep_alive_is_let_go_of() -> None:
    class Owner:
        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self.cuda_stream = stream.cuda_stream
            self.device_index = 0

    torch_stream = torch.cuda.Stream()
    for _ in range(300):
        event = ge.Event()
        event.record(Owner(torch_stream))
    assert event.synchronize()
    gc.collect()
    # Not isinstance, which asks lazy objects of PyTorch's for their class, and some warn then.
    left = [thing for thing in gc.get_objects() if type(thing) is Owner]
    assert len(left) <= 2, "the first, which it was adopted with, and the last"
