"""Spans, and the files that are made of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import gpu_events as ge


def test_spans_of_streams_and_threads(device: ge.Device, tmp_path: Path) -> None:
    copy, compute = device.create_stream("copy"), device.create_stream("compute")
    tracer = ge.Tracer("test")
    with tracer.thread_span("submitting"):
        with tracer.span(copy, "first"):
            copy.enqueue(sum, range(1_000))
        compute.wait_event(copy.record_event())
        with tracer.span(compute, "second"), tracer.span(compute, "nested"):
            compute.enqueue(sum, range(1_000))
    trace = tracer.finish()
    assert len(trace) == 4 and trace.dropped == tracer.dropped == 0
    spans = {name: (track, start, end) for track, name, start, end in trace.spans}
    assert set(spans) == {"first", "second", "nested", "submitting"}
    assert all(start <= end for _, start, end in spans.values())
    assert spans["first"][0] != spans["second"][0] == spans["nested"][0]
    assert "compute" in trace.to_text() and len(trace.to_text(40)) < len(trace.to_text(200))
    assert "copy" in trace.to_table()

    page, chrome, perfetto = tmp_path / "t.html", tmp_path / "t.json", tmp_path / "t.pftrace"
    trace.write_html(page)
    trace.write_chrome(str(chrome))
    trace.write_perfetto(perfetto)
    assert "second" in page.read_text()
    assert "second" in {event.get("name") for event in json.loads(chrome.read_text())["traceEvents"]}
    assert b"second" in perfetto.read_bytes()
    with pytest.raises(OSError):
        trace.write_html(tmp_path / "not there" / "t.html")


def test_finishing_waits_for_what_has_ended_on_the_host(device: ge.Device) -> None:
    stream = device.create_stream()
    tracer = ge.Tracer("test")
    gate, signal = device.host_event()
    with tracer.span(stream, "held back"):
        stream.wait_event(gate)
    thread = threading.Thread(target=signal.complete)
    thread.start()
    assert len(tracer.finish()) == 1
    thread.join()


def test_finishing_in_time_drops_the_rest(device: ge.Device) -> None:
    stream = device.create_stream()
    tracer = ge.Tracer("test")
    gate, signal = device.host_event()
    with tracer.span(stream, "held back"):
        stream.wait_event(gate)
    trace = tracer.finish(timeout=0)
    assert (len(trace), trace.dropped) == (0, 2), "the span and its wait"
    signal.complete()


def test_an_exception_ends_a_span_and_goes_on(stream: ge.Stream) -> None:
    tracer = ge.Tracer("test")
    with pytest.raises(ValueError, match="inside"):
        with tracer.span(stream, "raises"), tracer.thread_span("raises"):
            raise ValueError("inside")
    assert len(tracer.finish()) == 2


def test_a_full_tracer_drops_and_counts(stream: ge.Stream) -> None:
    tracer = ge.Tracer("test", capacity=1, pending=1)
    for _ in range(3):
        with tracer.span(stream, "span"):
            pass
    assert tracer.dropped == 2
    assert len(tracer.finish()) == 1


def test_a_threads_span_ends_on_its_thread() -> None:
    span = ge.Tracer("test").thread_span("here")
    span.__enter__()
    raised: list[Exception] = []

    def end() -> None:
        try:
            span.__exit__(None, None, None)
        except ge.InvalidArgumentError as error:
            raised.append(error)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert len(raised) == 1
    span.__exit__(None, None, None)
