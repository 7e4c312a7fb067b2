"""What events cost beside torch.cuda.Event: each operation with one and then the other, round by round, and the medians.

    python torch_events.py [--rounds N] [--calls N] [--json FILE]

Without PyTorch or a GPU it measures the CPU device alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import gpu_events as ge

try:
    import torch

    HAS_GPU = torch.cuda.is_available()
except ImportError:
    HAS_GPU = False

Operation = Callable[[int], None]
"""Does something so many times."""


def operations(event: Callable[..., Any], first: Any, second: Any, drain: Callable[[], None]) -> dict[str, Operation]:
    """The operations with one kind of event, on two streams that both kinds take."""
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

    return {
        "make, record, drop": make_and_record,
        "the same, timed": make_and_record_timed,
        "record again": record,
        "query a complete one": query,
        "synchronize a complete one": synchronize,
        "record and wait": record_and_wait,
        "elapsed_time": elapsed,
    }


def measure(sides: dict[str, dict[str, Operation]], drain: Callable[[], None], rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Medians in nanoseconds for each operation and side."""
    medians: dict[str, dict[str, float]] = {}
    for name in next(iter(sides.values())):
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, of_side in sides.items():
                # No more than a stream's queue takes: what waits for room is not what is asked for.
                drain()
                begun = time.perf_counter_ns()
                of_side[name](calls)
                taken[side].append((time.perf_counter_ns() - begun) / calls)
        medians[name] = {side: statistics.median(times) for side, times in taken.items()}
    return medians


async def beside_a_loop(rounds: int) -> dict[str, float]:
    """Microseconds from an awaited event's completion to its task, and what the loop did meanwhile.

    The kernels take some milliseconds; another task counts how often it came around, which it could not if anybody blocked.
    """
    stream = torch.cuda.Stream()
    data = torch.zeros(1 << 24, device="cuda")
    turns = 0
    running = True

    async def count() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    awaited: list[float] = []
    blocked: list[float] = []
    turned: list[int] = []
    for _ in range(rounds):
        for how in ("await", "block"):
            torch.cuda.synchronize()
            before = turns
            begun = time.perf_counter_ns()
            with torch.cuda.stream(stream):
                for _ in range(50):
                    data += 1
            if how == "await":
                event = ge.Event()
                event.record(stream)
                await event
                awaited.append((time.perf_counter_ns() - begun) / 1e3)
                turned.append(turns - before)
            else:
                theirs = torch.cuda.Event()
                theirs.record(stream)
                theirs.synchronize()
                blocked.append((time.perf_counter_ns() - begun) / 1e3)
                await asyncio.sleep(0)
    running = False
    await counter
    return {
        "await gpu_events.Event, µs": statistics.median(awaited),
        "turns of the loop meanwhile": statistics.median(turned),
        "torch.cuda.Event.synchronize, which blocks the loop, µs": statistics.median(blocked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--calls", type=int, default=200, help="calls in a round; a CUDA stream takes 256 recordings")
    parser.add_argument("--json", metavar="FILE", help="writes the figures there as well")
    arguments = parser.parse_args()

    if HAS_GPU:
        streams = torch.cuda.Stream(), torch.cuda.Stream()
        own = ge.Stream("cuda:0"), ge.Stream("cuda:0")
        prompt = ge.Stream("cuda:0", signal="prompt"), ge.Stream("cuda:0", signal="prompt")
        drain = torch.cuda.synchronize
        sides = {
            "torch": operations(torch.cuda.Event, *streams, drain),
            "gpu_events": operations(ge.Event, *streams, drain),
            "its own streams": operations(ge.Event, *own, drain),
            "prompt": operations(ge.Event, *prompt, drain),
        }
        print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    else:
        cpu = ge.Stream("cpu"), ge.Stream("cpu")

        def drain() -> None:
            for stream in cpu:
                stream.synchronize()

        sides = {"gpu_events, cpu": operations(ge.Event, *cpu, drain)}
        print("no PyTorch, or no GPU: the CPU device alone")

    figures: dict[str, Any] = measure(sides, drain, arguments.rounds, arguments.calls)
    names = list(sides)
    print(f"nanoseconds a call, medians of {arguments.rounds} rounds of {arguments.calls} calls, in turn")
    print("".join([f"{'':28}", *(f"{side:>18}" for side in names), f"{'first / second':>18}" if HAS_GPU else ""]))
    for operation, of_sides in figures.items():
        ratio = f"{of_sides[names[0]] / of_sides[names[1]]:18.2f}" if HAS_GPU else ""
        print("".join([f"{operation:28}", *(f"{of_sides[side]:18.0f}" for side in names), ratio]))
    if HAS_GPU:
        figures["beside a loop"] = asyncio.run(beside_a_loop(arguments.rounds))
        for what, value in figures["beside a loop"].items():
            print(f"{what:58}{value:12.1f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
