"""How a server does under load: latency, tokens a second, memory.

    python examples/benchmarks/serve.py --ckpt outputs/fit/<run>/checkpoints/last.ckpt
    python examples/benchmarks/serve.py --ckpt ... --flat 2000     # does memory grow?
    python examples/benchmarks/serve.py --dimensions 2b --quick    # random weights

A server is started on this machine, and asked by locust (`pip install locust`, `locustfile.py`)
about drawn pictures from all visual tokens (budget 1.0) and from a tenth of them, in turns, by 1, 4
and 16 clients that each wait for their answer.
Where other things run beside it seconds tell little: the processor time of all its processes stands
beside them, and only ratios of two rows that were measured in turns are worth something.
`--dimensions 2b` has the true dimensions of Qwen3-VL-2B, and with `--quick` a quarter of its
layers: 7 of 28, and 6 of the 24 of the vision tower. There no answer ends before its eight tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from measuring import machine
from random_2b import build, configuration
from rich.console import Console
from rich.table import Table

from lightning_arrcoc.serve.command import run_server
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import IMAGE_TOKEN, VISION_END, ChatProcessor
from lightning_arrcoc.vlm.loading import TINY_FOLDER

CLIENTS = (1, 4, 16)
BUDGETS = (1.0, 0.1)
LARGE_POSITIONS = 8192
START_S = 600


class Load(NamedTuple):
    """What a number of clients saw.

    Attributes:
        latencies: how many answers took so many milliseconds, to two digits.
        tokens: written in all.
        seconds: from the first request to the last answer.
        processor_s: of all processes of the server meanwhile.
    """

    latencies: Counter[int]
    tokens: int
    seconds: float
    processor_s: float

    def percentile(self, percent: float) -> float:
        """Seconds."""
        ascending = sorted(self.latencies.elements())
        return ascending[round(percent / 100 * (len(ascending) - 1))] / 1000


# ------------------------------------------------------------------------------------ the server


def random_model(quick: bool) -> ArrCocQwen3VL:
    """2B dimensions, with the tokens that the embedded tokenizer knows images by."""
    import torch

    tokenizer = ChatProcessor.from_pretrained(TINY_FOLDER).tokenizer
    config = configuration(None, quick)
    config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config.vision_end_token_id = tokenizer.convert_tokens_to_ids(VISION_END)
    config.vision_start_token_id = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    config.text_config.pad_token_id = tokenizer.pad_token_id
    config.text_config.eos_token_id = None
    model = build(config, torch.device("cpu"), torch.float32)
    model.processor = ChatProcessor.from_pretrained(TINY_FOLDER)
    model.backbone.generation_config.eos_token_id = None
    return model


def serve_random(port: int, quick: bool) -> int:
    """Serve it in this process."""
    import serve as by_name  # the process with the model has to find the function by its name

    settings = ServerSettings(port=port, max_batch=16, timeout_s=3600)
    processor = ChatProcessor.from_pretrained(TINY_FOLDER)
    load = partial(by_name.random_model, quick)
    return run_server(load, processor, LARGE_POSITIONS, settings)


@contextmanager
def started(asked: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    """A server of its own, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if asked.dimensions == "2b":
        words = [__file__, "--serve-random", str(port), *(["--quick"] if asked.quick else [])]
    else:
        words = ["-m", "lightning_arrcoc", "serve", f"ckpt={asked.ckpt}", f"server.port={port}",
                 "server.max_batch=16", "server.timeout_s=600"]  # fmt: skip
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + START_S
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("The server did not start.")
            time.sleep(0.5)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def processes(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def processor_s(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in processes(server)]
    return sum(t.user + t.system for t in times)


def resident_mib(server: psutil.Process) -> float:
    return sum(process.memory_info().rss for process in processes(server)) / 2**20


# ----------------------------------------------------------------------------------- the clients


def load(
    url: str, server: psutil.Process, clients: int, requests: int, size: int, budget: float
) -> Load:
    """So many clients, each asking again as soon as it has its answer."""
    written, before = answer_tokens(url), processor_s(server)
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", Path(__file__).with_name("locustfile.py"),
         "--headless", "--only-summary", "--loglevel", "WARNING", "--host", url,
         "--users", str(clients), "--spawn-rate", str(clients),
         "--requests", str(requests), "--size", str(size), "--budget", str(budget)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"locust ended with {done.returncode}:\n{done.stderr}")
    counted = json.loads(done.stdout.splitlines()[-1])
    return Load(
        Counter({round(float(ms)): many for ms, many in counted["response_times"].items()}),
        answer_tokens(url) - written,
        counted["last_request_timestamp"] - counted["start_time"],
        processor_s(server) - before,
    )


def answer_tokens(url: str) -> int:
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("arr_coc_answer_tokens_total "):
            return round(float(line.split()[1]))
    raise SystemExit("The server does not tell how many tokens it wrote.")


def under_load(asked: argparse.Namespace, url: str, server: psutil.Process) -> list[dict[str, Any]]:
    """A row for each number of clients and budget, both budgets in turns."""
    rows = []
    for clients in CLIENTS:
        share = max(clients, asked.requests // asked.rounds)
        parts: dict[float, list[Load]] = {budget: [] for budget in BUDGETS}
        for budget in BUDGETS:  # sizes of batches that were never seen cost more the first time
            load(url, server, clients, clients, asked.size, budget)
        for _ in range(asked.rounds):
            for budget in BUDGETS:
                part = load(url, server, clients, share, asked.size, budget)
                parts[budget].append(part)
        for budget in BUDGETS:
            whole = together(parts[budget])
            rows.append({
                "clients": clients, "budget": budget, "requests": whole.latencies.total(),
                "requests_per_s": whole.latencies.total() / whole.seconds,
                "p50_s": whole.percentile(50), "p95_s": whole.percentile(95),
                "p99_s": whole.percentile(99), "tokens_per_s": whole.tokens / whole.seconds,
                "processor_s_per_request": whole.processor_s / whole.latencies.total(),
            })  # fmt: skip
    return rows


def together(parts: Sequence[Load]) -> Load:
    return Load(
        sum((part.latencies for part in parts), Counter()),
        sum(part.tokens for part in parts),
        sum(part.seconds for part in parts),
        sum(part.processor_s for part in parts),
    )


def flat(asked: argparse.Namespace, url: str, server: psutil.Process) -> list[tuple[int, float]]:
    """Memory after so many requests."""
    steps, done = 8, 0
    found = []
    for _ in range(steps + 1):
        found.append((done, resident_mib(server)))
        if done < asked.flat:
            load(url, server, 8, asked.flat // steps, asked.size, 0.1)
            done += asked.flat // steps
    return found


# ----------------------------------------------------------------------------------- the report


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("clients", "budget", "requests", "p50 s", "p95 s", "p99 s", "requests/s",
                 "tokens/s", "of full", "processor s a request", "of full"):  # fmt: skip
        table.add_column(name, justify="right")
    for row in rows:
        whole = next(r for r in rows if r["clients"] == row["clients"] and r["budget"] == 1.0)
        cost = "processor_s_per_request"
        table.add_row(
            str(row["clients"]), f"{row['budget']:g}", str(row["requests"]),
            *(f"{row[key]:.2f}" for key in ("p50_s", "p95_s", "p99_s")),
            f"{row['requests_per_s']:.2f}", f"{row['tokens_per_s']:.2f}",
            f"{row['tokens_per_s'] / whole['tokens_per_s']:.2f}",
            f"{row[cost]:.3f}", f"{row[cost] / whole[cost]:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", help="a checkpoint of fit, on the embedded backbone")
    parser.add_argument("--dimensions", choices=["tiny", "2b"], default="tiny")
    parser.add_argument("--quick", action="store_true", help="2b: a quarter of the layers")
    parser.add_argument("--size", type=int, default=384, help="pixels along either side")
    parser.add_argument("--requests", type=int, default=96, help="for each row, at least")
    parser.add_argument("--rounds", type=int, default=3, help="in turns")
    parser.add_argument("--flat", type=int, metavar="N", help="only watch memory over N requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--serve-random", type=int, metavar="PORT", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.dimensions == "tiny" and not asked.serve_random and asked.ckpt is None:
        parser.error("--ckpt is missing")
    return asked


def main() -> None:
    asked = arguments()
    if asked.serve_random:
        sys.exit(serve_random(asked.serve_random, asked.quick))
    result: dict[str, Any] = {"machine": machine(), "load_average": os.getloadavg()}
    with started(asked) as (url, server):
        if asked.flat:
            result["memory"] = flat(asked, url, server)
            for requests, mib in result["memory"]:
                print(f"{requests:6d} requests  {mib:8.1f} MiB")
        else:
            result["rows"] = under_load(asked, url, server)
            layers = ", a quarter of the layers" if asked.quick else ""
            show(result["rows"], f"{asked.dimensions}{layers}, {asked.size} px")
    result["load_average_after"] = os.getloadavg()
    print(", ".join(result["machine"].values()))
    print(f"load average {result['load_average'][0]:.1f} to {os.getloadavg()[0]:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
