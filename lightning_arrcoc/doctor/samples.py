"""The data as a run would see it: the first samples of each split, shown."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.doctor.finding import Finding, Patient
from lightning_arrcoc.pictures import save_figure
from lightning_arrcoc.pictures.answers import wrap
from lightning_arrcoc.targets import build

PICTURE = "doctor.png"
SHOWN = 2  # of each split in the table


def look(patient: Patient) -> Finding:
    """Open the first samples of each split, and show them.

    Raises:
        Exception: whatever a source says of its own mistakes.
    """
    config = patient.config
    data = build(config.data)
    data.build_textures = False  # a cache of the user's is read, not written
    table = Table("split", "question", "answer", "pictures (px)", title="First samples")
    drawn: list[Sample] = []
    counts: list[str] = []
    for name in ("train", "val", "test"):
        source = getattr(data, name)
        if source is None:
            counts.append(f"no {name}")
            continue
        if not len(source):
            return Finding("fail", f"the split {name} is empty", f"see data.{name}")
        counts.append(f"{len(source):,} {name}")
        for index in range(min(len(source), max(SHOWN, config.picture_samples))):
            sample = source[index]
            if index < SHOWN:
                table.add_row(name, *row(sample))
            if name == "train" and index < config.picture_samples:
                drawn.append(sample)
    patient.data = data
    patient.shown.append(table)
    what = " / ".join(counts) + " samples"
    if not drawn:
        return Finding("ok", what)
    try:
        save_figure(draw(drawn), Path(PICTURE))
    except OSError as error:
        return Finding("warn", f"{what}; {PICTURE} cannot be written: {error.strerror or error}")
    return Finding("ok", f"{what}; drawn in {PICTURE}")


def row(sample: Sample) -> list[Text]:
    """Question, answer and sizes, as they are."""
    first = sample.turns[0]
    more = f" (and {len(sample.turns) - 1} more)" if len(sample.turns) > 1 else ""
    sizes = ", ".join(f"{image.width} x {image.height}" for image in sample.images)
    return [Text(wrap(first.question) + more), Text(wrap(first.answer)), Text(sizes or "none")]


def draw(samples: list[Sample]) -> Figure:
    """A row of pictures with the question and answer of each."""
    figure = Figure(figsize=(3.4 * len(samples), 4.2), layout="constrained")
    for axes, sample in zip(figure.subplots(1, len(samples), squeeze=False)[0], samples,
                            strict=True):  # fmt: skip
        axes.set_axis_off()
        if sample.images:
            axes.imshow(sample.images[0])
        axes.set_title(told(sample.turns[0]), fontsize=9, parse_math=False)
    return figure


def told(turn: Turn) -> str:
    """Question and answer, a line each."""
    return f"{wrap(turn.question)}\n{wrap(turn.answer)}"
