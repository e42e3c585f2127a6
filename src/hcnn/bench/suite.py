"""The tables of `hcnn bench`: every method against the two-step network, the other networks, and how cost grows."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from hcnn.bench.case import Case, prepare
from hcnn.bench.machine import measure_limits
from hcnn.bench.memory import STATM, peak_of_step
from hcnn.bench.throughput import compared_networks, measure_networks
from hcnn.bench.timing import throughput, time_steps
from hcnn.functional import native_available, native_description
from hcnn.models.factory import create_model
from hcnn.runs.allocator import keep_freed_memory
from hcnn.runs.environment import commit, hardware


def race(cases: list[Case], *, train: bool, rounds: int = 3, device: str = "cpu") -> list[dict[str, Any]]:
    """Time cases alternately, A B C A B C …, after three rounds that warm up: until then the process's memory grows.

    Args:
        cases: what to run; the others are compared with the first.
        train: whether to train.
        rounds: how often each is timed.
        device: type of the device.

    Returns:
        For each case images per second (median, lowest, highest), and the median of its ratios to the first case,
        round by round.

    Example:
        >>> rows = race([Case("hcnn_digits", side=8, batch=2), Case("hcnn_digits", side=8, batch=4)], train=False)
        >>> rows[0]["ratio"], rows[1]["low"] <= rows[1]["images_per_second"]
        (1.0, True)
    """
    steps = [prepare(case, train=train, device=device) for case in cases]
    taken = time_steps(steps, rounds=rounds, warm_up=3, device=device)
    rows = []
    for case, own in zip(cases, taken, strict=True):
        speed = throughput(case.batch, own)
        faster = (first / other * case.batch / cases[0].batch for first, other in zip(taken[0], own, strict=True))
        rows.append(
            {
                **asdict(case),
                "train": train,
                "images_per_second": speed.median,
                "low": speed.low,
                "high": speed.high,
                "ratio": statistics.median(faster),
            }
        )
    return rows


def dense_multiply_adds(case: Case) -> int:
    """Multiply-adds per image of a case in the dense form, whichever form it is computed in."""
    model = create_model(case.name, **case.overrides)
    return model.multiply_adds((case.side, case.side))


def method_cases(*, quick: bool = False) -> list[list[Case]]:
    """The groups of the first table, each of which begins with its two-step baseline."""
    wide = 2 if quick else 16
    networks: list[tuple[str, dict[str, Any], int]] = [
        ("hcnn_cifar10", {}, wide),
        ("hcnn_cifar10", {"boundary": "circular"}, wide),
        ("hcnn_small_cifar10", {}, 8 if quick else 50),
        ("hcnn_small_cifar10", {"boundary": "circular"}, 8 if quick else 50),
        ("hcnn_plus_cifar10", {}, 2 if quick else 8),
        ("hcnn_plus_cifar10", {"boundary": "circular"}, 2 if quick else 8),
    ]
    groups = []
    for name, overrides, batch in networks:
        own = Case(name, overrides, batch=batch)
        forms = ["auto"] if "plus" in name else ["auto", "dense", "spectral"]
        group = [replace(own, two_step=True)]
        group += [replace(own, method=form, dtype=dtype) for dtype in ("float32", "bfloat16") for form in forms]
        if native_available(torch.zeros(1)):  # "auto" takes them: the same without, beside it
            group.insert(2, replace(own, native=False))
        groups.append(group)
    return groups


def growth_cases(*, quick: bool = False) -> Iterator[tuple[str, Case]]:
    """The third table: one axis at a time away from K = 8, J = 12, 32×32, batch 16."""
    base = Case("hcnn_small_cifar10", batch=4 if quick else 16)
    for width in (4, 8, 16) if quick else (4, 8, 16, 32):
        yield "K", replace(base, overrides={"width": width}, batch=base.batch if width < 32 else 2)
    for side in (16, 32) if quick else (16, 32, 64, 128, 224):
        yield "side", replace(base, side=side, batch=max(1, base.batch * 32 * 32 // side**2))
    for depth in (6, 9, 12, 16):
        places = tuple(j for j in (5, 9) if j < depth)
        yield "J", replace(base, overrides={"depth": depth, "downsample": places})
    for batch in (1, 4, 16) if quick else (1, 4, 16, 64, 256):
        yield "batch", replace(base, batch=batch)


def _with_default_allocator(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Baseline and networks with the default allocator; meaningful only before `keep_freed_memory`."""
    rows = []
    for group in method_cases():
        if group[0].overrides:
            continue
        say(f"{group[0].name}, allocator as it comes")
        cases = [group[0], *(case for case in group if case.method == "auto" and case.native and not case.two_step)]
        for train in (False, True):
            rows += race(cases, train=train, rounds=rounds)
    return rows


def run_suite(
    *, quick: bool = False, device: str = "cpu", rounds: int = 3, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure everything in one run.

    Args:
        quick: use small batches and few sizes, and skip memory, which is measured on Linux only; this checks that it
            works and measures nothing.
        device: type of the device.
        rounds: how often each step is timed.
        say: called with a description of each measurement.

    Returns:
        The record that `hcnn bench` writes as JSON.
    """
    plain = _with_default_allocator(rounds, say) if device == "cpu" and not quick else []
    kept = device == "cpu" and keep_freed_memory()
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "rounds": rounds,
        "hardware": hardware(torch.device(device)),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "commit": commit(),
        "freed_memory_kept": kept,
        "native_kernels": native_description(),
        "default_allocator": plain,
    }
    say("limits of the machine")
    images = 2 if quick else 16
    kinds = (torch.float32, torch.bfloat16)
    record["limits"] = [asdict(measure_limits(kind, device=device, images=images)) for kind in kinds]
    record["methods"], record["memory"] = [], []
    for group in method_cases(quick=quick):
        say(f"{group[0].name} {group[0].overrides or ''}")
        macs = dense_multiply_adds(group[0])
        for train in (False, True):
            rows = race(group, train=train, rounds=rounds, device=device)
            record["methods"] += [{**row, "dense_multiply_adds": macs} for row in rows]
        if not quick and device == "cpu" and STATM.exists():
            chosen = [case for case in group if case.two_step or (case.method == "auto" and case.native)]
            for case in chosen:
                record["memory"].append({**asdict(case), "bytes": peak_of_step(asdict(case))})
    say("other networks")
    speeds = measure_networks(compared_networks(), batch=2 if quick else 16, rounds=rounds, device=device)
    record["networks"] = [
        {"name": name, "inference": one["infer"].median, "training": one["train"].median}
        for name, one in speeds.items()
    ]
    say("growth")
    record["growth"] = []
    for axis, case in growth_cases(quick=quick):
        row = race([case], train=False, rounds=rounds, device=device)[0]
        record["growth"].append({"axis": axis, **row, "dense_multiply_adds": dense_multiply_adds(case)})
    return record
