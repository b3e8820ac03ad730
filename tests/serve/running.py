"""A server started by the command, and ended by a signal."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import torch

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.serve.settings import KEY_VARIABLE
from lightning_arrcoc.vlm.identity import backbone_identity

from ..conftest import FORKED, WARM

KEY = "the-key-of-this-test"
PROGRAM = "from lightning_arrcoc.cli import main\n\nif __name__ == '__main__':\n    main()\n"
PATIENCE_S = 300
LIMITS = ("max_queue=4", "max_batch=4", "max_body_mib=1", "max_image_mib=0.5")


class Served(NamedTuple):
    """A running server."""

    url: str
    process: Any
    said: Path


def save_untrained(path: Path, backbone: Path) -> None:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained(str(backbone), dtype="float32")
    weights = {f"arr_coc.{name}": value for name, value in model.arr_coc.state_dict().items()}
    content: dict[str, object] = {
        "state_dict": weights,
        "backbone": backbone_identity(model.backbone),
        "pytorch-lightning_version": "2.6.6",
        STAMPS: {"architecture": {"own": ArrCocModule(model).architecture()}},
    }
    write_checkpoint(content, path)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(folder: Path, backbone_folder: Path) -> Iterator[Served]:
    """Random weights hardly ever end an answer, so that there is one to be in the middle of."""
    save_untrained(folder / "one.ckpt", backbone_folder)
    (folder / "program.py").write_text(PROGRAM)
    port = free_port()
    words = ["serve", "ckpt=one.ckpt", f"model.backbone={backbone_folder}",
             f"server.port={port}", *(f"server.{limit}" for limit in LIMITS)]  # fmt: skip
    given = {
        "command": [str(folder / "program.py"), *words], "folder": str(folder),
        "outputs": (str(folder / "out"), str(folder / "err")),
        "environment": {**os.environ, KEY_VARIABLE: KEY, "OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    process = FORKED.Process(target=runpy.run_path, args=(str(WARM), {"GIVEN": given}, "warm"))
    process.start()
    served = Served(f"http://127.0.0.1:{port}", process, folder / "err")
    family = []
    try:
        until = time.monotonic() + PATIENCE_S
        while not is_ready(served.url):
            assert process.is_alive(), served.said.read_text()
            assert time.monotonic() < until, served.said.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        yield served
    finally:
        process.terminate()
        process.join(PATIENCE_S)
        for child in [p for p in family if p.is_running()]:
            child.kill()


def is_ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health", timeout=10).status_code == 200)
    except httpx.HTTPError:
        return False


def stop_in_the_middle(served: Served, fields: dict[str, Any], number: signal.Signals) -> int:
    """Send a signal while an answer is streamed, which has to be finished.

    SIGTERM goes to the server, as from a supervisor; SIGINT to all its processes, as from a
    terminal.

    Returns:
        the exit code.
    """
    family = psutil.Process(served.process.pid).children(recursive=True)
    chunks: list[str] = []
    begun = threading.Event()

    def listen() -> None:
        url, headers = f"{served.url}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
        with httpx.stream(
            "POST", url, json=fields | {"stream": True}, headers=headers, timeout=PATIENCE_S
        ) as answer:
            for line in answer.iter_lines():
                chunks.append(line)
                begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(PATIENCE_S)
    os.kill(served.process.pid, number)
    if number == signal.SIGINT:
        for delay_s in (0, 0.3):  # before and behind what the server itself sends them
            time.sleep(delay_s)
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
    listener.join(PATIENCE_S)
    served.process.join(PATIENCE_S)
    said = [line for line in chunks if line]
    assert said[-1] == "data: [DONE]"
    assert json.loads(said[-2][6:])["choices"][0]["finish_reason"] in ("stop", "length")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    told = served.said.read_text()
    assert KEY not in told
    assert "Traceback" not in told
    return int(served.process.exitcode)
