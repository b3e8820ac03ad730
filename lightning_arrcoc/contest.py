"""Who answers how often right with equally many visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table
from torch import nn
from torchmetrics import MeanMetric

from lightning_arrcoc.data.collate import Batch, counted
from lightning_arrcoc.metrics.exact_match import is_match
from lightning_arrcoc.relevance.allocation import check_budget
from lightning_arrcoc.relevance.baselines import Everything, RandomCells
from lightning_arrcoc.vlm import ArrCocGeneration, ArrCocQwen3VL
from lightning_arrcoc.vlm.downsampling import downsample

FULL, ARR_COC, RANDOM, DOWNSAMPLED = "full", "ARR-COC", "random", "downsampled"


class Result(NamedTuple):
    """How one contestant fared at one budget.

    Attributes:
        exact_match: share of answers that were right, 0 to 1.
        tokens: visual tokens a sample, on average.
    """

    exact_match: float
    tokens: float


class Contest(nn.Module):
    """Exact match of full tokens, ARR-COC, random cells and a smaller image, side by side.

    Every contestant answers by greedy generation with the same backbone. The limited ones get the
    same budget; the smaller image has at most so many tokens, often a few less, because its grid
    is a rectangle.

    Args:
        budgets: shares of the visual tokens to compare at.
        max_new_tokens: longest answer.

    Raises:
        ValueError: a budget outside (0, 1].
    """

    def __init__(
        self, budgets: Sequence[float] = (0.25, 0.1, 0.05), max_new_tokens: int = 8
    ) -> None:
        super().__init__()
        self.budgets = [check_budget(float(budget)) for budget in budgets]
        self.max_new_tokens = max_new_tokens
        self.everything, self.random = Everything(), RandomCells()
        names = [FULL] + [
            f"{contestant} {place}"
            for contestant in (ARR_COC, RANDOM, DOWNSAMPLED)
            for place in range(len(self.budgets))
        ]
        self.right = nn.ModuleDict({name: MeanMetric() for name in names})
        self.tokens = nn.ModuleDict({name: MeanMetric() for name in names})

    def update(self, model: ArrCocQwen3VL, batch: Batch) -> None:
        """Let every contestant answer a batch with one image a question."""
        prompts, everything = batch["prompts"], {"selector": self.everything, "budget": 1.0}
        self._answer(FULL, model, batch, prompts, **everything)
        for place, budget in enumerate(self.budgets):
            self._answer(f"{ARR_COC} {place}", model, batch, prompts, budget=budget)
            self._answer(
                f"{RANDOM} {place}", model, batch, prompts, budget=budget, selector=self.random
            )
            smaller = downsample(prompts, budget, model)
            self._answer(f"{DOWNSAMPLED} {place}", model, batch, smaller, **everything)

    def results(self) -> dict[str, list[Result]]:
        """For each contestant one result a budget; for full tokens a single one."""
        found: dict[str, list[Result]] = {}
        for key in self.right:
            right, tokens = _metric(self.right, key), _metric(self.tokens, key)
            result = Result(float(right.compute()), float(tokens.compute()))
            found.setdefault(key.split(" ")[0], []).append(result)
        return found

    def reset(self) -> None:
        """Forget what was answered."""
        for key in self.right:
            _metric(self.right, key).reset()
            _metric(self.tokens, key).reset()

    def _answer(
        self,
        name: str,
        model: ArrCocQwen3VL,
        batch: Batch,
        prompts: dict[str, Any],
        **options: Any,
    ) -> None:
        output = model.generate(
            **prompts, max_new_tokens=self.max_new_tokens, do_sample=False, **options
        )
        real, images = counted(batch)
        answers = decode_answers(model, output, prompts)[:real]
        for right in exact_matches(answers, batch["accepted"][:real]):
            _metric(self.right, name).update(right)
        for allocation in (output.allocation or [])[:images]:
            _metric(self.tokens, name).update(len(allocation.levels))


def _metric(metrics: nn.ModuleDict, name: str) -> MeanMetric:
    metric = metrics[name]
    assert isinstance(metric, MeanMetric)
    return metric


def decode_answers(
    model: ArrCocQwen3VL, output: ArrCocGeneration, prompts: dict[str, Any]
) -> list[str]:
    """What was generated behind the prompts, in words."""
    if model.processor is None:
        raise ValueError("The model has no processor to decode with; load it from_pretrained.")
    generated = output.sequences[:, prompts["input_ids"].shape[1] :]
    words: list[str] = model.processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
    return words


def exact_matches(answers: Sequence[str], truths: Sequence[str | Sequence[str]]) -> list[float]:
    """For each answer 1.0 where it is the truth, or one of several, but for case and space."""
    return [
        is_match(answer, [truth] if isinstance(truth, str) else truth)
        for answer, truth in zip(answers, truths, strict=True)
    ]


def results_table(results: dict[str, list[Result]], budgets: Sequence[float]) -> Table:
    """One row a contestant, one column a budget, exact match in per cent."""
    full = results[FULL][0]
    table = Table(title="Exact match at equal visual tokens (%)", title_justify="left")
    table.add_column("selector")
    table.add_column(f"all {full.tokens:.0f} tokens", justify="right")
    for place, budget in enumerate(budgets):
        kept = results[ARR_COC][place].tokens
        noun = "token" if round(kept) == 1 else "tokens"
        table.add_column(f"{kept:.0f} {noun} ({budget:.0%})", justify="right")
    for name, row in results.items():
        cells = [f"{100 * result.exact_match:.1f}" for result in row]
        blank = [""] * len(budgets) if name == FULL else []
        table.add_row(name, *(cells + blank if name == FULL else ["", *cells]))
    return table
