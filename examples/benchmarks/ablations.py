"""What each part of ARR-COC is worth: trained without it, how often are answers right.

``python examples/benchmarks/ablations.py --seeds 3 --runs runs --json ablations.json``

Trains every variant once for each seed by ``fit``, a few overrides away from the whole model, and
asks all of them the same questions about held-out canvases, with tokens chosen for good. Prints one
table a budget: exact match by family of questions, in per cent, mean over seeds and half the range
between them, and how far the questions that can be read off lie from the whole model's, seed by
seed. With one seed a variant starts from the whole model's weights, as far as it has them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import (
    ALL_READ_OFF,
    COLUMNS,
    FULL,
    Canvas,
    Spread,
    figures,
    full,
    in_words,
    load,
    machine,
    measure,
    spread,
    table,
    train,
    with_selector,
)
from rich.console import Console

Figures = dict[tuple[str, float], list[dict[str, float]]]  # variant and budget -> of each seed
CANVAS = Canvas(384, 384, 8)
WHOLE = "whole"
VARIANTS: dict[str, list[str]] = {
    WHOLE: [],
    "no-query": ["model.arr_coc.query_blind=true"],
    "fixed-tensions": ["model/arr_coc/balancer=fixed"],
    "no-information": ["model.arr_coc.knowing.scorers=[perspectival,participatory]"],
    "no-perspectival": ["model.arr_coc.knowing.scorers=[information,participatory]"],
    "no-participatory": ["model.arr_coc.knowing.scorers=[information,perspectival]"],
    "rgb-only": ["model.arr_coc.texture.channels=[red,green,blue]"],
    "top-k-only": ["model.arr_coc.allocator.coarse=false", "model.arr_coc.balancer.focus=1.0"],
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of every fit, such as trainer.max_steps=100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME",
        help=f"beside {WHOLE}: {', '.join(name for name in VARIANTS if name != WHOLE)}",
    )  # fmt: skip
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.1, 0.05])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument(
        "--runs", type=Path, help="keep what is trained and measured here, and go on from it"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds is at least 1")
    return arguments


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    variants = list(dict.fromkeys([WHOLE, *arguments.variants]))
    found = measured(arguments, variants)
    rows = {key: spread(runs) for key, runs in found.items()}
    apart = {key: apart_from_whole(found, key) for key in found if key[0] != FULL}
    console = Console(width=120)
    console.print(
        f"{arguments.questions} test canvases of {CANVAS}, {arguments.seeds} seeds; {machine()}"
    )
    for budget in arguments.budgets:
        cells = {FULL: [*written(rows[FULL, 1.0]), ""]}
        for variant in variants:
            gap = in_words(apart[variant, budget][ALL_READ_OFF], "+")
            cells[variant] = [*written(rows[variant, budget]), "" if variant == WHOLE else gap]
        header = ("variant", *COLUMNS, f"{ALL_READ_OFF} - {WHOLE}")
        console.print(table(f"{budget:.0%} of the tokens", header, cells))
    if arguments.json:
        arguments.json.write_text(json.dumps(report(arguments, rows, apart), indent=1))


def measured(arguments: argparse.Namespace, variants: list[str]) -> Figures:
    """Every variant, trained with every seed and asked at every budget."""
    samples = CANVAS.samples(arguments.questions)
    found: Figures = {}
    kept = nullcontext(arguments.runs) if arguments.runs else tempfile.TemporaryDirectory()
    with kept as folder:
        for seed in range(arguments.seeds):
            for variant in variants:
                run = Path(folder).absolute() / variant / str(seed)
                checkpoint = train(run, seed, [*VARIANTS[variant], *arguments.overrides])
                players: list[Any] = [(FULL, 1.0, full)] if not found else []
                players += [(variant, b, with_selector(None)) for b in arguments.budgets]
                for key, row in asked(checkpoint, samples, arguments.batch, players).items():
                    found.setdefault(key, []).append(row)
    return found


def asked(
    checkpoint: Path, samples: list[Any], batch: int, players: list[Any]
) -> dict[tuple[str, float], dict[str, float]]:
    """What was measured of a checkpoint lies beside it, and is not measured again."""
    kept = checkpoint.with_suffix(f".{len(samples)}.json")
    words = {(name, budget): f"{name} {budget}" for name, budget, _ in players}
    up_to_date = kept.exists() and kept.stat().st_mtime >= checkpoint.stat().st_mtime
    known = json.loads(kept.read_text()) if up_to_date else {}
    new = [player for player in players if words[player[:2]] not in known]
    if new:
        for key, answers in measure(load(checkpoint), samples, batch, new).items():
            known[words[key]] = figures(answers)
        kept.write_text(json.dumps(known, indent=1))
    return {key: known[word] for key, word in words.items()}


def apart_from_whole(found: Figures, key: tuple[str, float]) -> Spread:
    """A variant's figures less the whole model's of the same seed, spread over seeds."""
    pairs = zip(found[key], found[WHOLE, key[1]], strict=True)
    return spread([{c: one[c] - whole[c] for c in COLUMNS if c in one} for one, whole in pairs])


def written(row: Spread) -> list[str]:
    return [in_words(row[key]) if key in row else "" for key in COLUMNS]


def report(arguments: argparse.Namespace, rows: Any, apart: Any) -> dict[str, Any]:
    return {
        "machine": machine(), "questions": arguments.questions, "seeds": arguments.seeds,
        "canvas": CANVAS[:2], "digits": CANVAS.digits, "overrides": arguments.overrides,
        "results": [
            {
                "variant": variant, "budget": budget, "overrides": VARIANTS.get(variant, []),
                **row, "apart_from_whole": apart.get((variant, budget)),
            }
            for (variant, budget), row in rows.items()
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
