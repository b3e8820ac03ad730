"""What overfitting looks like from one evaluation to the next, one sign a class."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from lightning_arrcoc.callbacks.arguments import check_counts, is_number

GAP_EVALUATIONS = 8  # chosen by us: fewer, and the noise of one evaluation decides
# Of a slope over its standard error. With 8 evaluations of pure noise it is exceeded in one window
# of a hundred (Student's t, 6 degrees of freedom, one side).
GAP_CERTAINTY = 3.14


class Evaluation(NamedTuple):
    """What one validation found.

    Attributes:
        score: the monitored metric, turned so that lower is better; nan counts as bad.
        val_loss, train_loss: mean losses since the evaluation before; nan where unknown.
    """

    score: float
    val_loss: float = math.nan
    train_loss: float = math.nan


class Sign:
    """One sign: fed with every evaluation, it is raised or not.

    Attributes:
        name: what it is called in `signs`, in logs and in the verdict.
        figure_name: what `figure` is called in logs.
        advice: what to try.
        raised: whether the last evaluation showed it.
        figure: the number that it judges; nan where there is none yet.
        reason: that number in words, once raised.
    """

    name: ClassVar[str]
    figure_name: ClassVar[str]
    advice: ClassVar[str]
    kept: ClassVar[tuple[str, ...]]  # attributes that go on with a resumed run

    def __init__(self) -> None:
        self.raised = False
        self.figure = math.nan

    @property
    def reason(self) -> str:
        raise NotImplementedError

    def update(self, found: Evaluation) -> None:
        """Judge one more evaluation."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("raised", "figure", *self.kept)}
        return {name: list(v) if isinstance(v, deque) else v for name, v in kept.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("raised", "figure", *self.kept):
            mine = getattr(self, name)
            ours = deque(state[name], mine.maxlen) if isinstance(mine, deque) else state[name]
            setattr(self, name, ours)


class Worsening(Sign):
    """The metric was worse than the time before, several times in a row.

    Args:
        times: in a row.
    """

    name = "worsening"
    figure_name = "worse_in_a_row"
    advice = "stop here and take the best checkpoint, or lower the learning rate"
    kept = ("previous",)

    def __init__(self, times: int = 3) -> None:
        super().__init__()
        self.times = _at_least(1, worse=times)
        self.previous = math.nan
        self.figure = 0.0

    @property
    def reason(self) -> str:
        return f"worse than the time before, {self.figure:.0f} times in a row"

    def update(self, found: Evaluation) -> None:
        worse = math.isnan(found.score) or found.score > self.previous
        self.figure = self.figure + 1 if worse else 0.0
        if not math.isnan(found.score):
            self.previous = found.score
        self.raised = self.figure >= self.times


class Apart(Sign):
    """The validation loss is a multiple of the training loss.

    Args:
        ratio: beyond which they are too far apart.
    """

    name = "apart"
    figure_name = "val_to_train"
    advice = "more data or augmentation, more weight decay or dropout, or a smaller model"
    kept = ()

    def __init__(self, ratio: float = 2.0) -> None:
        super().__init__()
        if not (is_number(ratio) and ratio > 1):
            raise ValueError(f"ratio={ratio!r}; expected more than 1.")
        self.ratio = ratio

    @property
    def reason(self) -> str:
        return f"the validation loss is {self.figure:.2f} times the training loss"

    def update(self, found: Evaluation) -> None:
        known = found.train_loss > 0 and not math.isnan(found.val_loss)
        self.figure = found.val_loss / found.train_loss if known else math.nan
        self.raised = self.figure > self.ratio


class Diverging(Sign):
    """The gap between validation and training loss grows, beyond doubt and by enough to matter.

    A straight line is fitted to the gaps of the last evaluations. It counts if its slope is
    `GAP_CERTAINTY` times its standard error, if the validation loss ends above the training loss,
    and if the gap grew by a share of the validation loss.

    Args:
        growth: of the gap over the window, as a share of the mean validation loss in it.
        window: evaluations.
    """

    name = "diverging"
    figure_name = "gap_growth"
    advice = "regularise more, or stop early: what is still learned is the training set"
    kept = ("gaps", "val_losses")

    def __init__(self, growth: float = 0.2, window: int = GAP_EVALUATIONS) -> None:
        super().__init__()
        if not (is_number(growth) and growth > 0):
            raise ValueError(f"gap={growth!r}; expected more than 0.")
        self.growth = growth
        self.gaps: deque[float] = deque(maxlen=_at_least(4, gap_window=window))
        self.val_losses: deque[float] = deque(maxlen=window)

    @property
    def reason(self) -> str:
        return (
            f"the gap between validation and training loss grew by {self.figure:.0%} of the "
            f"validation loss in {len(self.gaps)} evaluations"
        )

    def update(self, found: Evaluation) -> None:
        gap = found.val_loss - found.train_loss
        if not math.isfinite(gap):
            return
        self.gaps.append(gap)
        self.val_losses.append(found.val_loss)
        self.raised = False
        if len(self.gaps) < (self.gaps.maxlen or 0):
            return
        slope, error = _line(list(self.gaps))
        level = sum(map(abs, self.val_losses)) / len(self.val_losses)
        self.figure = slope * (len(self.gaps) - 1) / level if level else math.nan
        certain = slope > GAP_CERTAINTY * error
        self.raised = certain and gap > 0 and self.figure > self.growth


class Stuck(Sign):
    """No improvement for a while.

    Args:
        patience: evaluations without one.
        min_delta: what counts as one, in units of the metric.
    """

    name = "stuck"
    figure_name = "without_improvement"
    advice = "stop here and take the best checkpoint, or lower the learning rate"
    kept = ("best",)

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        super().__init__()
        if not (is_number(min_delta) and min_delta >= 0):
            raise ValueError(f"min_delta={min_delta!r}; expected 0 or more.")
        self.patience, self.min_delta = _at_least(1, patience=patience), min_delta
        self.best = math.inf
        self.figure = 0.0

    @property
    def reason(self) -> str:
        return f"no improvement for {self.figure:.0f} evaluations"

    def update(self, found: Evaluation) -> None:
        improved = found.score < self.best - self.min_delta  # never for nan
        self.figure = 0.0 if improved else self.figure + 1
        if improved:
            self.best = found.score
        self.raised = self.figure >= self.patience


def _line(values: list[float]) -> tuple[float, float]:
    """Slope of the least-squares line through equally spaced values, and its standard error."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((x - middle) ** 2 for x in range(count))
    slope = sum((x - middle) * (y - mean) for x, y in enumerate(values)) / spread
    left = sum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(values))
    return slope, math.sqrt(left / (count - 2) / spread)


def _at_least(least: int, **named: int) -> int:
    check_counts(least, **named)
    (value,) = named.values()
    return value
