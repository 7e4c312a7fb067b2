"""What events cost beside PyTorch's, CuPy's and cuda.core's: every operation with each library in turn, round by round.

    python peers.py [--rounds N] [--calls N] [--json FILE]

A library that is not installed is left out; without a GPU it measures the CPU device alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gpu_events as ge

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]
try:
    import cupy
except ImportError:
    cupy = None
try:
    from cuda import core
except ImportError:
    core = None

HAS_GPU = torch is not None and torch.cuda.is_available()

Operation = Callable[[int], None]
"""Does something so many times."""

# Each library is written out as its users call it: a layer common to all would cost more than what is measured.


def of_torch(event: Callable[..., Any], first: Any, second: Any, drain: Callable[[], None]) -> dict[str, Operation]:
    """PyTorch's interface, which ours is as well."""
    complete = event()
    complete.record(first)
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record(first)
    end.record(first)
    drain()

    def make_and_record(calls: int) -> None:
        for _ in range(calls):
            event().record(first)

    def make_and_record_timed(calls: int) -> None:
        for _ in range(calls):
            event(enable_timing=True).record(first)

    def record(calls: int) -> None:
        for _ in range(calls):
            complete.record(first)

    def query(calls: int) -> None:
        for _ in range(calls):
            complete.query()

    def synchronize(calls: int) -> None:
        for _ in range(calls):
            complete.synchronize()

    def record_and_wait(calls: int) -> None:
        for _ in range(calls):
            complete.record(first)
            complete.wait(second)

    def elapsed(calls: int) -> None:
        for _ in range(calls):
            start.elapsed_time(end)

    return dict(zip(NAMES, (make_and_record, make_and_record_timed, record, query, synchronize, record_and_wait, elapsed)))


NAMES = (
    "make, record, drop",
    "the same, timed",
    "record again",
    "query a complete one",
    "synchronize a complete one",
    "record and wait",
    "elapsed_time",
)


def of_cupy(drain: Callable[[], None]) -> dict[str, Operation]:
    first, second = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    event = cupy.cuda.Event
    complete = event(disable_timing=True)
    complete.record(first)
    start, end = event(), event()
    start.record(first)
    end.record(first)
    drain()

    def make_and_record(calls: int) -> None:
        for _ in range(calls):
            event(disable_timing=True).record(first)

    def make_and_record_timed(calls: int) -> None:
        for _ in range(calls):
            event().record(first)

    def record(calls: int) -> None:
        for _ in range(calls):
            complete.record(first)

    def query(calls: int) -> None:
        for _ in range(calls):
            complete.done

    def synchronize(calls: int) -> None:
        for _ in range(calls):
            complete.synchronize()

    def record_and_wait(calls: int) -> None:
        for _ in range(calls):
            complete.record(first)
            second.wait_event(complete)

    def elapsed(calls: int) -> None:
        for _ in range(calls):
            cupy.cuda.get_elapsed_time(start, end)

    return dict(zip(NAMES, (make_and_record, make_and_record_timed, record, query, synchronize, record_and_wait, elapsed)))


def of_cuda_core(drain: Callable[[], None]) -> dict[str, Operation]:
    device = core.Device(0)
    device.set_current()
    first, second = device.create_stream(), device.create_stream()
    timed = next(
        options
        for name in ("timing_enabled", "enable_timing")
        if (options := options_with(name)) is not None
    )
    complete = first.record()
    start, end = first.record(options=timed), first.record(options=timed)
    drain()

    def make_and_record(calls: int) -> None:
        for _ in range(calls):
            first.record()

    def make_and_record_timed(calls: int) -> None:
        for _ in range(calls):
            first.record(options=timed)

    def record(calls: int) -> None:
        for _ in range(calls):
            first.record(complete)

    def query(calls: int) -> None:
        for _ in range(calls):
            complete.is_done

    def synchronize(calls: int) -> None:
        for _ in range(calls):
            complete.sync()

    def record_and_wait(calls: int) -> None:
        for _ in range(calls):
            first.record(complete)
            second.wait(complete)

    def elapsed(calls: int) -> None:
        for _ in range(calls):
            end - start

    return dict(zip(NAMES, (make_and_record, make_and_record_timed, record, query, synchronize, record_and_wait, elapsed)))


def options_with(name: str) -> Any:
    """Options for a timed event; the parameter has had two names."""
    try:
        return core.EventOptions(**{name: True})
    except TypeError:
        return None


def measure(sides: dict[str, dict[str, Operation]], drain: Callable[[], None], rounds: int, calls: int) -> dict[str, dict[str, list[float]]]:
    """The 10th percentile, the median and the 90th, in nanoseconds, for each operation and side."""
    figures: dict[str, dict[str, list[float]]] = {}
    names = list(sides)
    for operation in NAMES:
        taken: dict[str, list[float]] = {side: [] for side in names}
        for turn in range(rounds):
            # None always comes after the same neighbour at the same place of a round.
            for side in names[turn % len(names) :] + names[: turn % len(names)]:
                # No more than a stream's queue takes: what waits for room is not what is asked for.
                drain()
                begun = time.perf_counter_ns()
                sides[side][operation](calls)
                taken[side].append((time.perf_counter_ns() - begun) / calls)
        figures[operation] = {side: percentiles(times) for side, times in taken.items()}
    return figures


def percentiles(times: list[float]) -> list[float]:
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return [tenths[0], statistics.median(times), tenths[8]]


async def beside_a_loop(rounds: int) -> dict[str, float]:
    """Microseconds from opening a gate, behind which kernels are queued, to the task that awaits their end.

    Another task counts how often the loop came around meanwhile, which it could not if anybody blocked it.
    """
    stream = torch.cuda.Stream()
    adopted = ge.Stream.from_external(stream)
    data = torch.zeros(1 << 24, device="cuda")
    data += 1
    turns = 0
    running = True

    async def count() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    async def once(how: str) -> float:
        torch.cuda.synchronize()
        gate, signal = ge.Device("cpu").host_event()
        adopted.wait_event(gate)
        with torch.cuda.stream(stream):
            for _ in range(50):
                data.add_(1)
        event = ge.Event() if how == "await" else torch.cuda.Event()
        event.record(stream)
        begun = time.perf_counter_ns()
        signal.complete()
        if how == "await":
            await event
        else:
            event.synchronize()
        took = (time.perf_counter_ns() - begun) / 1e3
        await asyncio.sleep(0)
        return took

    counter = asyncio.create_task(count())
    taken: dict[str, list[float]] = {"await": [], "block": []}
    turned: dict[str, list[int]] = {"await": [], "block": []}
    for turn in range(rounds):
        for how in ("await", "block") if turn % 2 == 0 else ("block", "await"):
            before = turns
            taken[how].append(await once(how))
            turned[how].append(turns - before)
    running = False
    await counter
    return {
        "await gpu_events.Event, µs": statistics.median(taken["await"]),
        "turns of the loop meanwhile": statistics.median(turned["await"]),
        "torch.cuda.Event.synchronize, µs": statistics.median(taken["block"]),
        "turns of the loop meanwhile, which it blocks": statistics.median(turned["block"]),
    }


def sides_here() -> tuple[dict[str, dict[str, Operation]], Callable[[], None], str]:
    """What can be measured, how to wait until all GPU work is done, and a line that says where."""
    if not HAS_GPU:
        streams = ge.Stream("cpu"), ge.Stream("cpu")

        def drain() -> None:
            for stream in streams:
                stream.synchronize()

        return {"ours": of_torch(ge.Event, *streams, drain)}, drain, "no PyTorch, or no GPU: the CPU device alone"

    drain = torch.cuda.synchronize
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    own = ge.Stream("cuda:0"), ge.Stream("cuda:0")
    prompt = ge.Stream("cuda:0", signal="prompt"), ge.Stream("cuda:0", signal="prompt")
    where = f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}"
    sides = {
        "ours": of_torch(ge.Event, *streams, drain),
        "ours, own stream": of_torch(ge.Event, *own, drain),
        "ours, prompt": of_torch(ge.Event, *prompt, drain),
        "PyTorch": of_torch(torch.cuda.Event, *streams, drain),
    }
    if cupy is not None:
        sides["CuPy"] = of_cupy(drain)
        where += f", CuPy {cupy.__version__}"
    if core is not None:
        sides["cuda.core"] = of_cuda_core(drain)
        where += f", cuda.core {version('cuda-core')}"
    return sides, drain, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--calls", type=int, default=200, help="calls in a round; a CUDA stream takes 256 recordings")
    parser.add_argument("--json", metavar="FILE", help="writes the figures there as well")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.calls < 1:
        parser.error("it takes two rounds and a call")

    sides, drain, where = sides_here()
    print(f"{where}\nnanoseconds a call: medians of {arguments.rounds} rounds of {arguments.calls} calls, all in turn; in brackets the middle 80 %\n")
    figures: dict[str, Any] = measure(sides, drain, arguments.rounds, arguments.calls)
    print("".join([f"{'':27}", *(f"{side:>20}" for side in sides), f"{'best peer / ours':>18}" if HAS_GPU else ""]))
    for operation in NAMES:
        cells = [f"{median:8,.0f} ({low:,.0f}–{high:,.0f})" for low, median, high in figures[operation].values()]
        peers = [taken[1] for side, taken in figures[operation].items() if not side.startswith("ours")]
        ratio = f"{min(peers) / figures[operation]['ours'][1]:18.1f}" if peers else ""
        print("".join([f"{operation:27}", *(f"{cell:>20}" for cell in cells), ratio]))
    if HAS_GPU:
        figures["beside a loop"] = asyncio.run(beside_a_loop(arguments.rounds))
        print()
        for what, value in figures["beside a loop"].items():
            print(f"{what:58}{value:12,.1f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"where": where, "figures": figures}, file, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
