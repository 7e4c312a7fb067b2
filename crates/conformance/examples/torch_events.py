#!/usr/bin/env python3
"""What PyTorch's events cost, in the rounds of `cuda_hardware costs`: twenty calls, then drained, outside of the timed part.

    python3 crates/conformance/examples/torch_events.py
"""

import statistics
import time

import torch

CALLS = 20
ROUNDS = 2_000


def new(stream):
    torch.cuda.Event().record(stream)


def new_timed(stream):
    torch.cuda.Event(enable_timing=True).record(stream)


def rows(stream):
    kept = torch.cuda.Event()
    kept.record(stream)
    done = torch.cuda.Event()
    done.record(stream)
    torch.cuda.synchronize()
    yield "create + record + drop", lambda: new(stream)
    yield "create + record + drop, timed", lambda: new_timed(stream)
    yield "record alone, one event again", lambda: kept.record(stream)
    yield "query of a reached event", lambda: done.query()
    yield "an empty call", lambda: None


def main():
    torch.cuda.init()
    stream = torch.cuda.Stream()
    entries = list(rows(stream))
    samples = [[] for _ in entries]
    for number in range(ROUNDS + ROUNDS // 10):
        for turn in range(len(entries)):
            index = (number + turn) % len(entries)
            call = entries[index][1]
            begun = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            took = (time.perf_counter_ns() - begun) / CALLS
            torch.cuda.synchronize()
            if number >= ROUNDS // 10:
                samples[index].append(took)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    print(f"{'':40} {'median':>10} {'p99':>10}  [ns]")
    for (name, _), its in zip(entries, samples):
        print(f"{name:40} {statistics.median(its):10.1f} {sorted(its)[int(0.99 * len(its))]:10.1f}")


if __name__ == "__main__":
    main()
