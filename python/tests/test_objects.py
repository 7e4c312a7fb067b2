"""Events and the rest as Python objects."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import weakref

import pytest

import gpu_events as ge


def test_subclassing(stream: ge.Stream) -> None:
    class Named(ge.Event):
        def __new__(cls, name: str, **options: bool) -> Named:
            return super().__new__(cls, **options)

        def __init__(self, name: str, **options: bool) -> None:
            self.name = name

    event = Named("upload", enable_timing=True)
    assert event.name == "upload" and event.enable_timing
    assert stream.record_event(event) is event
    assert event.query() and ge.wait_any([event]) == 0
    assert "Named" in repr(event)
    for final in (ge.Stream, ge.Device, ge.EventPool, ge.HostSignal):
        with pytest.raises(TypeError):
            type("Sub", (final,), {})


def test_nothing_is_pickled_or_copied(device: ge.Device, stream: ge.Stream) -> None:
    event, signal = device.host_event()
    callback = event.on_complete(lambda _: None)
    for thing in (device, stream, event, signal, callback, ge.EventPool(device), ge.Tracer("copies")):
        for how in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=f"{type(thing).__name__}: it belongs to this process"):
                how(thing)


def test_errors_are_pickled() -> None:
    with pytest.raises(ge.InvalidArgumentError) as raised:
        ge.Device("gpu:x")
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is ge.InvalidArgumentError
    assert (str(again), again.kind) == (str(raised.value), "InvalidArgument")
    assert isinstance(again, ValueError) and isinstance(again, RuntimeError)
    assert '"gpu:x" is no device' in str(again)


def test_repr(device: ge.Device) -> None:
    stream = ge.Stream(device, label="upload")
    event = stream.record_event()
    assert re.fullmatch(r"<gpu_events\.Event \d+ complete on cpu:0>", repr(event))
    assert repr(ge.Event(label="copied")) == '<gpu_events.Event "copied" unrecorded>'
    labeled = ge.Event("cpu", label="copied")
    assert re.fullmatch(r'<gpu_events\.Event \d+ "copied" unrecorded on cpu:0>', repr(labeled))
    assert re.fullmatch(r'<gpu_events\.Stream \d+ "upload" on cpu:0>', repr(stream))
    assert repr(device) == "<gpu_events.Device cpu:0>"
    assert "cpu:0" in repr(device.info)
    assert "live=0" in repr(ge.EventPool(device).statistics())


def test_equality_and_hashes(device: ge.Device) -> None:
    assert device == ge.Device("cpu:0") == ge.Device("cpu")
    assert len({device, ge.Device("cpu"), ge.Device("cpu:1")}) == 2
    first, second = device.create_stream(), device.create_stream()
    assert first != second and first == ge.Stream.from_external(first)
    assert device.default_stream() == device.default_stream()
    assert len({device.default_stream(), device.default_stream(), first}) == 2
    assert first != 3 and device != "cpu:0"
    events = [first.record_event(), first.record_event()]
    assert events[0] != events[1] and len(set(events)) == 2, "as objects"


def test_weak_references(device: ge.Device, stream: ge.Stream) -> None:
    event = stream.record_event()
    gone = weakref.ref(event)
    assert gone() is event
    del event
    assert gone() is None
    for thing in (device, stream, ge.EventPool(device)):
        assert weakref.ref(thing)() is thing


def test_ids_are_never_reused(stream: ge.Stream) -> None:
    ids = [stream.record_event().event_id for _ in range(1_000)]
    assert len(set(ids)) == 1_000


def test_everything_is_documented_and_has_a_signature() -> None:
    for name in ge.__all__:
        thing = getattr(ge, name)
        if name == "__version__":
            assert re.match(r"\d+\.\d+\.\d+", thing)
            continue
        assert thing.__doc__, name
        if not inspect.isclass(thing):
            assert inspect.signature(thing) is not None
            continue
        assert thing.__module__ == "gpu_events", name
        for attribute, member in vars(thing).items():
            if attribute.startswith("_") or attribute == "kind":
                continue
            assert member.__doc__, f"{name}.{attribute}"
            if callable(member):
                assert inspect.signature(member) is not None
    assert str(inspect.signature(ge.Event)) == (
        "(device=None, *, enable_timing=False, blocking=False, label=None)"
    )
    assert list(inspect.signature(ge.Event.synchronize).parameters) == ["self", "timeout"]


def test_devices(device: ge.Device) -> None:
    (cpu,) = [info for info in ge.devices() if info.backend == "cpu"]
    assert (cpu.name, cpu.timed, cpu.emulated, cpu.queue_depth) == ("cpu:0", True, False, None)
    assert cpu.clock_resolution_ns > 0 and cpu.clock and cpu.description
    assert "cpu" in cpu.native_waits and cpu.batch_bound is None
    assert device.info.name == device.name == "cpu:0"
    with pytest.raises(AttributeError):
        device.name = "other"  # type: ignore[misc]
