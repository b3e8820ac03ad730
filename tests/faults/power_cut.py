"""Cut the power of a file system at a random moment of saving, again and again; needs root.

    python tests/faults/power_cut.py [--cuts 40] [--saver ours]

A file holds an ext4, mounted through a loop device. FS_IOC_SHUTDOWN stops it without writing its
journal out; what was not on disk by then is gone when it is mounted again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from kill import acknowledged, save_until_killed, seconds_a_save
from savers import SAVERS, step_in

FS_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2  # linux/fs.h, ext4.h
IMAGE_BYTES = 192 << 20
SAVES = 6  # Chosen by us: the power goes within about as many


def shell(*words: str | Path) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # mkfs is not on everybody's
    words = (shutil.which(str(words[0]), path=path) or words[0], *words[1:])
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def cut_once(saver: str, image: Path, mounted: Path, step: int, longest_s: float) -> dict[str, int]:
    """Name -> step of what had been acknowledged when the power went."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            save_until_killed(saver, mounted / "run", step, writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.read(reading, len(b"-1 ready\n"))
    time.sleep(random.uniform(0, longest_s))
    root = os.open(mounted, os.O_RDONLY)
    os.kill(child, signal.SIGSTOP)  # or it might fill the pipe with what came too late
    fcntl.ioctl(root, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
    os.close(root)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shell("umount", mounted)
    shell("mount", "-o", "loop", image, mounted)
    return acknowledged(reading)


def cut_many(cuts: int, saver: str, folder: Path) -> dict[str, int]:
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    shell("mkfs.ext4", "-q", image)
    shell("mount", "-o", "loop", image, mounted)
    report = {"cuts": cuts, "acknowledged": 0, "torn": 0, "lost": 0}
    try:
        (mounted / "run").mkdir()
        os.sync()
        longest_s = SAVES * seconds_a_save("ours", mounted / "run")
        for cut in range(cuts):
            promised = cut_once(saver, image, mounted, 1000 * cut, longest_s)
            report["acknowledged"] += sum(step >= 0 for step in promised.values())
            for name, step in promised.items():
                if step >= 0:
                    report["lost"] += (step_in(mounted / "run" / name) or 0) < step
            for path in (mounted / "run").glob("*"):
                report["torn"] += path.suffix == ".ckpt" and step_in(path) is None
                if path.name != "last.ckpt":
                    path.unlink()
            os.sync()
    finally:
        shell("umount", mounted)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--saver", choices=SAVERS, default="ours")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(cut_many(asked.cuts, asked.saver, Path(folder))))


if __name__ == "__main__":
    main()
