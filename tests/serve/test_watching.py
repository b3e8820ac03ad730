"""What follows when a process of the server dies: first with stand-ins, then with real ones."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("litserve")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from lightning_arrcoc.serve import watching  # noqa: E402
from lightning_arrcoc.serve.command import _stopped_by_signals  # noqa: E402
from lightning_arrcoc.serve.lifeline import Lifeline  # noqa: E402
from lightning_arrcoc.serve.watching import Watcher  # noqa: E402

from .running import (  # noqa: E402
    KEY,
    PATIENCE_S,
    PROGRAM,
    Served,
    free_port,
    save_untrained,
    started,
)

DIES = "import os\nif __name__ == '__mp_main__':\n    os.kill(os.getpid(), 9)\n"  # when spawned


def living() -> Any:
    return SimpleNamespace(pid=os.getpid(), exitcode=None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    monkeypatch.setattr(watching, "IDLE_S", 0.05)
    return SimpleNamespace(http=living(), inference_workers=[living()], told=[])


@pytest.fixture
def lifeline() -> Lifeline:
    return Lifeline()


def ended(watcher: Watcher, server: Any, act: Callable[[], None]) -> bool:
    """Do something while a server is watched, and see the watcher wake who waits."""
    try:
        with _stopped_by_signals(server.told), watcher:
            act()
            time.sleep(PATIENCE_S)
    except KeyboardInterrupt:
        return True
    return False


def test_a_model_that_was_loaded_is_let_start_again_until_it_cannot_be(
    server: Any, lifeline: Lifeline
) -> None:
    watcher = Watcher(server, lifeline)
    began = time.monotonic()

    def die_twice() -> None:
        lifeline.report()
        server.inference_workers[0].exitcode = -9
        until = time.monotonic() + PATIENCE_S
        while not lifeline.is_cut(began) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert watcher.verdict is None
        server.inference_workers[0] = living()
        lifeline.report("ValueError: the file is gone")
        server.inference_workers[0].exitcode = 1

    assert ended(watcher, server, die_twice)
    assert watcher.verdict == "the model could not be loaded: ValueError: the file is gone"
    assert watcher.has_served
    assert not lifeline.is_cut(time.monotonic())


def test_whose_end_was_asked_for_is_not_an_error(server: Any, lifeline: Lifeline) -> None:
    server.told.append(signal.SIGTERM)
    watcher = Watcher(server, lifeline)
    began = time.monotonic()
    with watcher:
        server.inference_workers[0].exitcode = server.http.exitcode = -15
        watcher._thread.join(PATIENCE_S)
    assert watcher.verdict is None
    assert not lifeline.is_cut(began)


@pytest.mark.parametrize(
    ("code", "how"),
    [(-9, "killed by signal 9, as where memory runs out"), (-15, "killed by signal 15"),
     (3, "exit code 3")],
)  # fmt: skip
def test_the_end_of_a_process_is_told(code: int, how: str) -> None:
    assert watching.how_it_ended(SimpleNamespace(exitcode=code)) == how


def test_a_model_that_is_killed_while_it_is_loaded_ends_the_command(
    tmp_path: Path, backbone_folder: Path, run_program: Callable[..., Any]
) -> None:
    save_untrained(tmp_path / "one.ckpt", backbone_folder)
    (tmp_path / "program.py").write_text(DIES + PROGRAM)
    words = ["ckpt=one.ckpt", f"model.backbone={backbone_folder}", f"server.port={free_port()}"]
    left = run_program(tmp_path / "program.py", "serve", *words, patience_s=60)
    assert left.returncode == 2
    (line,) = [line for line in left.stderr.splitlines() if line.startswith("error:")]
    assert "the model could not be loaded: its process ended (killed by signal 9" in line


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Iterator[Served]:
    with started(tmp_path_factory.mktemp("deaths"), backbone_folder) as served:
        yield served


@pytest.fixture
def web(real: Served) -> Iterator[Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=real.url, headers=headers, timeout=PATIENCE_S) as made:
        yield made


def child(served: Served, *, is_model: bool) -> psutil.Process:
    """The process with the model is one that was spawned; what answers HTTP was forked last."""
    family = psutil.Process(served.process.pid).children()
    spawned = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    return spawned[0] if is_model else [one for one in family if one not in spawned][-1]


def test_whom_a_dead_model_leaves_is_told_at_once_and_the_next_is_answered(
    real: Served, web: Any, chat: Any
) -> None:
    def inside() -> str:
        lines = web.get("/metrics").text.splitlines()
        return next(line.split()[-1] for line in lines if "arr_coc_queue_length " in line[:21])

    path, fields = "/v1/chat/completions", chat(max_tokens=600)
    with (
        ThreadPoolExecutor(1) as thread,
        web.stream("POST", path, json=fields | {"stream": True}) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        behind = thread.submit(web.post, path, json=fields)
        until = time.monotonic() + PATIENCE_S
        while inside() != "2.0" and time.monotonic() < until:
            time.sleep(0.01)
        child(real, is_model=True).kill()
        began = time.monotonic()
        said = [line for line in lines if line]
        assert '"type":"server_error"' in said[-1]
        refused = behind.result()
        assert time.monotonic() - began < 20  # instead of 120 s
    assert (refused.status_code, refused.json()["error"]["type"]) == (500, "server_error")
    assert inside() == "0.0"
    assert web.post(path, json=chat()).status_code == 200  # it waits for the next


def test_without_what_answers_http_the_command_ends(real: Served) -> None:
    family = psutil.Process(real.process.pid).children(recursive=True)
    child(real, is_model=False).kill()
    real.process.join(60)
    assert real.process.exitcode == 1
    told = [line for line in real.said.read_text().splitlines() if line.startswith("error:")]
    assert told == [
        "error: the process that answers HTTP ended (killed by signal 9, as where memory runs out)"
    ]
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert "Traceback" not in real.said.read_text()
