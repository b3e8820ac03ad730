"""The endpoints: a request in, its answer out, whole or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from litserve.specs.base import LitSpec
from litserve.utils import ResponseBufferItem
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from lightning_arrcoc.serve.admission import Admission
from lightning_arrcoc.serve.body import read_body
from lightning_arrcoc.serve.door import Door
from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.lifeline import Lifeline
from lightning_arrcoc.serve.metrics import ServerMetrics
from lightning_arrcoc.serve.questions import ChatRequest, read_question
from lightning_arrcoc.serve.replies import Reply, Usage
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.serve.wire import Job, Told

DECODERS = 2  # threads that open images; chosen by us: more would hold more of them in memory
PATIENCE_S = 60.0  # how long a place is kept for an answer that is late, as the model works on it
LOOK_S = 0.2  # how often an answer's model is seen to be alive
CLOSED = 499  # what is counted where the client was gone before its answer


class ChatSpec(LitSpec):
    """OpenAI's chat completions over LitServe's queues.

    LitServe's own `OpenAISpec` is not taken: it keeps a buffer for every request it has ever had,
    answers errors in another form, makes `n` answers however large `n` is, and knows neither
    `finish_reason` nor fields beyond its own.

    Args:
        door: makes prompts of requests.
        settings: of the server.
        lifeline: tells when the model's process has died.
    """

    def __init__(self, door: Door, settings: ServerSettings, lifeline: Lifeline) -> None:
        super().__init__()
        self.api_path = "/v1/chat/completions"
        self._door, self._settings, self._lifeline = door, settings, lifeline
        self._admission = Admission(settings.max_queue, settings.max_batch)
        self._metrics = ServerMetrics(lambda: self._admission.inside)
        self._threads = ThreadPoolExecutor(DECODERS)
        self._handing = ThreadPoolExecutor(1)  # to the model, whatever pictures take
        self._pumps: set[asyncio.Task[None]] = set()
        self._since = int(time.time())

    def __getstate__(self) -> dict[str, Any]:
        """What the process with the model sees of it: where it is called."""
        return {"api_path": self.api_path}

    @property
    def stream(self) -> bool:
        return True

    def pre_setup(self, lit_api: Any) -> None:
        self.add_endpoint(self.api_path, self.complete, ["POST"])
        self.add_endpoint("/v1/models", self.models, ["GET"])
        self.add_endpoint("/v1/models/{name:path}", self.one_model, ["GET"])
        self.add_endpoint("/metrics", self.metrics, ["GET"])

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._metrics.page(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        """The model, by its name."""
        name = request.path_params["name"]
        if name != self._settings.name:
            error = RequestError(404, f"There is no model {name!r}.", code="model_not_found")
            return JSONResponse(error.body(), error.status)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        named = {"id": self._settings.name, "object": "model"}
        return {**named, "created": self._since, "owned_by": "lightning_arrcoc"}

    async def complete(self, request: Request) -> Response:
        """Answer a request, or say in OpenAI's form why not."""
        began = time.monotonic()
        try:
            response = await self._completed(request, began)
        except RequestError as error:
            response = JSONResponse(error.body(), error.status, error.headers)
        except ClientDisconnect:
            response = Response(status_code=CLOSED)
        if not isinstance(response, StreamingResponse):  # a stream has only begun
            self._metrics.ended(response.status_code, time.monotonic() - began)
        return response

    async def _completed(self, request: Request, began: float) -> Response:
        deadline = began + self._settings.timeout_s
        self._admission.enter()
        try:
            asked, job = await _in_time(self._prepared(request, deadline), deadline)
        except BaseException:
            self._admission.leave()
            raise
        pieces = self._submitted(job, began)
        first = await self._next(pieces, deadline)
        wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        reply = Reply(self._settings.name, job, include_usage=wants_usage)
        if not job.stream:
            return JSONResponse(reply.whole(first))
        self._metrics.began(time.monotonic() - began)
        events = self._streamed(reply, first, pieces, began)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    async def _prepared(self, request: Request, deadline: float) -> tuple[ChatRequest, Job]:
        """Read and understand a request; images are opened beside the event loop."""
        body = await read_body(request, self._settings.max_body_mib)

        def understood() -> tuple[ChatRequest, Job]:
            asked = read_question(body)
            prompt = self._door.prompt(asked, deadline)
            return asked, Job(prompt, asked.arr_coc.explain, bool(asked.stream))

        return await asyncio.get_running_loop().run_in_executor(self._threads, understood)

    def _submitted(self, job: Job, began: float) -> asyncio.Queue[Told]:
        """Hand a job to the model; its place is given back when the model is done with it."""
        pieces: asyncio.Queue[Told] = asyncio.Queue()
        pump = asyncio.create_task(self._pump(job, pieces, began))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return pieces

    async def _pump(self, job: Job, pieces: asyncio.Queue[Told], began: float) -> None:
        """Bring pieces from the model, whether somebody still waits for them or not."""
        since = time.monotonic()
        uid = f"{id(job)}-{time.monotonic_ns()}"
        waiting: deque[Any] = deque()
        item = ResponseBufferItem(event=asyncio.Event(), response_queue=waiting)
        self.response_buffer[uid] = item
        took_s = None

        async def brought() -> None:
            nonlocal took_s
            put = self.request_queue.put
            ticket = (self.response_queue_id, uid, since, job)
            await asyncio.get_running_loop().run_in_executor(self._handing, put, ticket)
            async for piece, _ in self.data_streamer(waiting, item.event, send_status=True):
                pieces.put_nowait(piece)
                if piece.reason is not None:
                    took_s = time.monotonic() - began
                    if piece.reason in ("stop", "length"):
                        self._metrics.used(Usage.of(job, piece))
                    return

        bringing = asyncio.ensure_future(brought())
        latest = job.prompt.deadline + PATIENCE_S
        try:
            while time.monotonic() < latest and not self._lifeline.is_cut(since):
                if (await asyncio.wait([bringing], timeout=LOOK_S))[0]:
                    break
        finally:
            bringing.cancel()
            if took_s is None:  # nobody waits any more where it is late
                pieces.put_nowait(Told("", "error"))
            self.response_buffer.pop(uid, None)
            self._admission.leave(took_s)

    async def _next(self, pieces: asyncio.Queue[Told], deadline: float) -> Told:
        """The next piece.

        Raises:
            RequestError: there is none in time, or the model failed.
        """
        piece: Told = await _in_time(pieces.get(), deadline)
        if piece.reason == "timeout":
            raise _timeout()
        if piece.reason == "error":
            raise RequestError(500, "The model failed; its log tells why.", code="model_failed")
        return piece

    async def _streamed(
        self, reply: Reply, piece: Told, pieces: asyncio.Queue[Told], began: float
    ) -> AsyncIterator[bytes]:
        status = CLOSED
        try:
            yield reply.opening() + reply.chunks(piece)
            while piece.reason is None:
                piece = await self._next(pieces, began + self._settings.timeout_s)
                yield reply.chunks(piece)
            status = 200
        except RequestError as error:
            status = error.status
            yield reply.broken_off(error)
        finally:
            self._metrics.ended(status, time.monotonic() - began)


async def _in_time(work: Any, deadline: float) -> Any:
    """What `work` gives, unless the deadline comes first."""
    try:
        return await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError as error:
        raise _timeout() from error


def _timeout() -> RequestError:
    return RequestError(504, "The answer took too long; ask for fewer tokens.", code="timeout")
