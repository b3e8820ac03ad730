"""The process with the model: takes jobs from LitServe's queue, a batch at a time."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty
from typing import Any

import torch
from litserve import LitAPI
from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.serve.lifeline import Lifeline
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.serve.wire import Job, Told, told
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.answering import Piece, answer_together
from lightning_arrcoc.vlm.loading import hide_progress_bars

IDLE_S = 0.5  # how long a wait for the first of a batch lasts before it is begun again
log = logging.getLogger(__name__)


class ChatApi(LitAPI):
    """Loads the model, and answers jobs.

    Args:
        load: makes the model, in the process that will have it.
        settings: of the server.
        spec: its endpoints.
        lifeline: is told that the model is loaded, or what went wrong.
    """

    def __init__(
        self,
        load: Callable[[], ArrCocQwen3VL],
        settings: ServerSettings,
        spec: Any,
        lifeline: Lifeline,
    ) -> None:
        super().__init__(max_batch_size=settings.max_batch, spec=spec, loop=BatchLoop(settings))
        self._load, self.lifeline = load, lifeline
        self.model: ArrCocQwen3VL | None = None

    def setup(self, device: str) -> None:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C lets running answers end
            keep_freed_memory()
            hide_progress_bars()
            self.model = self._load().to(torch.device(device)).eval()
        except Exception as error:
            self.lifeline.report(f"{type(error).__name__}: {error}")
            sys.exit(1)  # of any other exception LitServe would show a traceback as well
        self.lifeline.report()

    def authorize(self) -> None:
        """LitServe's own check of a key is left out: `Access` has done it."""

    def answer(self, jobs: Sequence[Job], tell: Callable[[int, Told], None]) -> None:
        """Answer jobs together; if that fails, each by itself, so that one cannot spoil others'."""
        assert self.model is not None
        texts = [""] * len(jobs)
        begun: set[int] = set()

        def hear(number: int, piece: Piece) -> None:
            job = jobs[number]
            if job.stream or piece.reason is not None:
                begun.add(number)
                whole = piece if job.stream else piece._replace(text=texts[number] + piece.text)
                tell(number, told(job, whole))
            else:
                texts[number] += piece.text

        try:
            answer_together(self.model, [job.prompt for job in jobs], hear)
        except Exception:
            log.exception("A batch of %d failed.", len(jobs))
        else:
            return
        # Not above: while an error is handled it keeps all that the batch had in memory.
        torch.cuda.empty_cache()  # nothing where CUDA is not in use
        for number in sorted(set(range(len(jobs))) - begun):
            if len(jobs) == 1:
                tell(number, Told("", "error"))
            else:
                self.answer([jobs[number]], partial(_as, number, tell))
        for number in begun:  # of streams nobody can take back what was said
            tell(number, Told("", "error"))


def _as(number: int, tell: Callable[[int, Told], None], _: int, piece: Told) -> None:
    """Tell a piece of one who was asked alone by its place in the batch."""
    tell(number, piece)


class BatchLoop(LitLoop):
    """Waits for a job without polling, and takes those that come soon after it along.

    LitServe's own loop asks the queue a thousand times a second while nothing is there, and ends
    all answers of a batch with its longest.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__()
        self._wait_s, self._most = settings.batch_wait_s, settings.max_batch

    def run(
        self,
        lit_api: LitAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Answer one batch."""
        waiting = self._gather(request_queue)
        if not waiting:
            return
        assert isinstance(lit_api, ChatApi)

        def tell(number: int, piece: Told) -> None:
            consumer, uid, _, _ = waiting[number]
            self.put_response(
                transport, consumer, uid, piece, LitAPIStatus.OK, LoopResponseType.STREAMING
            )

        now = time.monotonic()
        fresh = [
            number
            for number, (_, _, since, job) in enumerate(waiting)
            if now <= job.prompt.deadline and not lit_api.lifeline.is_cut(since)
        ]
        for number in set(range(len(waiting))) - set(fresh):
            tell(number, Told("", "timeout"))
        if fresh:
            jobs = [waiting[number][3] for number in fresh]
            lit_api.answer(jobs, lambda place, piece: tell(fresh[place], piece))

    def _gather(self, request_queue: Any) -> list[tuple[int, str, float, Job]]:
        """The first job that comes, and those that come within the wait behind it."""
        found: list[tuple[int, str, float, Job]] = []
        until = time.monotonic() + IDLE_S
        while len(found) < self._most:
            try:
                left = until - time.monotonic()
                item = request_queue.get(timeout=left) if left > 0 else request_queue.get_nowait()
            except Empty:
                break
            if not found:
                until = time.monotonic() + self._wait_s
            found.append(item)
        return found
