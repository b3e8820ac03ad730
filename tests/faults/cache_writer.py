"""A process of its own that writes textures, for tests that disturb it.

    python cache_writer.py kill FOLDER TIMES SEED   kill writers, print what was found afterwards
    python cache_writer.py serve                    do what is read, a line at a time

Writers write batches of `BATCH` numbered entries. Number n is `textures(n)` under `key(n)`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import pack

BATCH = 4
SMALL_MAP = 2**18  # so that it has to grow, while it is read or its writer is killed
FRESH_EVERY = 10  # kills; a new file can be killed at its birth


def key(number: int) -> bytes:
    return f"{number:064x}".encode()


def textures(number: int) -> torch.Tensor:
    """As large as those of a picture of 512 px."""
    return torch.full((13, 16, 16), number % 2048, dtype=torch.float16)


def batch(number: int) -> dict[bytes, bytes]:
    numbers = range(number * BATCH, (number + 1) * BATCH)
    return {key(one): pack(key(one), textures(one)) for one in numbers}


# -------------------------------------------------------------------------------------- killing


def kill_writers(folder: Path, times: int, seed: int) -> dict[str, int]:
    """Kill a writer again and again, at any moment of opening, writing and growing.

    Returns:
        kills: that met a writer at work; lost: batches that were acknowledged and are not there;
        damaged: entries that do not verify; unopened: caches that do not open; over: batches that
        are there and were not acknowledged, at most one a kill.
    """
    chance = random.Random(seed)
    found = dict.fromkeys(("kills", "lost", "damaged", "unopened", "over", "batches"), 0)
    for life in range(times):
        at = folder / str(life // FRESH_EVERY)
        begun = written(at)
        writing = chance.random() < 0.75  # else perhaps before it has begun
        acknowledged = killed_writer(at, begun, writing, chance.uniform(0, 0.1))
        found["kills"] += 1
        try:
            there = written(at)
            found["damaged"] += broken(at, there)
        except (OSError, ValueError):
            found["unopened"] += 1
            continue
        found["lost"] += max(0, acknowledged - there)
        found["over"] += max(0, there - acknowledged)
        found["batches"] += there - begun
    return found


def killed_writer(folder: Path, begin: int, writing_first: bool, seconds: float) -> int:
    """How many batches it had acknowledged, counted from the first ever."""
    reading, writing = os.pipe()
    ready, set_ready = os.pipe()
    child = os.fork()
    if not child:
        os.write(set_ready, b".")
        with TextureWriter(folder) as writer:
            for number in range(begin, begin + 10**6):
                writer.put(batch(number))
                os.write(writing, b".")
    os.close(writing)
    os.read(ready, 1)
    acknowledged = begin
    if writing_first:
        acknowledged += len(os.read(reading, 1))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    while more := os.read(reading, 2**16):
        acknowledged += len(more)
    for descriptor in (reading, ready, set_ready):
        os.close(descriptor)
    return acknowledged


def written(folder: Path) -> int:
    """Batches that are there; they come whole and in order."""
    entries = len(TextureCache(folder))
    assert entries % BATCH == 0, "a batch is there in part"
    return entries // BATCH


def broken(folder: Path, batches: int) -> int:
    cache = TextureCache(folder)
    values = ((number, cache.get(key(number))) for number in range(batches * BATCH))
    return sum(value is None or not torch.equal(value, textures(n)) for n, value in values)


# -------------------------------------------------------------------------------------- serving


def serve() -> None:
    """Answer each line: open, put FIRST LAST, close, get NUMBER or fill BYTES, each of a folder."""
    writers: dict[str, TextureWriter] = {}
    for line in sys.stdin:
        word, folder, *words = line.split()
        numbers = [int(number) for number in words]
        answer = "done"
        if word == "open":
            writers[folder] = TextureWriter(folder).__enter__()
        elif word == "put":
            for number in range(*numbers):
                writers[folder].put(batch(number))
        elif word == "close":
            writers.pop(folder).__exit__(None, None, None)
        elif word == "get":
            answer = str(TextureCache(folder).get(key(numbers[0])) is not None)
        else:
            answer = fill(folder, numbers[0])
        print(answer, flush=True)


def fill(folder: str, most_bytes: int) -> str:
    """Write until a file would be larger; how many batches that were, and the error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    number = 0
    try:
        with TextureWriter(folder) as writer:
            while True:
                writer.put(batch(number))
                number += 1
    except OSError as error:
        return f"{number} {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


if __name__ == "__main__":
    lmdb_files.START_MAP = SMALL_MAP
    if sys.argv[1] == "serve":
        serve()
    else:
        where, times, seed = sys.argv[2:]
        print(json.dumps(kill_writers(Path(where), int(times), int(seed))))
