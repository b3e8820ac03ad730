"""Command and configuration -> objects -> Trainer: where everything is put together.

Exit codes: 0 done, 1 a check found something bad or an error of ours, 2 the user can mend it,
130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

COMMANDS = {
    "fit": "train ARR-COC, then compare it on the test split and draw what it keeps",
    "validate": "measure a checkpoint on the validation split",
    "test": "compare a checkpoint with full, random and downsampled tokens",
    "predict": "answer a question about a picture (image=... question=...) or the test split",
    "ask": 'the shortest way in: ask photo.png "Which digit is red?"',
    "export": "a checkpoint for use elsewhere: format=hf, onnx, torch_export or int8",
    "serve": "a checkpoint behind an OpenAI-compatible chat endpoint, on this machine alone",
    "doctor": "try all that a long run needs; loaders (doctor loader); batch sizes (doctor batch)",
    "cache": "measure the textures of the data once and keep them on disk",
    "compare": "ask checkpoints side by side on a page of this machine (checkpoints=DIR)",
}
PLAIN = {  # these take no configuration
    "checkpoints": "list the checkpoints of a folder; --verify reads them all",
    "report": "tell runs in one page, from their logs: report RUN [RUN ...] [--out FILE.html]",
}
USAGE = (
    "usage: python -m lightning_arrcoc COMMAND [key=value ...] [--help] [--cfg job] [-m]\n\n"
    + ("\n".join(f"  {name:<13}{what}" for name, what in {**COMMANDS, **PLAIN}.items()))
)


INTERRUPTED, TERMINATED = 130, 143


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # as torch calls it now, and before


def main() -> None:
    """Run the command line and leave with its exit code."""
    if not any(name in os.environ for name in ALLOCATOR):
        # Read when torch is loaded; ranks that Lightning starts inherit it.
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        sys.exit(0)
    if not arguments or arguments[0] not in (*COMMANDS, *PLAIN):
        sys.exit(_fail(_unknown_command(arguments)))
    if arguments[0] == "checkpoints":
        sys.exit(_checkpoints(arguments[1:]))
    if arguments[0] == "report":
        sys.exit(_report(arguments[1:]))
    try:
        sys.exit(run(arguments[0], arguments[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _checkpoints(arguments: list[str]) -> int:
    from lightning_arrcoc import checkpoints

    try:
        return checkpoints.main(arguments)
    except ValueError as error:
        return _fail(str(error))


def _report(arguments: list[str]) -> int:
    from lightning_arrcoc.report import command

    try:
        return command.main(arguments)
    except (ValueError, OSError) as error:
        return _fail(_one_line(error))


def run(command: str, arguments: list[str]) -> int:
    """Run one command under Hydra and give its exit code."""
    from lightning_arrcoc.ask_words import named_words
    from lightning_arrcoc.config import check_overrides, config_dir
    from lightning_arrcoc.doctor import named_topic

    debug = any(word.lower() in ("debug=true", "++debug=true") for word in arguments)
    try:
        arguments = named_topic(arguments) if command == "doctor" else arguments
        arguments = named_words(arguments) if command == "ask" else arguments
        arguments = check_overrides(command, arguments)
    except ValueError as error:
        if debug:
            raise
        return _fail(str(error))
    import hydra

    code = 0

    def task(config: Any) -> None:
        nonlocal code
        _relaunchable(command)
        ended = _guarded(command, config)
        _finish_tracking(ended)
        code = max(code, ended)
        if code in (INTERRUPTED, TERMINATED):  # a sweep would go on with the next job
            sys.exit(code)

    main_of = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)
    # Hydra's parser wants its flags before the overrides.
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    flags = [word for word in arguments if word not in overrides]
    sys.argv = [sys.argv[0], *flags, *overrides]
    main_of(task)()
    return code


def _finish_tracking(code: int) -> None:
    """End a run of Weights & Biases: the next job of a sweep would go on with it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=code)


def _relaunchable(command: str) -> None:
    """Make `sys.argv` what starts this very job again: Lightning launches DDP ranks by it.

    In a sweep that is the single job, not the sweep.
    """
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get()
    overrides = [str(word) for word in chosen.overrides.task]
    sweep = str(chosen.mode).endswith("MULTIRUN")
    rest = overrides if sweep else sys.argv[1:]
    sys.argv = [sys.argv[0], command, *rest]


def _guarded(command: str, config: Any) -> int:
    """Run a command; what the user can mend becomes one line."""
    try:
        # transformers imports torchao where it is installed, and that tells of GPUs it lacks.
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from lightning_arrcoc import commands
        from lightning_arrcoc.noise import quiet_known_noise

        quiet_known_noise()
        return int(getattr(commands, command)(config))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        # The Trainer turns Ctrl-C into exit code 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            return INTERRUPTED
        if type(error).__name__ == "SIGTERMException":
            # Of several processes the first one says so: Lightning's launcher would take another
            # one that ends with a code for a crash, and kill this one.
            return 0 if _is_other_rank() else TERMINATED
        raise
    except Exception as error:
        if config.get("debug") or not _is_mendable(error):
            raise
        _forget_empty_run()
        from lightning_arrcoc.architecture import ArchitectureError

        # A table stays one: what differs is many things at once.
        return _fail(str(error) if isinstance(error, ArchitectureError) else _one_line(error))


def _is_other_rank() -> bool:
    """Whether a launcher (Lightning's, torchrun or srun) started this process as not the first."""
    names = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
    return any(int(os.environ.get(name, "0")) > 0 for name in names)


def _is_mendable(error: Exception) -> bool:
    """Whether it is the user's to mend, not ours."""
    from omegaconf.errors import OmegaConfBaseException

    mendable: tuple[type[Exception], ...] = (
        ValueError, OSError, ImportError, OmegaConfBaseException,
    )  # fmt: skip
    with suppress(ImportError):
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        mendable = (*mendable, MisconfigurationException)
    return isinstance(error, mendable) or type(error).__module__.startswith("wandb.errors")


def _one_line(error: Exception) -> str:
    from omegaconf.errors import MissingMandatoryValue

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value. Give it one: {error.full_key}=..."
    text = str(error)
    if "Original Traceback" in text:  # from a worker of a loader: what it raised comes last
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def _forget_empty_run() -> None:
    """Remove the folder of a run that never began: it holds records of the start, no results."""
    from hydra.core.hydra_config import HydraConfig

    from lightning_arrcoc.loggers.jsonl_file import LOG, read_lines

    folder = Path(HydraConfig.get().runtime.output_dir)
    outputs = Path(HydraConfig.get().runtime.cwd) / "outputs"
    log = folder / LOG
    measured = log.is_file() and any(line.get("metrics") for line in read_lines(log))
    if _is_other_rank() or measured or outputs not in folder.parents:
        return
    with suppress(OSError):
        if {entry.name for entry in folder.iterdir()} <= {".hydra", "csv", "tensorboard", LOG}:
            shutil.rmtree(folder)
            for parent in (folder.parent, outputs):
                if not any(parent.iterdir()):
                    parent.rmdir()


def _unknown_command(arguments: list[str]) -> str:
    known = ", ".join((*COMMANDS, *PLAIN))
    if not arguments:
        return f"No command; expected one of {known}. Try: python -m lightning_arrcoc fit"
    near = difflib.get_close_matches(arguments[0], (*COMMANDS, *PLAIN), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown command {arguments[0]!r}; expected one of {known}.{hint}"


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
