"""Equal tokens for every contestant, and a table that says so."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.contest import Contest, Result, exact_matches, results_table
from lightning_arrcoc.data.collate import Batch, Collator
from lightning_arrcoc.data.digits import DigitQuestions


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    return ArrCocQwen3VL.from_pretrained(str(backbone_folder))


@pytest.fixture
def batch(model: ArrCocQwen3VL) -> Batch:
    assert model.processor is not None
    source = DigitQuestions("test", 4, canvas_px=(128, 128), digits=3)
    return Collator(model.processor, for_measuring=True)([source[i] for i in range(4)])


def test_every_contestant_answers_at_every_budget(model: ArrCocQwen3VL, batch: Batch) -> None:
    contest = Contest(budgets=(0.5, 0.25))
    contest.update(model, batch)
    results = contest.results()
    assert list(results) == ["full", "ARR-COC", "random", "downsampled"]
    assert [result.tokens for result in results["full"]] == [16.0]
    assert [result.tokens for result in results["ARR-COC"]] == [8.0, 4.0]
    assert [result.tokens for result in results["random"]] == [8.0, 4.0]
    assert all(r.tokens <= b * 16 for r, b in zip(results["downsampled"], (0.5, 0.25), strict=True))
    assert all(0 <= result.exact_match <= 1 for row in results.values() for result in row)


def test_right_answers_are_counted_as_right(
    model: ArrCocQwen3VL, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [*batch["answers"][:3], "something else"]
    monkeypatch.setattr("lightning_arrcoc.contest.decode_answers", lambda *_: said)
    contest = Contest(budgets=(0.5,))
    contest.update(model, batch)
    assert {result.exact_match for row in contest.results().values() for result in row} == {0.75}


def test_without_budgets_only_full_tokens_answer(model: ArrCocQwen3VL, batch: Batch) -> None:
    contest = Contest(budgets=())
    contest.update(model, batch)
    results = contest.results()
    assert list(results) == ["full"]
    assert printed(results, contest.budgets).count("%") == 1


def test_a_reset_contest_has_forgotten(model: ArrCocQwen3VL, batch: Batch) -> None:
    contest = Contest(budgets=(0.5,))
    for _ in range(2):
        contest.reset()
        contest.update(model, batch)
        assert float(contest.right["full"].weight) == 4


@pytest.mark.parametrize("budget", [0.0, 1.5, -0.1])
def test_a_budget_that_is_no_share_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="budget="):
        Contest(budgets=(budget,))


def printed(results: dict[str, list[Result]], budgets: list[float]) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(results_table(results, budgets))
    return console.export_text()


def test_the_table_has_a_row_a_contestant_and_a_column_a_budget() -> None:
    results = {
        "full": [Result(0.971, 144.0)],
        "ARR-COC": [Result(0.9, 36.0), Result(0.8, 14.0)],
        "random": [Result(0.35, 36.0), Result(0.25, 14.0)],
    }
    text = printed(results, [0.25, 0.1])
    assert "all 144 tokens" in text
    assert "36 tokens (25%)" in text
    assert "14 tokens (10%)" in text
    row = next(line for line in text.splitlines() if "random" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["random", "", "35.0", "25.0"]


def test_exact_match_forgives_case_and_space_alone() -> None:
    assert exact_matches([" Yes\n", "7", "77", ""], ["yes", "7", "7", "7"]) == [1, 1, 0, 0]


def test_any_of_several_accepted_answers_is_right() -> None:
    accepted = [("red", "RED", "blue"), ["7"], ["seven"]]
    assert exact_matches(["Blue", "7", "even"], accepted) == [1, 1, 0]


def test_a_contest_counts_any_accepted_answer_as_right(
    model: ArrCocQwen3VL, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch["accepted"] = [("one", "two")] * 4
    monkeypatch.setattr("lightning_arrcoc.contest.decode_answers", lambda *_: ["two"] * 4)
    contest = Contest(budgets=())
    contest.update(model, batch)
    assert contest.results()["full"][0].exact_match == 1
