"""Sees when a process of the server dies.

======================  ==========================================================================
what died               what follows
======================  ==========================================================================
what answers HTTP       the command ends: LitServe would not notice, and keep the port open
the model's             its requests are ended with an error, and LitServe starts it anew
the model's, unloaded   the command ends: LitServe would wait for it, or start it again for ever
======================  ==========================================================================
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litserve import LitServer

from lightning_arrcoc.serve.lifeline import Lifeline
from lightning_arrcoc.serve.model_worker import IDLE_S

LOOK_S = 0.2  # chosen by us: short against the start of a process


class WatchedServer(LitServer):
    """LitServe, which shows its processes and starts none while it is ending.

    Attributes:
        http: the process that answers HTTP; None before there is one.
        inference_workers: LitServe's own, with the model's process alone.
        told: the signals that end it.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.http: Any = None
        self.inference_workers: list[Any] = []
        self.told: list[int] = []

    def _start_server(self, *given: Any, **named: Any) -> dict[int, Any]:
        # LitServe 0.2.19 keeps what this gives in a local variable; nothing public has it.
        processes: dict[int, Any] = super()._start_server(*given, **named)
        (self.http,) = processes.values()
        return processes

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """LitServe's own, in the process that answers HTTP.

        A terminal sends Ctrl-C to all processes. Here SIGINT behind the SIGTERM by which LitServe
        ends this one would break answers off: uvicorn takes it for impatience.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        async with super().lifespan(app):
            yield

    def launch_single_inference_worker(self, lit_api: Any, worker_id: int) -> Any:
        """Start the model's process anew, as LitServe does where it finds it dead."""
        if self.told:  # one that is started behind the end would outlive it
            return self.inference_workers[worker_id]
        return super().launch_single_inference_worker(lit_api, worker_id)


class Watcher:
    """A thread that watches while its `with` lasts; called in the main thread.

    Args:
        server: whose processes are watched. To end it, SIGTERM is sent to this process.
        lifeline: of the server.

    Attributes:
        verdict: why the command has to end; None where nothing forces it to.
        has_served: whether the model was loaded once.
    """

    def __init__(self, server: WatchedServer, lifeline: Lifeline) -> None:
        self.verdict: str | None = None
        self.has_served = False
        self._server, self._lifeline = server, lifeline
        self._problems: dict[int, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        server, model, dead = self._server, None, None
        while not self._over.wait(LOOK_S):
            self._hear()
            if server.http is not None and server.http.exitcode is not None:
                self._over.wait(IDLE_S)  # the server itself may have been told to end, a bit later
                self._end(f"the process that answers HTTP ended ({how_it_ended(server.http)})")
                return
            if model is None:  # kept until its death is seen: LitServe replaces it in its list
                model = next((one for one in server.inference_workers if one is not dead), None)
            if model is not None and model.exitcode is not None:
                self._mourn(model)
                model, dead = None, model

    def _hear(self) -> None:
        for process, problem in self._lifeline.reports():
            self._problems[process] = problem
            self.has_served |= not problem

    def _mourn(self, model: Any) -> None:
        self._hear()
        problem = self._problems.pop(model.pid, None)
        # LitServe's queue goes on with the wait of the dead for a job, and would give it one.
        self._over.wait(IDLE_S)
        self._lifeline.cut()
        if problem == "" and self._server.http is not None:
            if not self._server.told:
                print(f"note: the model's process ended ({how_it_ended(model)}); it is started "
                      "again", file=sys.stderr, flush=True)  # fmt: skip
            return
        reason = problem or f"its process ended ({how_it_ended(model)})"
        self._end(f"the model could not be loaded: {reason}")

    def _end(self, verdict: str) -> None:
        if self._server.told:
            return
        self.verdict = verdict
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # another thread's signal would not wake it


def how_it_ended(process: Any) -> str:
    """By a signal, or with a code."""
    code = process.exitcode
    if code >= 0:
        return f"exit code {code}"
    why = ", as where memory runs out" if code == -signal.SIGKILL else ""
    return f"killed by signal {-code}{why}"
