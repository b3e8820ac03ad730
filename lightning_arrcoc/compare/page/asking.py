"""What happens when a visitor asks, moves the slider or closes the page."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from lightning_arrcoc.compare.comparator import CheckpointComparator
from lightning_arrcoc.compare.contestants import Contestant, reallocate
from lightning_arrcoc.compare.errors import (
    CompareError,
    LineFullError,
    LineTimeoutError,
    StoppedError,
)
from lightning_arrcoc.compare.page import views
from lightning_arrcoc.compare.page.history import rows_of
from lightning_arrcoc.compare.page.pictures import picture_of
from lightning_arrcoc.compare.page.settings import MOST_CONTESTANTS, MOST_QUESTION, PageSettings
from lightning_arrcoc.compare.page.visits import Failed, Outcome, Visit, Visits
from lightning_arrcoc.memory.readings import MIB

MOST_KEPT_MIB = 256  # of all visitors' tensors; chosen by us: 64 of them usually take 16
NOT_ITS_OWN = (LineFullError, LineTimeoutError, StoppedError)  # these end the whole comparison
log = logging.getLogger(__name__)


class Shown(NamedTuple):
    """Parts of the page, as HTML; None leaves one as it is."""

    picture: str | None = None
    answers: str | None = None
    why: str | None = None
    agreement: str | None = None
    costs: str | None = None
    channels: str | None = None
    history: str | None = None


class Page:
    """Between the page's events and the comparator. Every method may run in several threads.

    Args:
        comparator: who answers.
        settings: of the page.
        folder: looked through again whenever the page is opened; None: what is registered stays.
    """

    def __init__(
        self, comparator: CheckpointComparator, settings: PageSettings, folder: Path | None = None
    ) -> None:
        self.comparator, self.settings, self.folder = comparator, settings, folder
        self.visits = Visits(settings.max_visits, MOST_KEPT_MIB * MIB)

    def ask(
        self, picture: Any, question: Any, names: Any, percent: Any, session: str
    ) -> Iterator[Shown]:
        """Let each answer, and show it as soon as it has.

        What is wrong is said in place of the answers, in words that hold no path. Asking again
        ends what the same visitor still waits for.
        """
        # Of a hosted page's visitors nothing is kept.
        visit = Visit() if self.settings.is_single else self.visits.of(session)
        try:
            yield from self._asked(picture, question, names, percent, visit)
        except (ValueError, CompareError) as error:
            yield Shown(answers=views.notice(str(error)))
        except Exception:
            log.exception("A question could not be answered")
            yield Shown(answers=views.notice("Something went wrong here; the log says what."))

    def names_now(self) -> list[str]:
        """Who may be asked, those that came into the folder meanwhile among them."""
        if self.folder is not None:
            with suppress(CompareError, ValueError):
                self.comparator.register_folder(self.folder)
        return self.comparator.names

    def slide(self, percent: Any, session: str) -> Shown:
        """What each would keep at another budget: nothing but allocations is computed."""
        visit = self.visits.of(session)
        answered = visit.answered
        if not answered:
            return Shown()
        budget = _share(percent)
        shown = {one.name: reallocate(one, budget) for one in answered}
        preview = None if percent == visit.percent else percent
        return Shown(
            answers=views.answers_view(visit.outcomes, visit.size, visit.percent, shown, preview),
            agreement=views.agreement_view(answered, shown, visit.size),
        )

    def _asked(
        self, picture: Any, question: Any, names: Any, percent: Any, visit: Visit
    ) -> Iterator[Shown]:
        names, question, budget = self._names(names), _question(question), _share(percent)
        image = picture_of(picture, self.settings.max_pixels)
        number, size = visit.begin(), image.size
        outcomes: list[Outcome] = []
        yield Shown(views.picture_view(image), views.answers_view([], size, percent, waiting=names))
        for outcome in self._outcomes(image, question, names, budget, visit, number):
            outcomes.append(outcome)
            waiting = names[len(outcomes) :]
            if waiting:
                yield Shown(answers=views.answers_view(outcomes, size, percent, waiting=waiting))
        now = datetime.now().isoformat(" ", "seconds")
        answered = [one for one in outcomes if isinstance(one, Contestant)]
        visit.remember(outcomes, size, percent, rows_of(answered, question, percent, now))
        allocations = {one.name: one.allocation for one in answered}
        yield Shown(
            answers=views.answers_view(outcomes, size, percent),
            why=views.why_view(answered, size),
            agreement=views.agreement_view(answered, allocations, size),
            costs=views.costs_view(answered),
            channels=views.channels_view(answered, size),
            history=views.history_view(visit.rows),
        )

    def _outcomes(
        self, image: Image.Image, question: str, names: Sequence[str], budget: float, visit: Visit,
        number: int,
    ) -> Iterator[Outcome]:  # fmt: skip
        """One for each name: a checkpoint that cannot answer takes nothing from the others."""
        left = list(names)
        while left:
            try:
                for one in self.comparator.compare_each(
                    image, question, left, budget, stop=lambda: visit.asking != number
                ):
                    left = left[1:]
                    yield one
            except NOT_ITS_OWN:
                raise
            except CompareError as error:
                yield Failed(left[0], str(error))
                left = left[1:]

    def _names(self, names: Any) -> list[str]:
        """Whom to ask; registered ones alone, so that none is in the way of another.

        Raises:
            ValueError: none, too many, or one that nobody registered.
        """
        if self.settings.is_single:
            return [str(self.settings.checkpoint)]
        known = self.comparator.names
        if not isinstance(names, list) or not 1 <= len(names) <= MOST_CONTESTANTS:
            raise ValueError(f"Choose one to {MOST_CONTESTANTS} contestants.")
        unknown = [name for name in names if not isinstance(name, str) or name not in known]
        if unknown:
            raise ValueError(
                f"There is no checkpoint {str(unknown[0])!r:.80}. Choose from the list."
            )
        return list(dict.fromkeys(names))


def _question(question: Any) -> str:
    if not isinstance(question, str) or not question.strip():
        raise ValueError("The question is empty. Ask something about the picture.")
    if len(question) > MOST_QUESTION:
        raise ValueError(f"The question has {len(question)} letters; at most {MOST_QUESTION} go.")
    return question.strip()


def _share(percent: Any) -> float:
    """A budget, as a share of the cells."""
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 1 <= percent <= 100:
        raise ValueError(f"The budget is {percent!r:.20}; expected 1 to 100 %.")
    return float(percent) / 100
