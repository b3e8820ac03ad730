"""The command `serve`: settings and a checkpoint -> a server, until it is told to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_arrcoc.named_checkpoint import trained_source
from lightning_arrcoc.serve.lifeline import Lifeline
from lightning_arrcoc.serve.settings import KEY_VARIABLE, ServerSettings, read_api_key
from lightning_arrcoc.targets import build
from lightning_arrcoc.trained import load_trained, options_of
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import locate, most_positions
from lightning_arrcoc.vlm.saved_folder import SELF, read_settings

if TYPE_CHECKING:
    from lightning_arrcoc.serve.watching import WatchedServer

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as those of the other commands


def serve(config: DictConfig) -> int:
    """The command: settings and checkpoint are sound before anything is loaded.

    Returns:
        as for `run_server`.
    """
    require_extra()
    settings = build(config.server)
    checkpoint = trained_source(config.ckpt)
    options = options_of(config, list(HydraConfig.get().overrides.task), checkpoint)
    return serve_checkpoint(checkpoint, options, settings)


def require_extra() -> None:
    """See that the packages are installed.

    Raises:
        ImportError: one is missing.
    """
    missing = [name for name in ("litserve", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'serve needs {" and ".join(missing)}. Run: pip install "lightning-arrcoc[serve]"'
        )


def check_port(settings: ServerSettings) -> None:
    """Whether the port is free, before anything is loaded.

    Raises:
        ValueError: it is not, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((settings.host, settings.port))
            tried.listen(1)
        except OSError as error:
            raise ValueError(
                f"Port {settings.port} of {settings.host} cannot be taken ({error.strerror}). "
                "Choose another: server.port=..."
            ) from error


def serve_checkpoint(checkpoint: str, options: dict[str, Any], settings: ServerSettings) -> int:
    """Serve what was trained; as for `run_server`.

    Args:
        checkpoint: that is there and whole, or a saved folder.
        options: of the backbone, as for `load_trained`.
        settings: of the server.
    """
    backbone, home = options["backbone"], options["backbone"]
    if Path(checkpoint).is_dir():
        named = read_settings(Path(checkpoint)).backbone
        backbone, home = checkpoint if named == SELF else named, checkpoint
    limits = {name: options[name] for name in ("min_pixels", "max_pixels")}
    processor = ChatProcessor.from_pretrained(locate(home), **limits)
    load = partial(load_trained, checkpoint, **options)
    return run_server(load, processor, most_positions(backbone), settings)


def run_server(
    load: Callable[[], ArrCocQwen3VL],
    processor: ChatProcessor,
    positions: int,
    settings: ServerSettings,
) -> int:
    """Serve a model until SIGTERM or SIGINT; answers that are under way are finished first.

    Args:
        load: makes the model, called in a process of its own, which has to find it by its name.
        processor: of the model, for the process that answers HTTP.
        positions: that the language model knows.
        settings: limits, and where to listen.

    Returns:
        130 after SIGINT, 143 after SIGTERM, 1 where a process died that it cannot do without.

    Raises:
        ValueError: the model could not be loaded, or the port is taken.
        OSError: the file with the key cannot be read.
    """
    from lightning_arrcoc.serve.watching import Watcher

    key = read_api_key(settings)
    check_port(settings)
    lifeline = Lifeline()
    server = make_server(load, processor, positions, settings, key, lifeline)
    watcher = Watcher(server, lifeline)
    print(f"serving {settings.name} on {_address(settings)}/v1 as soon as the model is loaded")
    if key is None and settings.host != "127.0.0.1":
        print(f"note: whoever reaches this machine may ask; set {KEY_VARIABLE}", file=sys.stderr)
    sys.stdout.flush()
    try:
        with _stopped_by_signals(server.told), watcher:
            server.run(
                host=settings.host,
                port=settings.port,
                num_api_servers=1,  # it has the queue, and counts
                log_level="warning",
                generate_client_file=False,  # LitServe would write one here
                access_log=False,
                server_header=False,
            )
    except KeyboardInterrupt:  # before it served, or a second time
        pass
    except (RuntimeError, EOFError, OSError) as error:
        print(f"error: the server came to an end: {error!r}", file=sys.stderr)
        return 1
    finally:
        for child in multiprocessing.active_children():
            child.kill()
    if watcher.verdict is not None:
        if not watcher.has_served:
            raise ValueError(watcher.verdict)
        print(f"error: {watcher.verdict}", file=sys.stderr)
        return 1
    return EXIT_CODES[signal.Signals(server.told[0])] if server.told else 1


def make_server(
    load: Callable[[], ArrCocQwen3VL],
    processor: ChatProcessor,
    positions: int,
    settings: ServerSettings,
    key: str | None,
    lifeline: Lifeline,
) -> WatchedServer:
    """LitServe with our endpoints; as for `run_server`."""
    from starlette.exceptions import HTTPException

    from lightning_arrcoc.serve.access import LOOPBACK, Access
    from lightning_arrcoc.serve.door import Door
    from lightning_arrcoc.serve.endpoints import ChatSpec
    from lightning_arrcoc.serve.model_worker import ChatApi
    from lightning_arrcoc.serve.watching import WatchedServer

    spec = ChatSpec(Door(processor, settings, positions), settings, lifeline)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    server = WatchedServer(
        ChatApi(load, settings, spec, lifeline),
        accelerator=device,
        devices=1,
        timeout=settings.timeout_s,
        middlewares=[
            (Access, {"key": key, "hosts": LOOPBACK if settings.host == "127.0.0.1" else ()})
        ],
        restart_workers=True,
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = int(settings.timeout_s) + 5
    server.app.add_exception_handler(HTTPException, _as_openai)
    return server


async def _as_openai(_: Any, error: Any) -> Any:
    """No such path, no such method."""
    from starlette.responses import JSONResponse

    from lightning_arrcoc.serve.errors import RequestError

    body = RequestError(error.status_code, str(error.detail)).body()
    return JSONResponse(body, error.status_code, error.headers)


@contextmanager
def _stopped_by_signals(told: list[int]) -> Iterator[None]:
    """SIGTERM and SIGINT end LitServe's wait; in its children, which inherit this, just them.

    Args:
        told: gets the numbers of the signals that came.
    """
    owner = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != owner:
            sys.exit(0)
        told.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(settings: ServerSettings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
