"""Fixtures that many tests share: an untrained tiny Qwen3-VL in the real folder layout."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_module

from lightning_arrcoc.memory import peaks
from lightning_arrcoc.memory.readings import Reading

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
# On Intel's processors MKL else rounds by where in memory numbers lie, so that no two runs need to
# be alike to the bit; read at its first use.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores, and so do theirs
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does so to its background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or Ctrl-C would reach no test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none, and slow tests unless asked for."""
    wants_slow = "slow" in str(config.getoption("-m"))
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "slow" in item.keywords and not wants_slow:
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(autouse=True)
def all_of_lightnings_messages() -> Iterator[None]:
    """A command that a test calls here leaves some of them out for good."""
    filters = list(rank_zero_module.log.filters)
    yield
    rank_zero_module.log.filters[:] = filters


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL as the hub stores it, with random weights in several safetensors shards."""
    from lightning_arrcoc.vlm.tiny.make import make_backbone

    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_backbone(folder, max_shard_size="1MB")
    return folder


WARM = Path(__file__).parent / "warm.py"
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["lightning.pytorch.demos.boring_classes", "lightning_arrcoc.module", "lightning_arrcoc.data",
     "lightning_arrcoc.callbacks", "lightning_arrcoc.plugins", "lightning_arrcoc.commands"]
)  # fmt: skip
PATIENCE_S = 600  # a busy machine is no failure


class Ended(NamedTuple):
    """How a program ended, in one process or several.

    Attributes:
        returncode: the first that is not zero.
        stdout, stderr: one process's after the other's.
        printed: by each process.
    """

    returncode: int
    stdout: str
    stderr: str
    printed: list[str]


@pytest.fixture(scope="session")
def run_program() -> Callable[..., Ended]:
    """Runs a program as `subprocess.run` would, or several joined as torchrun joins them."""

    def run(
        program: Path, *words: str, ranks: int = 1, folder: Path | None = None,
        patience_s: float = PATIENCE_S, **environment: str,
    ) -> Ended:  # fmt: skip
        folder = folder or program.parent
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        outputs, errors, started = [], [], []
        for rank in range(ranks):
            joined = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
            outputs.append(folder / f".out{rank}")
            errors.append(folder / f".err{rank}")
            given = {
                "command": [str(program), *words], "folder": str(folder),
                "outputs": (str(outputs[-1]), str(errors[-1])),
                "environment": {**os.environ, **(joined if ranks > 1 else {}), **environment},
            }  # fmt: skip
            arguments = str(WARM), {"GIVEN": given}, "warm"
            process = FORKED.Process(target=runpy.run_path, args=arguments)
            process.start()
            started.append(process)
        try:
            for process in started:
                process.join(patience_s)
        finally:
            for process in started:
                process.kill()
        codes = [process.exitcode for process in started]
        printed, told = ([take(path) for path in paths] for paths in (outputs, errors))
        code = next((code for code in codes if code != 0), 0)
        assert code is not None, f"still running: {told}"
        return Ended(code, "".join(printed), "".join(told), printed)

    return run


def take(path: Path) -> str:
    text = path.read_text()
    path.unlink()
    return text


@pytest.fixture
def together(tmp_path: Path, run_program: Callable[..., Ended]) -> Callable[[str], list[str]]:
    """Runs code in two processes joined by gloo; `rank` is known to it. Gives what each prints."""

    def run(code: str) -> list[str]:
        (tmp_path / "joined.py").write_text(
            "import os, torch.distributed as dist; rank = int(os.environ['LOCAL_RANK'])\n"
            f"dist.init_process_group('gloo', init_method='file://{tmp_path}/meeting', "
            "rank=rank, world_size=2)\n"
            f"{textwrap.dedent(code)}\n"
            "dist.destroy_process_group()\n"
        )
        ended = run_program(tmp_path / "joined.py", ranks=2)
        assert ended.returncode == 0, ended.stderr
        return ended.printed

    return run


class FakeMemory:
    """A device whose memory is what a test says it is."""

    name, has_allocator = "fake", True

    def __init__(self) -> None:
        self.allocated = self.reserved = self.others = self.retries = self.ooms = 0
        self.peak = self.emptied = 0
        self.total: int | None = 1 << 34
        self.problems: list[str] = []

    def hold(self, allocated: int, reserved: int | None = None, peak: int = 0) -> None:
        self.allocated = allocated
        self.reserved = allocated if reserved is None else reserved
        self.peak = max(self.peak, allocated, peak)

    def read(self) -> Reading:
        peak = max(self.peak, self.allocated)
        return Reading(
            self.allocated, self.reserved, peak, max(peak, self.reserved), self.retries, self.ooms
        )

    def reset_peaks(self) -> None:
        self.peak = self.allocated

    def empty_cache(self) -> None:
        self.emptied += 1
        self.reserved = self.allocated

    def capacity(self) -> int | None:
        return self.total

    def used_by_process(self) -> int | None:
        return self.reserved

    def used_by_all(self) -> int | None:
        return self.reserved + self.others

    def unseen(self) -> list[str]:
        return self.problems


@pytest.fixture
def fake_memory(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    """Stands where the memory of the CPU is read from."""
    memory = FakeMemory()
    monkeypatch.setitem(peaks._SHARED, "cpu:0", peaks.Peaks(memory))
    return memory
