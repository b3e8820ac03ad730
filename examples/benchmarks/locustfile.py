"""Clients of a server, for locust: each asks about a drawn picture as soon as it has its answer.

    locust -f examples/benchmarks/locustfile.py --host http://127.0.0.1:8000

opens a page to watch it by. `serve.py` starts it without one: all clients share `--requests`, then
it ends and prints what locust counted as a line of JSON.
"""

from __future__ import annotations

import base64
import json
import random
from io import BytesIO
from typing import Any

import gevent
import numpy as np
from locust import HttpUser, constant, events, task
from locust.exception import StopUser
from PIL import Image

ANSWER = 8  # tokens at most
PICTURES = 16


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    parser.add_argument("--budget", type=float, default=0.1, help="share of the visual tokens")
    parser.add_argument("--size", type=int, default=384, help="pixels along either side")
    parser.add_argument("--requests", type=int, default=0, help="in all; 0: without end")


class Asker(HttpUser):
    """One client."""

    wait_time = constant(0)
    urls: list[str]
    left: int
    asking: int

    def on_start(self) -> None:
        self.drawn = random.Random(self.asking)
        type(self).asking += 1

    @task
    def ask(self) -> None:
        options = self.environment.parsed_options
        if options.requests:
            if Asker.left == 0:
                raise StopUser
            Asker.left -= 1
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": self.drawn.choice(Asker.urls)}},
            {"type": "text", "text": "Which digit is red?"},
        ]
        self.client.post(
            "/v1/chat/completions",
            json={
                "messages": [{"role": "user", "content": content}],
                "max_tokens": ANSWER,
                "arr_coc": {"budget": options.budget},
            },
        )

    def on_stop(self) -> None:
        type(self).asking -= 1
        if not Asker.asking and self.environment.parsed_options.requests:
            gevent.spawn(self.environment.runner.quit)


@events.init.add_listener
def _draw(environment: Any, **_: Any) -> None:
    Asker.urls = pictures(environment.parsed_options.size)


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    Asker.left, Asker.asking = environment.parsed_options.requests, 0


@events.quitting.add_listener
def _tell(environment: Any, **_: Any) -> None:
    if environment.parsed_options.requests:
        print(json.dumps(environment.stats.total.serialize()))


def pictures(size: int) -> list[str]:
    """Drawn squares on black, as data URLs."""
    drawn = []
    for number in range(PICTURES):
        numbers = np.random.default_rng(number)
        canvas = np.zeros((size, size, 3), np.uint8)
        for _ in range(8):
            top, left = numbers.integers(0, size - size // 8, 2)
            canvas[top : top + size // 8, left : left + size // 8] = numbers.integers(60, 255, 3)
        file = BytesIO()
        Image.fromarray(canvas).save(file, "PNG")
        drawn.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return drawn
