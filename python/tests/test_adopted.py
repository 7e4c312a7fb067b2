"""Other libraries' streams on a driver without a GPU: which object is asked, which is kept, and for how long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMPILER = shutil.which("cc")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or COMPILER is None, reason="it takes Linux and a C compiler to make a driver"
)

PREPARE = """
import gc, random, sys, threading, types, weakref
import gpu_events as ge

asked = 0

class Base:
    # As PyTorch's, whose number is a member of a C type.
    def __init__(self, raw, device_index=0):
        self._raw, self.device_index = raw, device_index

    @property
    def cuda_stream(self):
        global asked
        asked += 1
        return self._raw

class Stream(Base):
    __module__ = "torch.cuda.streams"

class Core(Base):
    __module__ = "cuda.core._stream"
    def __cuda_stream__(self):
        global asked
        asked += 1
        return (0, self._raw)

class User(Stream):
    pass

def module(name, **contents):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)

current = None
module("torch.cuda", Stream=Stream, is_initialized=lambda: True, current_stream=lambda _: Stream(current))
module("torch", cuda=sys.modules["torch.cuda"])
module("cuda.core", Stream=Core)

def asks(*calls):
    before = asked
    for call in calls:
        call()
    return asked - before

ours = [ge.Stream("cuda:0") for _ in range(200)]
raws = [stream.cuda_stream for stream in ours]
event = ge.Event()
"""

Adopting = Callable[[str], None]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda that `cuda_stub.c` is."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("cuda_stub.c")
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-o", folder / "libcuda.so.1", source], check=True)
    return folder


@pytest.fixture
def adopting(driver: Path, script) -> Adopting:
    """Runs a program that adopts streams, on that driver."""

    paths = [str(driver), *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    env = {"LD_LIBRARY_PATH": os.pathsep.join(path for path in paths if path)}

    def run(program: str) -> None:
        assert script(PREPARE + program, env=env) == ""

    return run


def test_an_object_that_comes_again_is_not_asked_again(adopting: Adopting) -> None:
    adopting(
        """
stream = Stream(raws[0])
event.record(stream)
assert asks(lambda: event.record(stream), lambda: event.wait(stream), lambda: ge.Stream.from_external(stream)) == 0
assert ge.Stream.from_external(stream).cuda_stream == raws[0]
# Another one for the same stream is, and takes its place.
again = Stream(raws[0])
assert asks(lambda: event.record(again)) == 1 and asks(lambda: event.record(again)) == 0
assert ge.Stream.from_external(again) == ge.Stream.from_external(stream)
"""
    )


def test_what_may_answer_anything_is_asked_each_time(adopting: Adopting) -> None:
    adopting(
        """
for stream in (User(raws[0]), Base(raws[1]), Core(raws[2])):
    event.record(stream)
    assert asks(lambda: event.record(stream)) == 1, stream
    stream._raw = raws[3]
    assert ge.Stream.from_external(stream).cuda_stream == raws[3]
"""
    )


def test_default_streams_are_each_gpus_own(adopting: Adopting) -> None:
    adopting(
        """
for raw in (0, 1, 2):
    stream = Stream(raw)
    for device_index in (0, 1, 0, 1):
        stream.device_index = device_index
        assert ge.Stream.from_external(stream).device.name == f"cuda:{device_index}"

# And of them the last is each thread's own.
def look(seen):
    seen.append(ge.Stream.from_external(stream))

here, there = [], []
look(here)
thread = threading.Thread(target=look, args=(there,))
thread.start()
thread.join()
assert here != there
"""
    )


def test_the_current_stream_takes_no_objects_place(adopting: Adopting) -> None:
    adopting(
        """
stream, current = Stream(raws[0]), raws[0]
event.record(stream)
event.record()
assert asks(lambda: event.record(stream)) == 0
current = raws[1]
elsewhere = ge.Event()
elsewhere.record()
assert ge.Stream.from_external(Stream(raws[1])) != ge.Stream.from_external(stream)
"""
    )


def test_addresses_that_are_used_again_are_of_other_streams(adopting: Adopting) -> None:
    adopting(
        """
for turn in range(2_000):
    raw = random.choice(raws[:100])
    assert ge.Stream.from_external(Stream(raw)).cuda_stream == raw
    event.record(Stream(raw))
"""
    )


def test_more_objects_than_are_remembered(adopting: Adopting) -> None:
    adopting(
        """
streams = [Stream(raw) for raw in raws]
for turn in range(4_000):
    stream = random.choice(streams[:100] if turn % 2 else streams)
    assert ge.Stream.from_external(stream).cuda_stream == stream._raw
"""
    )


def test_an_object_is_let_go_of_after_others(adopting: Adopting) -> None:
    adopting(
        """
for kind in (Stream, User):
    first = kind(raws[0])
    gone = weakref.ref(first)
    for _ in range(2):
        # An event keeps the stream that it was first recorded on.
        ge.Event().record(first)
    del first
    for raw in raws[1:100]:
        ge.Event().record(kind(raw))
    gc.collect()
    assert gone() is not None
    for raw in raws[100:]:
        ge.Event().record(kind(raw))
    gc.collect()
    assert gone() is None

# Of many for one stream there are the one that it was adopted with, and the last.
for _ in range(300):
    event.record(Stream(raws[0]))
gc.collect()
assert len([thing for thing in gc.get_objects() if type(thing) is Stream and thing._raw == raws[0]]) <= 2
"""
    )


def test_a_closed_devices_streams_are_adopted_anew(adopting: Adopting) -> None:
    adopting(
        """
stream = Stream(raws[0])
event.record(stream)
ge.Device("cuda:0").close()
again = ge.Event()
again.record(stream)
assert again.device == ge.Device("cuda:0") != event.device
assert asks(lambda: again.record(stream)) == 0
"""
    )


def test_many_threads_take_streams(adopting: Adopting) -> None:
    adopting(
        """
sys.setswitchinterval(1e-5)
streams = [kind(raw) for raw in raws[:150] for kind in (Stream, User)]
failures = []

def take(seed):
    choose = random.Random(seed)
    mine = ge.Event()
    for _ in range(500):
        stream = choose.choice(streams)
        if ge.Stream.from_external(stream).cuda_stream != stream._raw:
            failures.append(stream)
        mine.record(stream)

threads = [threading.Thread(target=take, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert failures == []
"""
    )
