"""Every shipped YAML composes, is accepted by the checks, and makes what it says.

The files are found by listing the folders, so that a new one is tested by itself.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.cli import COMMANDS
from lightning_arrcoc.config import check_overrides, config_dir
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.plugins import SelectivePrecision
from lightning_arrcoc.profilers import StepsProfiler
from lightning_arrcoc.relevance import FixedTensions, RelevanceRealizer
from lightning_arrcoc.relevance.balancing import START
from lightning_arrcoc.targets import build, check_config
from lightning_arrcoc.vlm.loading import TINY_FOLDER
from lightning_arrcoc.vlm.lora import lora_settings

CONF = config_dir()
GROUPS = {
    folder.relative_to(CONF).as_posix(): sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted({file.parent for file in CONF.rglob("*.yaml")} - {CONF})
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]

Compose = Callable[..., DictConfig]


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Compose]:
    """Compose as a running job does: Hydra knows the folder of the run."""

    def run(command: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(
                command,
                [*overrides, f"hydra.runtime.output_dir={tmp_path}"],
                return_hydra_config=True,
            )
        HydraConfig.instance().set_config(config)
        return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])

    yield run
    HydraConfig.instance().cfg = None
    GlobalHydra.instance().clear()


def defaults(file: Path) -> list[Any]:
    found: list[Any] = yaml.safe_load(file.read_text()).get("defaults", [])
    return found


# -------------------------------------------------------------------------------------- the files


def test_the_groups_hold_what_was_promised() -> None:
    promised = {
        "model": {"tiny", "qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b"},
        "model/arr_coc/balancer": {"adaptive", "fixed"},
        "model/lora": {"none", "default"},
        "training/objective": {
            "attribution",
            "attention",
            "soft",
            "hard",
            "soft_to_hard",
            "tensions",
        },
        "data": {"digits", "jsonl", "jsonl_one_file", "hub"},
        "callbacks": {"default", "memory", "none", "safe"},
        "trainer": {
            "cpu",
            "gpu",
            "ddp",
            "cpu_ddp",
            "fsdp",
            "fsdp2",
            "deepspeed",
            "selective",
        },
        "logger": {"auto", "csv", "jsonl", "mlflow", "none", "tensorboard", "wandb"},
        "profile": {"none", "time", "memory"},
        "experiment": {"debug", "tiny_base", "small", "prod"},
    }
    assert {group: names - set(GROUPS[group]) for group, names in promised.items()} == {
        group: set() for group in promised
    }


def test_every_command_has_its_file_and_every_file_its_command() -> None:
    assert {file.stem for file in CONF.glob("*.yaml")} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_experiment_has_the_last_word(command: str) -> None:
    """Were `_self_` behind it, an experiment's own values would lose without a word."""
    names = [next(iter(item)) if isinstance(item, dict) else item for item in
             defaults(CONF / f"{command}.yaml")]  # fmt: skip
    assert names[-2:] == ["_self_", "experiment"]


def test_what_an_experiment_says_is_what_counts(composed: Compose) -> None:
    assert composed("fit").picture_samples == 8
    debug = composed("fit", "experiment=debug")
    assert (debug.picture_samples, debug.trainer.max_steps) == (4, 3)
    assert composed("fit", "experiment=debug", "trainer.max_steps=7").trainer.max_steps == 7


@pytest.mark.parametrize("data", GROUPS["data"])
def test_a_run_to_see_whether_everything_runs_does_so_with_any_data(
    data: str, composed: Compose
) -> None:
    config = composed("fit", "experiment=debug", f"data={data}")
    check_config(config)
    assert config.data.batch_size * config.trainer.limit_test_batches == 8


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_an_experiments_head_says_what_it_asks_costs_and_how_to_run_it(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_", "without it the experiment lands in a key of its own"
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    head = " ".join(comments[1:])
    assert "Asks:" in head
    assert "Costs:" in head
    ((command, arguments),) = re.findall(r"python -m lightning_arrcoc (\w+) ([^;]+)", head)
    assert f"experiment={name}" in arguments
    assert check_overrides(command, shlex.split(arguments))


# ------------------------------------------------------------------------------------- composition


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes_as_it_is(command: str, composed: Compose) -> None:
    check_config(composed(command))
    assert check_overrides(command, []) == []


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    choice = f"{group}={option}"
    assert check_overrides("fit", [choice]) == [choice]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "fit"])
def test_one_option_of_every_group_composes_for_every_command(command: str) -> None:
    for choice in {group: f"{group}={option}" for group, option in OPTIONS}.values():
        assert check_overrides(command, [choice]) == [choice]


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_model_takes_adapters(model: str, composed: Compose) -> None:
    config = composed("fit", f"model={model}", "model/lora=default")
    check_config(config)
    assert config.model.lora.rank == 8
    assert composed("fit", f"model={model}").model.lora is None


@pytest.mark.parametrize("command", COMMANDS)
def test_outputs_go_below_the_folder_it_was_started_in(command: str, composed: Compose) -> None:
    composed(command)
    hydra = HydraConfig.get()
    if command in ("doctor", "ask", "export", "compare", "serve"):  # which write nothing of a run
        assert (hydra.run.dir, hydra.output_subdir) == (".", None)
        return
    folder = hydra.run.dir
    assert folder.startswith(f"outputs{os.sep}{command}{os.sep}")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"fit", "doctor"}))
def test_commands_that_measure_neither_save_nor_log(command: str, composed: Compose) -> None:
    config = composed(command)
    assert not config.callbacks
    assert not config.logger


# ----------------------------------------------------------------------------------- instantiation


@pytest.mark.parametrize("option", GROUPS["callbacks"])
def test_callbacks_are_made(option: str, composed: Compose) -> None:
    config = composed("fit", f"callbacks={option}").callbacks
    assert all(isinstance(build(part), pl.Callback) for part in config.values())
    assert bool(config) == (option != "none")


def test_fit_takes_all_of_our_callbacks_those_that_save_last(composed: Compose) -> None:
    made = [build(part) for part in composed("fit").callbacks.values()]
    names = [type(callback).__name__ for callback in pl.Trainer(
        callbacks=made, logger=False, accelerator="cpu", enable_model_summary=False,
    ).callbacks]  # fmt: skip
    assert names == [
        "MetricsProgressBar", "ThroughputMonitor", "GradientMonitor", "MemoryMonitor",
        "MemoryGuard", "OOMGuard", "OverfittingDetector", "AtomicCheckpoint", "AtomicCheckpoint",
    ]  # fmt: skip
    assert len(composed("fit", "callbacks=default").callbacks) == 3


@pytest.mark.parametrize("option", GROUPS["experiment"])
def test_an_experiments_callbacks_are_made(option: str, composed: Compose) -> None:
    config = composed("fit", f"experiment={option}").callbacks
    assert config
    assert all(isinstance(build(part), pl.Callback) for part in config.values())


@pytest.mark.parametrize("option", GROUPS["logger"])
def test_a_logger_is_made_in_the_folder_of_the_run(
    option: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option in ("wandb", "tensorboard") and not find_spec(option):
        pytest.skip(f"{option} is not installed")
    if option == "mlflow":
        pytest.skip("it keeps the runs of a folder together; see tests/loggers/test_trackers.py")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = composed("fit", f"logger={option}").logger
    if option == "none":
        assert not config
        return
    logger = build(config)
    assert isinstance(logger, Logger)
    assert logger.save_dir is not None
    assert Path(logger.save_dir).is_relative_to(tmp_path)


@pytest.mark.parametrize("option", GROUPS["profile"])
def test_a_profile_is_one_of_a_few_steps_into_the_folder_of_the_run(
    option: str, composed: Compose, tmp_path: Path
) -> None:
    profiler = build(composed("fit", f"profile={option}").trainer).profiler
    if option == "none":
        assert isinstance(profiler, PassThroughProfiler)
        return
    assert isinstance(profiler, StepsProfiler)
    assert (profiler.what, profiler.dirpath) == (option, str(tmp_path / "profile"))


def test_the_steps_of_a_profile_can_be_named(composed: Compose) -> None:
    words = ["profile=time", "trainer.profiler.start=20", "trainer.profiler.stop=30"]
    profiler = build(composed("fit", *check_overrides("fit", words)).trainer).profiler
    assert (profiler.first, profiler.after) == (20, 30)


@pytest.fixture
def own_files(tmp_path: Path) -> Callable[[str], list[str]]:
    """Overrides that point a source of somebody's own questions at three small files."""

    def write(option: str) -> list[str]:
        words = []
        for number, split in enumerate(("train", "val", "test")):
            Image.new("RGB", (40, 20), (number, 0, 0)).save(tmp_path / f"{split}.png")
            line = {"image": f"{split}.png", "question": "?", "answer": "7", "split": split}
            (tmp_path / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
            words.append(f"data.{split}.path={tmp_path / split}.jsonl")
        if option != "jsonl_one_file":
            return words
        files = [tmp_path / f"{split}.jsonl" for split in ("train", "val", "test")]
        (tmp_path / "all.jsonl").write_text("".join(file.read_text() for file in files))
        path = f"data.train.path={tmp_path / 'all.jsonl'}"
        return [path, "data.train.shares=null", "data.train.split_column=split"]

    return write


@pytest.mark.parametrize("option", GROUPS["data"])
def test_data_is_made_and_gives_samples(
    option: str, composed: Compose, own_files: Callable[[str], list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    words = [f"data={option}"]
    if not option.startswith("digits"):
        words += own_files(option)
    if option == "hub":
        pytest.importorskip("datasets")
        words += [f"+data.{split}.cache={tmp_path / 'cache'}" for split in ("train", "val", "test")]
    data = build(composed("fit", *words).data)
    assert isinstance(data, VqaDataModule)
    for source in (data.train, data.val, data.test):
        assert source is not None
        sample = source[0]
        assert isinstance(sample, Sample)
        assert sample.turns[0].answer


def test_the_splits_of_the_digits_share_no_settings_that_would_leak(composed: Compose) -> None:
    """Only training augments, and each split draws from its own scans."""
    for option in ("digits", "digits_growing"):
        config = composed("fit", f"data={option}").data
        assert (config.val.split, config.test.split) == ("val", "test")
        assert not config.val.get("augment")
        assert not config.test.get("augment")


@pytest.mark.parametrize("option", GROUPS["trainer"])
def test_a_trainer_is_made(option: str, composed: Compose, tmp_path: Path) -> None:
    config = composed("fit", f"trainer={option}").trainer
    check_config(composed("fit", f"trainer={option}"))
    several = option in ("ddp", "cpu_ddp", "fsdp", "fsdp2", "deepspeed")
    if several and option != "cpu_ddp":
        assert config.devices == "auto"
        config.accelerator, config.devices, config.precision = "cpu", 2, "32-true"
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if option == "deepspeed" and find_spec("deepspeed") is None:
        with pytest.raises(MisconfigurationException, match="pip install deepspeed"):
            build(config, logger=False)
        return
    trainer = build(config, logger=False)
    assert isinstance(trainer, pl.Trainer)
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.world_size == (2 if several else 1)


def test_precision_is_chosen_per_module_from_the_command_line(composed: Compose) -> None:
    words = ["trainer=selective", "trainer.plugins.precision=bf16-true"]
    words = check_overrides("fit", [*words, "trainer.plugins.keep_fp32=[*.balancer,*.texture]"])
    plugin = build(composed("fit", *words).trainer, logger=False).precision_plugin
    assert isinstance(plugin, SelectivePrecision)
    assert plugin.precision == "bf16-true"
    assert plugin.keep_fp32 == ["*.balancer", "*.texture"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.plugins.precision=fp8", "expected.*bf16-mixed"),
        ("trainer.plugins.keep_fp32=5", "expected Sequence"),
        ("trainer.plugins.keep=[a]", "Did you mean 'keep_fp32'"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_overrides("fit", ["trainer=selective", word])


@pytest.mark.parametrize("option", GROUPS["trainer"])
def test_our_own_trainers_clip_gradients(option: str, composed: Compose) -> None:
    assert composed("fit", f"trainer={option}").trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize("option", GROUPS["training"])
def test_a_module_is_made_around_a_model(
    option: str, composed: Compose, backbone_folder: Path
) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    module = build(composed("fit", f"training={option}").training, model=model)
    assert isinstance(module, ArrCocModule)
    assert module.model is model
    assert module.trains == option


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("attribution", "AttributionDistillation"),
        ("attention", "AttentionDistillation"),
        ("soft", "SoftGates"),
        ("hard", "HardChoice"),
        ("soft_to_hard", "SoftToHard"),
    ],
)
def test_an_objective_is_made(
    option: str, name: str, composed: Compose, backbone_folder: Path
) -> None:
    assert option in GROUPS["training/objective"]
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    module = build(composed("fit", f"training/objective={option}").training, model=model)
    assert type(module.objective).__name__ == name


def test_the_objective_is_the_one_that_python_takes_by_itself(
    composed: Compose, backbone_folder: Path
) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    ours = build(composed("fit").training, model=model)
    plain = ArrCocModule(model)
    assert type(ours.objective) is type(plain.objective)
    assert vars(ours.objective) == vars(plain.objective)


def test_parts_of_an_objective_can_be_set_from_the_command_line(composed: Compose) -> None:
    words = [
        "training/objective=soft_to_hard",
        "training.objective.soft.teacher_weight=0.5",
        "training.objective.hard.budgets=[0.1,0.2]",
        "training.lora_learning_rate=0.001",
    ]
    words = check_overrides("fit", words)
    objective = build(composed("fit", *words).training.objective)
    assert objective.soft.teacher_weight == 0.5
    assert (objective.hard.budgets.lowest, objective.hard.budgets.highest) == (0.1, 0.2)


def test_adapters_are_made(composed: Compose, backbone_folder: Path) -> None:
    pytest.importorskip("peft")
    config = composed("fit", f"model.backbone={backbone_folder}", "model/lora=default").model
    settings = lora_settings(build(config).backbone)
    attention = ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert settings == {"rank": 8, "alpha": 16, "targets": attention}


@pytest.mark.parametrize("option", GROUPS["model"])
def test_a_model_points_at_its_backbone(option: str, composed: Compose) -> None:
    backbone = composed("fit", f"model={option}").model.backbone
    size = option.rpartition("_")[2].upper()
    assert backbone == ("tiny" if option == "tiny" else f"Qwen/Qwen3-VL-{size}-Instruct")


@pytest.mark.skipif(
    not (TINY_FOLDER / "model.safetensors").is_file(), reason="the tiny weights are not there"
)
@pytest.mark.parametrize("option", GROUPS["model"])
def test_a_model_is_made_on_the_tiny_backbone(option: str, composed: Compose) -> None:
    config = composed("fit", f"model={option}", "model.backbone=tiny").model
    model = build(config)
    assert isinstance(model, ArrCocQwen3VL)
    assert model.budget == config.budget == 0.1
    assert model.select == "before_vision"
    assert model.backbone.dtype == getattr(torch, config.dtype)
    assert model.arr_coc.texture.out_channels == 13


def test_the_model_is_the_same_that_python_makes_without_yaml(
    composed: Compose, backbone_folder: Path
) -> None:
    """Defaults live in Python; the YAML of the default model departs from none."""
    ours = build(composed("fit", f"model.backbone={backbone_folder}").model)
    plain = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    assert str(ours.arr_coc) == str(plain.arr_coc)
    assert (ours.budget, ours.select) == (plain.budget, plain.select)


def test_pixel_limits_reach_the_processor(composed: Compose, backbone_folder: Path) -> None:
    words = [f"model.backbone={backbone_folder}", "model.min_pixels=2048", "model.max_pixels=8192"]
    model = build(composed("fit", *check_overrides("fit", words)).model)
    assert model.processor.image_processor.size["shortest_edge"] == 2048
    assert model.processor.image_processor.size["longest_edge"] == 8192


def test_parts_of_the_model_can_be_swapped_from_the_command_line(
    composed: Compose, backbone_folder: Path
) -> None:
    config = composed(
        "fit",
        f"model.backbone={backbone_folder}",
        "model.arr_coc.balancer._target_=lightning_arrcoc.relevance.FixedTensions",
        "model.arr_coc.balancer._partial_=false",
    )
    assert type(build(config.model).arr_coc.balancer).__name__ == "FixedTensions"


@pytest.fixture
def ablated(composed: Compose, backbone_folder: Path) -> Callable[..., RelevanceRealizer]:
    """ARR-COC as overrides on the command line make it."""

    def make(*overrides: str) -> RelevanceRealizer:
        words = check_overrides("fit", [f"model.backbone={backbone_folder}", *overrides])
        realizer: RelevanceRealizer = build(composed("fit", *words).model).arr_coc
        return realizer

    return make


def test_the_question_can_be_silenced(ablated: Callable[..., RelevanceRealizer]) -> None:
    assert ablated("model.arr_coc.query_blind=true").query_blind
    assert not ablated().query_blind


def test_tensions_can_be_fixed_at_values(ablated: Callable[..., RelevanceRealizer]) -> None:
    balancer = ablated("model/arr_coc/balancer=fixed").balancer
    assert isinstance(balancer, FixedTensions)
    assert balancer.values.tolist() == pytest.approx(START)
    chosen = ablated(
        "model/arr_coc/balancer=fixed",
        "model.arr_coc.balancer.exploit=0.75",
        "model.arr_coc.balancer.focus=0",
    ).balancer
    assert chosen.values.tolist() == pytest.approx([0.75, START[1], 0.0])


def test_a_larger_model_can_fix_its_tensions_too(composed: Compose) -> None:
    balancer = composed("fit", "model=qwen3_vl_2b", "model/arr_coc/balancer=fixed").model.arr_coc
    assert isinstance(build(balancer.balancer), FixedTensions)


def test_scorers_can_be_left_out(ablated: Callable[..., RelevanceRealizer]) -> None:
    realizer = ablated("model.arr_coc.knowing.scorers=[information,participatory]")
    assert realizer.knowing.scorers == ("information", "participatory")


def test_textures_can_be_single_channels(ablated: Callable[..., RelevanceRealizer]) -> None:
    realizer = ablated("model.arr_coc.texture.channels=[red,green,blue]")
    assert [channel.name for channel in realizer.texture.channels] == ["red", "green", "blue"]
    first = next(realizer.knowing.info_scorer.parameters())
    assert first.shape == (256, 3)


def test_tokens_can_be_single_cells_alone(ablated: Callable[..., RelevanceRealizer]) -> None:
    assert not ablated("model.arr_coc.allocator.coarse=false").allocator.coarse
    whole = ablated("model.budget=0.3").allocator
    assert whole.coarse
    assert whole.num_positions == 0.3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.arr_coc.knowing.scorers=[smell]", "choose one or more of information"),
        ("model.arr_coc.knowing.scorers=[]", "choose one or more of information"),
        ("model.arr_coc.knowing.scorers=information", "expected Sequence"),
        ("model.arr_coc.texture.channels=[red,smell]", "expected each once"),
        ("model.arr_coc.texture.channels=[]", "expected each once"),
        ("model.arr_coc.query_blind=perhaps", "expected bool"),
        ("model/arr_coc/balancer=loose", "Could not find"),
    ],
)
def test_an_ablation_that_cannot_be_is_refused(
    ablated: Callable[..., RelevanceRealizer], override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ablated(override)


def test_every_target_that_ships_is_there(composed: Compose) -> None:
    """Python finds it: not its spelling alone is right."""
    from hydra.utils import get_object

    def targets(node: Any) -> Iterator[str]:
        if isinstance(node, DictConfig):
            if "_target_" in node:
                yield node._target_
            for key in node:
                yield from targets(node._get_node(key))
        elif isinstance(node, ListConfig):
            for part in node:
                yield from targets(part)

    found = set()
    for group, option in OPTIONS:
        config = composed("fit", f"{group}={option}")
        for part in ("model", "data", "training", "trainer", "callbacks", "logger"):
            found |= set(targets(config[part]))
    assert len(found) > 10
    assert all(callable(get_object(target)) for target in found)
