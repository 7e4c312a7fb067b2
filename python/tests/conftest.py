"""What the tests share. They hold work back with gates, events that the host completes, and never sleep."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

import gpu_events as ge

LOOPS = int(os.environ.get("GPU_EVENTS_LOOPS", "5"))
"""How often tests of races are repeated. Before trusting a new one: 1,000."""


@pytest.fixture
def loops() -> int:
    return LOOPS


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Ends the run, with all stacks, when a test hangs."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def device() -> ge.Device:
    return ge.Device("cpu")


@pytest.fixture
def stream(device: ge.Device) -> ge.Stream:
    return device.create_stream()


Pending = Callable[..., tuple[ge.Event, ge.HostSignal]]


@pytest.fixture
def pending() -> Iterator[Pending]:
    """Makes events that are pending: recorded behind a gate, whose signal comes with them."""
    signals: list[ge.HostSignal] = []

    def make(stream: ge.Stream | None = None, **options: bool) -> tuple[ge.Event, ge.HostSignal]:
        stream = stream or ge.Stream("cpu")
        gate, signal = stream.device.host_event()
        stream.wait_event(gate)
        event = ge.Event(**options)
        event.record(stream)
        signals.append(signal)
        return event, signal

    yield make
    for signal in signals:
        try:
            signal.complete()
        except ge.InvalidArgumentError:
            pass


Script = Callable[..., str]


@pytest.fixture
def script() -> Script:
    """Runs a program in a process of its own, so many times, and returns what the last one wrote."""

    def run(
        program: str, loops: int = LOOPS, returncode: int = 0, stderr: str = "", env: dict[str, str] | None = None
    ) -> str:
        program = textwrap.dedent(program)
        done = None
        for _ in range(loops):
            done = subprocess.run(
                [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program],
                capture_output=True,
                text=True,
                timeout=300,
                env=os.environ | (env or {}),
            )
            assert done.returncode == returncode, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
            if stderr:
                assert stderr in done.stderr
            else:
                assert done.stderr == ""
        assert done is not None
        return done.stdout

    return run
