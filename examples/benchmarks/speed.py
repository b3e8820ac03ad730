"""What ARR-COC saves of prefill and of a training step, at the dimensions of Qwen3-VL-2B.

    python examples/benchmarks/speed.py [--quick] [--json FILE]

A sample is one image and 40 text tokens; weights are random. The stock model takes turns with
ARR-COC that chooses after and before the vision tower, so that a machine that slows down slows all.

- *prefill* is what `generate` does before the first token: a forward pass from `pixel_values`,
  without gradients, with the logits of the last position. The choice is part of it: textures,
  scorers, allocation.
- *step* is one step of fine-tuning: forward pass with the answer's loss, backward pass through the
  whole language model, AdamW. All matrices are frozen; in all variants alike the language model's
  RMSNorm weights are trained, from the first layer to the last (B. Zhao et al., "Tuning LayerNorm
  in attention: towards efficient multi-modal LLM finetuning", ICLR 2024), and with ARR-COC its own
  weights too, through the hard choice. Low-rank adapters would send the same gradients through
  the same matrices, and add products of their own rank. No gradient enters the vision tower,
  nothing is checkpointed, and there is no teacher's pass.

Each row tells the time, its ratio to stock in the same round, the ratio that arithmetic alone would
have (`limit`: the matrix products of `lightning_arrcoc.vlm.flops`, none for choosing), and the one
over the other; then which shares of the forward pass went by before the vision tower (choosing,
and pruning the sequence) and inside it. All are medians over rounds. Peak memory includes weights:
what CUDA allocated, or on Linux the process's resident set. A round that would not end within
`--minutes` is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import machine
from random_2b import TEXT_TOKENS, build, configuration, example
from stopwatch import Stopwatch
from torch import Tensor, nn
from transformers import Qwen3VLConfig

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.relevance import CELL_PX
from lightning_arrcoc.vlm.flops import language_flops, vision_flops

QUICK_SIZE, FULL_SIZE = 512, 1024
BUDGETS = (64, 200)
TARGETS = {("prefill", "before_vision", 200): 0.19, ("step", "before_vision", 200): 0.25}
WARM_UPS, WARM_UP_SIZE = 2, 128  # rounds of a GPU; a CPU's take minutes, so one of a small picture
JOBS, STOCK = ("prefill", "step"), "stock"


class Variant(NamedTuple):
    """Who is timed: stock, which has no budget, or ARR-COC's `select` with so many tokens."""

    select: str
    budget: int | None = None


class Turn(NamedTuple):
    """One pass: patches in the tower and tokens in the language model, of a sample; seconds.

    The peak is None where the system does not tell.
    """

    patches: int
    tokens: int
    total: float
    forward: float
    choosing: float
    tower: float
    peak_gib: float | None


class Race:
    """Every variant on one model, with one optimizer: stock leaves ARR-COC without gradients."""

    def __init__(self, model: ArrCocQwen3VL) -> None:
        self.model, self.device = model, model.backbone.device
        norms = [p for p in model.backbone.model.language_model.parameters() if p.ndim == 1]
        trained = norms + list(model.arr_coc.parameters())
        model.requires_grad_(False)
        for weight in trained:
            weight.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def run(self, job: str, variant: Variant, batch: dict[str, Tensor]) -> Turn:
        """One pass, timed."""
        tower = self.model.backbone.model.visual
        language = self.model.backbone.model.language_model
        lengths: list[int] = []

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            lengths.append(output.last_hidden_state.shape[-2])

        watch = Stopwatch(self.device)
        hooks = [
            tower.register_forward_pre_hook(watch.mark),
            tower.register_forward_hook(watch.mark),
            tower.register_forward_hook(count),
            language.register_forward_hook(count),
        ]
        if job == "prefill":
            with torch.no_grad():
                self._forward(variant, batch, logits_to_keep=1)
            watch.mark()
        else:
            through = {"straight_through": True} if variant.budget else {}
            labels = batch["labels"]
            output = self._forward(variant, batch, labels=labels, use_cache=False, **through)
            watch.mark()
            output.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        watch.mark()
        for hook in hooks:
            hook.remove()
        patches, tokens = lengths
        choosing, in_tower, in_language, back = watch.laps()
        forward = choosing + in_tower + in_language
        return Turn(
            patches // len(batch["input_ids"]), tokens,
            forward + back, forward, choosing, in_tower, watch.peak_gib(),
        )  # fmt: skip

    def _forward(self, variant: Variant, batch: dict[str, Tensor], **options: Any) -> Any:
        names = ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]
        inputs = {name: batch[name] for name in names} | options
        if variant.budget is None:
            image = batch["input_ids"] == self.model.backbone.config.image_token_id
            return self.model.backbone(**inputs, mm_token_type_ids=image.int())
        self.model.select = variant.select
        return self.model(**inputs, query_mask=batch["query_mask"], budget=variant.budget)


def limit(config: Qwen3VLConfig, job: str, turn: Turn) -> int:
    """FLOPs of a sample's matrix products, without those of choosing."""
    tower = vision_flops(config.vision_config, turn.patches)
    logits = 1 if job == "prefill" else turn.tokens
    language = language_flops(config.text_config, turn.tokens, logits)
    back = language.backward if job == "step" else 0
    return tower.forward + language.forward + back


def race(asked: argparse.Namespace, model: ArrCocQwen3VL) -> dict[tuple[str, Variant], list[Turn]]:
    """All turns of every job and variant."""
    variants = [Variant(STOCK)] + [
        Variant(select, k) for select in ("after_vision", "before_vision") for k in asked.budgets
    ]
    runs = [(job, variant) for job in JOBS for variant in variants]
    running, batch = Race(model), example(model, asked.size, asked.batch)
    found: dict[tuple[str, Variant], list[Turn]] = {run: [] for run in runs}
    began = time.perf_counter()
    on_gpu = running.device.type == "cuda"
    size = asked.size if on_gpu else min(asked.size, WARM_UP_SIZE)
    warm_up, cells = example(model, size, asked.batch), (size // CELL_PX) ** 2
    for _ in range(WARM_UPS if on_gpu else 1):
        for job, variant in runs:
            few = variant.budget and min(variant.budget, cells)
            running.run(job, variant._replace(budget=few), warm_up)
    for turn in range(1, asked.repeats + 1):
        for job, variant in runs:
            found[job, variant].append(running.run(job, variant, batch))
        minutes = (time.perf_counter() - began) / 60
        print(f"round {turn} of {asked.repeats}: {minutes:.1f} min", file=sys.stderr)
        if minutes * (turn + 1) / turn > asked.minutes:
            break
    return found


def report(
    config: Qwen3VLConfig, found: dict[tuple[str, Variant], list[Turn]]
) -> list[dict[str, Any]]:
    """One row a job and variant; seconds."""
    rows = []
    for (job, variant), turns in found.items():
        times = [turn.total for turn in turns]
        stock = found[job, Variant(STOCK)]
        ratios = [turn.total / peer.total for turn, peer in zip(turns, stock, strict=True)]
        ratio = statistics.median(ratios)
        flops = limit(config, job, turns[0])
        least = flops / limit(config, job, stock[0])
        peaks = [turn.peak_gib for turn in turns if turn.peak_gib is not None]
        rows.append(
            {
                "job": job,
                "variant": variant.select,
                "budget": variant.budget,
                "patches": turns[0].patches,
                "tokens": turns[0].tokens,
                "turns": len(turns),
                "median_s": statistics.median(times),
                "min_s": min(times),
                "max_s": max(times),
                "of_stock": ratio,
                "of_stock_range": [min(ratios), max(ratios)],
                "tflop_a_sample": flops / 1e12,
                "limit_of_stock": least,
                "of_limit": ratio / least,
                "choosing_share": statistics.median(t.choosing / t.forward for t in turns),
                "tower_share": statistics.median(t.tower / t.forward for t in turns),
                "peak_gib": max(peaks, default=None),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], judged: bool) -> None:
    heads = ("median", "least", "most", "of stock", "limit", "of limit", "choosing", "tower", "GiB")
    print(f"{'':28}" + "".join(f"{head:>10}" for head in heads))
    for row in rows:
        name = f"{row['job']} {row['variant']} {row['budget'] or ''}"
        figures = [f"{row[key]:.3f}s" for key in ("median_s", "min_s", "max_s")]
        figures += [f"{row[key]:.3f}" for key in ("of_stock", "limit_of_stock", "of_limit")]
        figures += [f"{row[key]:.1%}" for key in ("choosing_share", "tower_share")]
        figures.append("?" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}")
        print(f"{name:28}" + "".join(f"{figure:>10}" for figure in figures))
    for row in rows if judged else ():
        target = TARGETS.get((row["job"], row["variant"], row["budget"]))
        if target:
            verdict = "reached" if row["of_stock"] <= target else "missed"
            print(f"{row['job']} {row['variant']} {row['budget']}: target {target}, {verdict}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the layers, 512 px")
    parser.add_argument("--backbone", help="tiny, a folder or a hub id; default: the built-in 2B")
    parser.add_argument("--size", type=int, help="pixels along either side; default 1024")
    parser.add_argument("--batch", type=int, default=1, help="samples at once")
    parser.add_argument("--budgets", type=int, nargs="+", help="tokens; default 64 200 at 1024 px")
    parser.add_argument("--repeats", type=int, help="default 2, 10 on a GPU")
    parser.add_argument("--device", help="default cuda where there is one")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="default float32, bfloat16 on a GPU"
    )
    parser.add_argument("--threads", type=int, help="of a CPU; default torch's")
    parser.add_argument("--minutes", type=float, default=14, help="no round starts to end later")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()
    asked.size = asked.size or (QUICK_SIZE if asked.quick else FULL_SIZE)
    cells = (asked.size // CELL_PX) ** 2
    asked.budgets = asked.budgets or [k * asked.size**2 // FULL_SIZE**2 for k in BUDGETS]
    if asked.size % CELL_PX or not all(1 <= k <= cells for k in asked.budgets):
        parser.error(f"--size is a multiple of {CELL_PX}, --budgets are 1 to {cells} of its tokens")
    asked.device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = asked.device.type == "cuda"
    asked.dtype = getattr(torch, asked.dtype or ("bfloat16" if on_gpu else "float32"))
    asked.repeats = asked.repeats or (10 if on_gpu else 2)
    return asked


def main() -> None:
    asked = arguments()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    config = configuration(asked.backbone, asked.quick)
    began = time.perf_counter()
    model = build(config, asked.device, asked.dtype)
    built_s = time.perf_counter() - began
    rows = report(config, race(asked, model))
    on_gpu = asked.device.type == "cuda"
    run = {
        "device": torch.cuda.get_device_name(asked.device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(asked.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "batch": asked.batch,
        "size": asked.size,
        "text_tokens": TEXT_TOKENS,
        "built_s": built_s,
        "all_s": time.perf_counter() - began,
    }
    print(", ".join(machine().values()))
    print(", ".join(f"{key} {value}" for key, value in run.items()))
    whole = asked.backbone is None and not asked.quick and asked.size == FULL_SIZE
    show(rows, judged=whole)
    if asked.json:
        found = {"machine": machine(), **run, "rows": rows}
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
