"""The command `compare`: configuration -> a page on this machine, or a folder to host it from."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig
from packaging.version import Version

from lightning_arrcoc.compare.comparator import CheckpointComparator
from lightning_arrcoc.compare.page.asking import Page
from lightning_arrcoc.compare.page.examples import Example, from_folder, of_digits
from lightning_arrcoc.compare.page.settings import (
    COMPARE,
    MODES,
    MOST_CONTESTANTS,
    SINGLE,
    PageSettings,
)
from lightning_arrcoc.compare.page.space import new_folder, write_space
from lightning_arrcoc.targets import build
from lightning_arrcoc.vlm.loading import TINY, hide_progress_bars

OLDEST_GRADIO = Version("6.16")
INSTALL = 'Run: pip install "lightning-arrcoc[compare]"'
USUAL_PERCENT = 10  # where the model's budget is a number of tokens


def compare(config: DictConfig) -> int:
    """Show checkpoints side by side until interrupted, or write a folder that shows one."""
    settings, folder = settings_of(config), folder_of(config)
    require_gradio()
    if config.export is not None:
        target = new_folder(config.export)
        examples = examples_of(config)
        comparator, settings = comparator_of(config, settings, folder)
        write_space(target, comparator, settings, config.model, examples, percent_of(config))
        print(f"space: {target}\nTry it there: pip install -r requirements.txt && python app.py")
        return 0
    from lightning_arrcoc.compare.page.serving import (
        HERE,
        LOCAL_NAMES,
        build_app,
        listen,
        serve,
    )

    with listen(HERE, config.port) as taken:  # ahead of the model, which takes longer
        examples = examples_of(config)
        comparator, settings = comparator_of(config, settings, folder)
        page = Page(comparator, settings, folder)
        app = build_app(page, examples, percent_of(config), hosts=LOCAL_NAMES)
        print(f"page: http://{HERE}:{taken.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        serve(app, taken)
    return 0


def settings_of(config: DictConfig) -> PageSettings:
    """What the page is told.

    Raises:
        ValueError: there is no such mode, or words that do not belong together.
    """
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode!r}; expected one of {', '.join(MODES)}.")
    # What is hosted is for strangers: one checkpoint, and nothing kept of them.
    mode = SINGLE if config.export is not None else config.mode
    if mode == COMPARE and config.checkpoint is not None:
        raise ValueError("checkpoint= is for mode=single; choose contestants on the page.")
    return PageSettings(
        mode=mode, max_upload_mb=config.max_upload_mb, max_waiting=config.max_waiting
    )


def folder_of(config: DictConfig) -> Path:
    """Where the checkpoints are.

    Raises:
        ValueError: none was named, or there is none.
    """
    if config.checkpoints is None:
        raise ValueError(
            "No folder was named; expected checkpoints=outputs/fit, where fit saved some."
        )
    folder = Path(config.checkpoints)
    if not folder.is_dir():
        raise ValueError(f"checkpoints={config.checkpoints!r} is no folder; name one with .ckpt.")
    return folder


def comparator_of(
    config: DictConfig, settings: PageSettings, folder: Path
) -> tuple[CheckpointComparator, PageSettings]:
    """The model with the folder's checkpoints, and who answers in single mode.

    Raises:
        ValueError: the folder has no checkpoint, or not the one that is to answer.
        CompareError: that one cannot be used.
    """
    if next(folder.rglob("*.ckpt"), None) is None:
        raise ValueError(f"There is no checkpoint below {str(folder)!r}; expected .ckpt of fit.")
    hide_progress_bars()
    comparator = CheckpointComparator(
        build(config.model), max_loaded=MOST_CONTESTANTS, max_waiting=config.max_waiting,
        timeout_s=config.timeout_s, max_new_tokens=config.max_new_tokens,
    )  # fmt: skip
    names = comparator.register_folder(folder)
    if not settings.is_single:
        return comparator, settings
    wanted = config.checkpoint
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        said = "Nothing was named" if wanted is None else f"checkpoint={wanted!r}"
        raise ValueError(f"{said}; one answers: checkpoint=NAME, one of {', '.join(names[:8])}.")
    comparator.describe(wanted)
    return comparator, settings._replace(checkpoint=wanted)


def examples_of(config: DictConfig) -> list[Example]:
    """Pictures to begin with: those of the folder, or such as the embedded backbone can read."""
    if config.examples is not None:
        return from_folder(config.examples)
    return of_digits() if config.model.backbone == TINY else []


def percent_of(config: DictConfig) -> int:
    """The model's own budget, as the slider has it."""
    budget = config.model.budget
    return min(100, max(1, round(100 * budget))) if isinstance(budget, float) else USUAL_PERCENT


def require_gradio() -> None:
    """Refuse to go on without it.

    Raises:
        ImportError: it is missing, or too old.
    """
    if find_spec("gradio") is None:
        raise ImportError(f"compare shows a page with Gradio, which is not installed. {INSTALL}")
    found = metadata.version("gradio")
    if Version(found) < OLDEST_GRADIO:
        raise ImportError(f"gradio {found} is installed; expected >={OLDEST_GRADIO}. {INSTALL}")
