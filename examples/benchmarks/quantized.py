"""What weights in 8 and 4 bits are worth at the true dimensions of Qwen3-VL-2B, on a CPU.

    pip install "lightning-arrcoc[quantize]"
    python examples/benchmarks/quantized.py [--quick] [--threads 2] [--dtype float32]

`python -m lightning_arrcoc export format=int8` measures a checkpoint; this has random weights, so
that it tells time and bytes, and nothing of right answers. One question about a picture of 384 x
384 px is read from all of its 144 visual tokens or from a tenth, in turns by the language model as
it is and with its weights in fewer bits. *first*: seconds to the first token; *further*: the mean
to each of the others, which wait for the weights to come from memory. `--quick` has a quarter of
the layers.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from typing import Any

import torch
from measuring import machine, table
from random_2b import build, configuration, example
from rich.console import Console

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.vlm.quantizing import bytes_of, quantize_language_model

SIZE, ANSWER = 384, 9
BUDGETS = (1.0, 0.1)


def quantized(model: ArrCocQwen3VL, bits: Any) -> ArrCocQwen3VL:
    """A copy that shares what stays as it is."""
    backbone = model.backbone
    kept = [model.arr_coc, backbone.model.visual, backbone.get_input_embeddings(), backbone.lm_head]
    one = copy.deepcopy(model, {id(part): part for part in kept})
    quantize_language_model(one.backbone, bits)
    return one


def ask(model: ArrCocQwen3VL, batch: dict[str, Any], budget: float) -> tuple[float, float]:
    """Seconds to the first token, and of each further one."""
    times = []
    for tokens in (1, ANSWER):
        began = time.perf_counter()
        model.generate(**batch, budget=budget, max_new_tokens=tokens, min_new_tokens=tokens)
        times.append(time.perf_counter() - began)
    return times[0], (times[1] - times[0]) / (ANSWER - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the layers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    dtype = getattr(torch, asked.dtype)
    model = build(configuration(None, asked.quick), torch.device("cpu"), dtype)
    model.backbone.generation_config.eos_token_id = None
    batch = example(model, SIZE, 1)
    del batch["labels"]
    models = {"as it is": model}
    models |= {f"{bits} weights": quantized(model, bits) for bits in ("int8", "int4")}
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for turn in range(asked.rounds + 1):
        for budget in BUDGETS:
            for name, one in models.items():
                times = ask(one, batch, budget)
                if turn:  # the first warms up
                    found.setdefault((name, budget), []).append(times)
    rows = {}
    for name, one in models.items():
        rows[name] = [f"{bytes_of(one.backbone.model.language_model) / 2**30:.2f}"]
        for budget in BUDGETS:
            pairs = zip(found[name, budget], found["as it is", budget], strict=True)
            ratios = [[now / before for now, before in zip(*pair, strict=True)] for pair in pairs]
            for seconds, of in zip(
                zip(*found[name, budget], strict=True), zip(*ratios, strict=True), strict=True
            ):
                rows[name].append(
                    f"{statistics.median(seconds):.2f} ({statistics.median(of):.2f} x, "
                    f"{min(of):.2f} to {max(of):.2f})"
                )
    columns = [f"{what}, {budget:g}" for budget in BUDGETS for what in ("first s", "further s")]
    layers = ", a quarter of the layers" if asked.quick else ""
    title = f"Qwen3-VL-2B{layers}, {asked.dtype}, all visual tokens (1) and a tenth (0.1)"
    Console(width=160).print(table(title, ["language model", "GiB", *columns], rows))
    print(", ".join(machine().values()), f"{asked.threads} threads")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
