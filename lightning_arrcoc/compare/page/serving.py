"""The page on a port of this machine, until it is interrupted."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from lightning_arrcoc.compare.page.asking import Page
from lightning_arrcoc.compare.page.examples import Example
from lightning_arrcoc.compare.page.guard import Guard
from lightning_arrcoc.compare.page.rendering import asset
from lightning_arrcoc.memory.readings import MIB

HERE = "127.0.0.1"
LOCAL_NAMES = ("127.0.0.1", "localhost")
MOST_CONNECTIONS = 400  # chosen by us: an open page holds two
PATIENCE_S = 1  # for connections that are open when it ends; chosen by us: pages keep theirs open
EVERYWHERE_OFF = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_RUN_HISTORY": "False",
}


def build_app(
    page: Page, examples: Sequence[Example], percent: int, *, hosts: Sequence[str] | None,
    ancestors: str = "'none'",
) -> Guard:  # fmt: skip
    """Gradio behind its guard; nothing of it reaches the network, none of its files is ours.

    Args:
        page: what answers its events.
        examples: pictures to begin with.
        percent: budget to begin with.
        hosts: names that the page may be called by; None: any.
        ancestors: who may frame it.
    """
    os.environ.update(EVERYWHERE_OFF)
    import gradio as gr

    from lightning_arrcoc.compare.page.blocks import build_blocks, theme

    blocks = build_blocks(page, examples, percent)
    # Gradio keeps the widgets of each session; beyond so many the oldest are forgotten.
    blocks.state_session_capacity = 2 * page.settings.max_visits
    # Not as `css`, which Gradio rewrites: rules in media queries would not hold.
    head = f"<style>{asset('page.css')}</style><script>{asset('pointing.js')}</script>"
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), blocks, "/", theme=theme(), head=head, footer_links=[],
        run_history=False, allowed_paths=[], show_error=False, ssr_mode=False, mcp_server=False,
        pwa=False, enable_monitoring=False, max_file_size=1,
    )  # fmt: skip
    return Guard(app, int(page.settings.max_upload_mb * MIB), hosts, ancestors)


def listen(host: str, port: int) -> socket.socket:
    """A port of this machine, taken at once; 0: any that is free.

    Raises:
        ValueError: it is taken, or not ours to take.
    """
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen()
    except OSError as error:
        taken.close()
        raise ValueError(
            f"port={port} is not to be had ({error.strerror}). Choose another, or port=0 for any "
            "that is free."
        ) from None
    return taken


def serve(app: Guard, taken: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM, which arrive as they would without it.

    Raises:
        KeyboardInterrupt: SIGINT came; open connections were closed.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE_S, server_header=False, ws="none",
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[taken])
