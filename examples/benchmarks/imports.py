"""What importing one drop-in costs over Lightning itself.

    python examples/benchmarks/imports.py [--repeats 5]

Forked from one process that has imported Lightning, each repeat imports one name and ends. *s*:
processor time, median and largest.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch  # noqa: F401  # what all of them stand on

TARGET_S = 0.15


def seconds(place: tuple[str, str]) -> float:
    module, name = place
    start = time.process_time()
    getattr(importlib.import_module(module), name)
    return time.process_time() - start


def drop_ins(folder: str) -> list[str]:
    names: list[str] = importlib.import_module(f"lightning_arrcoc.{folder}").__all__
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    fork = multiprocessing.get_context("fork")

    def apart(work: Callable[..., Any], *given: Any) -> Any:  # in a process that ends with it
        with fork.Pool(1) as pool:
            return pool.apply(work, given)

    slowest = 0.0
    for folder in ("callbacks", "plugins", "loggers"):
        module = f"lightning_arrcoc.{folder}"
        for name in apart(drop_ins, folder):
            found = [apart(seconds, (module, name)) for _ in range(asked.repeats)]
            slowest = max(slowest, *found)
            print(f"{f'{module}.{name}':50} {statistics.median(found):6.3f} {max(found):6.3f} s")
    from measuring import machine  # which imports everything

    print(f"to reach: {TARGET_S} s; slowest {slowest:.3f} s; {', '.join(machine().values())}")


if __name__ == "__main__":
    main()
