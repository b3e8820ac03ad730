"""Gradio's part of the page: its widgets, and what each of them sets going."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from lightning_arrcoc.compare.contestants import BUILT_IN
from lightning_arrcoc.compare.page.asking import Page, Shown
from lightning_arrcoc.compare.page.examples import Example
from lightning_arrcoc.compare.page.rendering import asset, render
from lightning_arrcoc.compare.page.settings import MOST_CONTESTANTS, MOST_QUESTION
from lightning_arrcoc.contest import FULL
from lightning_arrcoc.memory.readings import MIB

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")
AT_ONCE = 4  # events of a kind; chosen by us: those who answer stand in one line anyway
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
TABS = {
    "why": "Why", "agreement": "Overlap", "costs": "Cost", "channels": "Channels",
    "history": "History",
}  # fmt: skip
OURS = {  # the names of page.css; what is dark there is dark here
    f"{key}{ending}": f"var(--{ours})"
    for ending in ("", "_dark")
    for key, ours in {
        "body_background_fill": "page",
        "body_text_color": "ink",
        "body_text_color_subdued": "quiet",
        "background_fill_primary": "surface",
        "background_fill_secondary": "page",
        "block_background_fill": "surface",
        "block_border_color": "line",
        "block_label_text_color": "quiet",
        "block_title_text_color": "ink",
        "block_info_text_color": "quiet",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "input_background_fill": "page",
        "input_border_color": "line",
        "slider_color": "accent",
        "button_primary_background_fill": "accent",
        "button_secondary_background_fill": "surface",
        "button_secondary_border_color": "line",
        "button_secondary_text_color": "ink",
    }.items()
}
PLAIN: dict[str, Any] = {"apply_default_css": False, "js_on_load": None}
OF_SEVERAL = ("agreement", "history")


def theme() -> gr.themes.Base:
    """Gradio's plainest, in our colours and in fonts that are there already."""
    plain = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="md",
        font=SYSTEM_FONTS, font_mono=MONO_FONTS,
    )  # fmt: skip
    return plain.set(color_accent="var(--accent)", **OURS)


def build_blocks(page: Page, examples: Sequence[Example], percent: int) -> gr.Blocks:
    """The page; `serving` puts it behind its guard.

    Args:
        page: what answers its events.
        examples: pictures to begin with.
        percent: budget to begin with.
    """
    single = page.settings.is_single
    with gr.Blocks(title=page.settings.title, analytics_enabled=False) as blocks:
        gr.HTML(render("introduction", title=page.settings.title, single=single), **PLAIN)
        with gr.Row(elem_id="asking"):
            with gr.Column(scale=5, min_width=300):
                picture = _picker(page, examples)
            with gr.Column(scale=7, min_width=300):
                question, contestants, budget, ask, stop = _questions(page, examples, percent)
        shown = [gr.HTML(elem_id=name, **PLAIN) for name in ("asked", "answers")]
        with gr.Tabs(elem_id="reasons"):
            for name, label in TABS.items():
                # A view that has no tab is there all the same, so that `Shown` fits both modes.
                with gr.Tab(label, visible=not (single and name in OF_SEVERAL)):
                    shown.append(gr.HTML(render("empty"), elem_id=name, **PLAIN))
        _connect(page, blocks, picture, question, contestants, budget, ask, stop, shown)
    return blocks.queue(
        max_size=page.settings.max_waiting, default_concurrency_limit=AT_ONCE, api_open=False
    )


def _picker(page: Page, examples: Sequence[Example]) -> gr.HTML:
    return gr.HTML(
        examples[0].url if examples else "",
        elem_id="picture",
        html_template=asset("picker.html"),
        js_on_load=asset("picker.js"),
        apply_default_css=False,
        said="",
        examples=[one._asdict() for one in examples],
        max_pixels=page.settings.max_pixels,
        # What else a request holds takes a few thousand.
        most_letters=int(page.settings.max_upload_mb * MIB) - 16_384,
    )


def _questions(page: Page, examples: Sequence[Example], percent: int) -> tuple[Any, ...]:
    single, names = page.settings.is_single, page.comparator.names
    question = gr.Textbox(
        examples[0].question if examples else "", label="Question", lines=1, max_lines=4,
        max_length=MOST_QUESTION, elem_id="question", placeholder="What is to be seen?",
    )  # fmt: skip
    contestants = gr.Dropdown(
        names, value=first_choice(names), multiselect=True, max_choices=MOST_CONTESTANTS,
        label=f"Contestants, {MOST_CONTESTANTS} at most", visible=not single,
        elem_id="contestants",
    )  # fmt: skip
    budget = gr.Slider(
        1, 100, percent, step=1, label="Visual tokens kept, in % of all", elem_id="budget",
        info="Each move asks anew." if single else
        "After an answer, drag to see at once what another budget would keep.",
    )  # fmt: skip
    with gr.Row(elem_id="buttons"):
        ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=3, min_width=120)
        stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80, visible=not single)
    return question, contestants, budget, ask, stop


def _connect(
    page: Page, blocks: gr.Blocks, picture: Any, question: Any, contestants: Any, budget: Any,
    ask: Any, stop: Any, shown: list[Any],
) -> None:  # fmt: skip
    """Events; each of them is for the page alone and has no public name."""

    def asked(
        picture: Any, question: Any, names: Any, percent: Any, request: gr.Request
    ) -> Iterator[list[Any]]:
        for parts in page.ask(picture, question, names, percent, _session(request)):
            yield _updates(parts)

    def slid(percent: Any, request: gr.Request) -> list[Any]:
        return _updates(page.slide(percent, _session(request)))

    def stopped(request: gr.Request) -> None:
        page.visits.of(_session(request)).stop()

    def closed(request: gr.Request) -> None:
        page.visits.forget(_session(request))

    def taken(event: gr.EventData) -> str:
        return str(event.question)[:MOST_QUESTION]

    triggers = [ask.click, question.submit]
    if page.settings.is_single:
        triggers.append(budget.release)
    gr.on(
        triggers, asked, [picture, question, contestants, budget], shown,
        concurrency_limit=AT_ONCE, trigger_mode="multiple", **QUIET,
    )  # fmt: skip
    picture.select(taken, None, question, **QUIET)
    if not page.settings.is_single:
        budget.input(slid, budget, shown, trigger_mode="always_last", **QUIET)
        stop.click(stopped, None, None, **QUIET)
        blocks.load(lambda: gr.Dropdown(choices=page.names_now()), None, contestants, **QUIET)
        blocks.unload(closed)


def first_choice(names: Sequence[str]) -> list[str]:
    """All tokens, and as many checkpoints as there is room for; else what is built in."""
    checkpoints = [name for name in names if name not in BUILT_IN]
    others = [name for name in BUILT_IN if name != FULL]
    return [FULL, *checkpoints, *others][:MOST_CONTESTANTS]


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _updates(parts: Shown) -> list[Any]:
    return [gr.skip() if part is None else part for part in parts]
