"""One page for all tests, served as the command serves it, and what talks to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SPIED = Path(__file__).parent / "spied.py"
ROOT = Path(__file__).parents[3]
PATIENCE_S = 180  # a busy machine is no failure
MOST_WAITING = 16
MOST_MB = 4


class Reply(NamedTuple):
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: dict[str, str]


class Server(NamedTuple):
    """A page that is served.

    Attributes:
        url: where, without a slash at the end.
        folder: its checkpoints.
        notes: JPEGs that Pillow decoded, a line each.
        process: of the command.
    """

    url: str
    folder: Path
    notes: Path
    process: subprocess.Popen[str]

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, **headers: str
    ) -> Reply:
        """One request, exactly as it is given."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            named.setdefault("content-type", "application/json")
        request = urllib.request.Request(self.url + path, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return Reply(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read(), dict(error.headers))

    def question(self, session: str, *inputs: Any) -> tuple[int, str]:
        """Join the queue as the button does; the status, and all that was sent until the end."""
        body = {"data": list(inputs), "fn_index": 0, "session_hash": session}
        joined = self.ask("/gradio_api/queue/join", json.dumps(body).encode())
        if joined.status != 200:
            return joined.status, joined.body.decode()
        request = f"{self.url}/gradio_api/queue/data?session_hash={session}"
        told = []
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as stream:
            for line in stream:
                told.append(line.decode())
                if b"process_completed" in line or b"unexpected_error" in line:
                    break
        return 200, "".join(told)


def environment(**more: str) -> dict[str, str]:
    usual = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **usual, **more}


def started(command: list[str], folder: Path, **more: str) -> tuple[subprocess.Popen[str], str]:
    """A server, and the address that it prints."""
    said = folder / f"said-{time.monotonic_ns()}.txt"
    with said.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**more), stdout=out, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    while "page: " not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.1)
    return process, said.read_text().split("page: ")[1].split()[0]


def interrupted(process: subprocess.Popen[str]) -> int:
    """The exit code after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()


@pytest.fixture(scope="session")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed; .ci/run has an environment where it is")
    work = tmp_path_factory.mktemp("page")
    folder, notes = work / "checkpoints", work / "notes.txt"
    shutil.copytree(checkpoints, folder)
    process, url = started(
        [sys.executable, str(SPIED), "compare", f"checkpoints={folder}", "port=0",
         f"max_waiting={MOST_WAITING}", f"max_upload_mb={MOST_MB}", "max_new_tokens=3"],
        work, PICTURE_NOTES=str(notes),
    )  # fmt: skip
    yield Server(url, folder, notes, process)
    assert interrupted(process) == 130  # Ctrl-C, as the other commands answer it
