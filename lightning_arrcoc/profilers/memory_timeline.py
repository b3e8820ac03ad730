"""A picture of memory over time, from a trace."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

MEMORY, STEP = "[memory]", "ProfilerStep#"
KINDS = {0: "CPU", 1: "CUDA"}  # as torch numbers kinds of devices
MIB = 2**20


def draw_memory(trace: Mapping[str, Any]) -> bytes:
    """A PNG: what tensors held at each allocation and release, a line a device.

    Args:
        trace: of a profiler with `profile_memory`, as Chrome's JSON holds it. On a CPU memory
            counts from the beginning of the trace, on CUDA from that of the process.
    """
    # Imported here: it is heavy, and no run without a profile needs it.
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    steps: dict[str, float] = {}
    for event in trace["traceEvents"]:
        if event.get("name") == MEMORY:
            told = event["args"]
            kind, number = told["Device Type"], told["Device Id"]
            name = KINDS.get(kind, f"device of type {kind}")
            device = f"{name} {number}" if number >= 0 else name
            lines[device].append((event["ts"], told["Total Allocated"] / MIB))
        elif str(event.get("name")).startswith(STEP) and event.get("ph") == "X":
            steps.setdefault(event["name"].removeprefix(STEP), event["ts"])
    begin = min((line[0][0] for line in lines.values()), default=0.0)
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for device, line in sorted(lines.items()):
        times, held = zip(*sorted(line), strict=True)
        times_ms = [1e-3 * (time - begin) for time in times]
        axes.step(times_ms, held, where="post", label=device, linewidth=0.8)
    for number, time in steps.items():
        at_ms = 1e-3 * (time - begin)
        axes.axvline(at_ms, color="0.7", linewidth=0.8)
        axes.annotate(f"step {number}", (at_ms, 1), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set(xlabel="ms", ylabel="MiB in tensors")
    if lines:
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
