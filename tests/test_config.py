"""Configurations fail early, by the nearest valid key, and call nothing outside the allowlist."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from lightning_arrcoc.config import check_overrides, config_dir
from lightning_arrcoc.free_text import is_quoted
from lightning_arrcoc.targets import ALLOW_VARIABLE, build, check_config, target_signature

OUTSIDE = [
    "os.system",
    "builtins.eval",
    "builtins.__import__",
    "subprocess.Popen",
    "torch.load",
    "hydra.utils.instantiate",
    "lightning.fabric.utilities.cloud_io._load",
    "lightning.pytorch.Trainer.fit",
    "lightning.pytorch.TrainerOfOthers",
    "lightning_arrcoc.cli.sys.exit",
    "lightning_arrcoc.commands.json.loads",
    "lightning_arrcoc_evil.run",
    "lightning_arrcoc",
    "lightning",
    "",
    "${oc.env:HOME}",
    "${model.backbone}",
]
# The name begins well; what it leads to lies elsewhere.
ROUNDABOUT = [
    "lightning_arrcoc.data.workers.os.system",
    "lightning_arrcoc.data.datamodule.DataLoader",
    "lightning_arrcoc.data.digits.np.load",
    "lightning_arrcoc.data.images.Image.open",
    "lightning_arrcoc.data.digits.COLOURS.clear",
    "lightning_arrcoc.loggers.auto.netrc.netrc",
    "lightning_arrcoc.callbacks.curriculum.pl.seed_everything",
    "lightning.pytorch.callbacks.model_checkpoint.os.system",
    "lightning.pytorch.callbacks.model_checkpoint.pl.seed_everything",
    "lightning.pytorch.callbacks.model_checkpoint.pl.LightningModule.load_from_checkpoint",
    "lightning.pytorch.plugins.TorchCheckpointIO.load_checkpoint",
    "lightning.pytorch.plugins.TorchCheckpointIO.remove_checkpoint",
    "lightning.pytorch.callbacks.ModelCheckpoint.format_checkpoint_name",
    "lightning_arrcoc.data.digits.DigitQuestions.__getitem__",
]


def calling(target: str, **arguments: object) -> DictConfig:
    return OmegaConf.create({"part": {"_target_": target, **arguments}})


# ------------------------------------------------------------------------------------ unknown keys


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modle=tiny", "'model'"),
        ("sed=3", "'seed'"),
        ("Trainer.max_steps=3", "'trainer'"),
        ("trainer.maxsteps=3", "'max_steps'"),
        ("trainer.limit_train_batch=3", "'limit_train_batches'"),
        ("model.bugdet=0.2", "'budget'"),
        ("model.arr_coc.texture.chanels=core", "'channels'"),
        ("data.train.familes=[colour]", "'families'"),
        ("callbacks.checkpoint.mod=max", "'mode'"),
        ("callbacks.chekpoint.mode=max", "'checkpoint'"),
        ("logger.projct=mine", "'project'"),
        ("+trainer.limit_train_batchs=3", "'limit_train_batches'"),
        ("++trainer.maxsteps=3", "'max_steps'"),
        ("+callbacks.checkpoint={monitr: a}", "'monitor'"),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="Unknown key") as caught:
        check_overrides("fit", [override])
    assert f"Did you mean {nearest}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_like_no_other_gets_the_whole_list() -> None:
    with pytest.raises(ValueError, match=r"There are: .*limit_train_batches.*val_check_interval"):
        check_overrides("fit", ["trainer.zzz=3"])


def test_a_key_that_is_added_to_a_call_must_be_a_parameter() -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'trainer\.foo'"):
        check_overrides("fit", ["+trainer.foo=1"])


@pytest.mark.parametrize("override", ["+foo=1", "+trainr.max_steps=1"])
def test_a_key_that_is_added_at_the_top_must_be_read_by_somebody(override: str) -> None:
    with pytest.raises(ValueError, match="Unknown key"):
        check_overrides("fit", [override])


def test_a_part_of_what_is_not_set_is_refused_with_what_to_choose_first() -> None:
    with pytest.raises(ValueError, match=r"'trainer\.profiler' is not set, so it has no parts"):
        check_overrides("fit", ["trainer.profiler.start=20"])
    assert check_overrides("fit", ["profile=time", "trainer.profiler.start=20"])


def test_a_key_below_a_plain_value_says_so() -> None:
    with pytest.raises(ValueError, match=r"'model\.backbone' has no parts"):
        check_overrides("fit", ["model.backbone.x=1"])


def test_what_only_predict_reads_is_unknown_to_fit() -> None:
    assert check_overrides("predict", ["question=why"]) == ["question=why"]
    with pytest.raises(ValueError, match="Unknown key 'question'"):
        check_overrides("fit", ["question=why"])


@pytest.mark.parametrize(
    ("override", "options"),
    [("model=huge", "qwen3_vl_2b"), ("experiment=nope", "tiny_base"), ("trainer=tpu", "ddp")],
)
def test_an_unknown_option_of_a_group_lists_the_options(override: str, options: str) -> None:
    with pytest.raises(ValueError, match=options) as caught:
        check_overrides("fit", [override])
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.max_steps=abc", "expected int"),
        ("seed=x", "expected int"),
        ("seed=1.5", "expected int"),
        ("seed=null", "expected int"),
        ("debug=maybe", "expected bool"),
        ("debug=no", "expected bool"),
        ("model.random_weights=off", "expected bool"),
        ("picture_samples=4.0", "expected int"),
        ("data.train.length=1e5", "expected int"),
        ("data.train.length='3'", "expected int"),
        ("trainer.max_steps=true", "expected int"),
        ("data.train.canvas_px=[64.0,64]", "expected tuple[int, int]"),
        ("picture_samples=many", "expected int"),
        ("model.budget=[1]", "expected int | float"),
        ("model.budget=half", "expected int | float"),
        ("model.budget=true", "expected int | float"),
        ("training.trains=head", "expected Literal['arr_coc', 'backbone']"),
        ("training.objective.accuracy_every=often", "expected int"),
        ("data.train.length=[3]", "expected int"),
        ("data.train.families=3", "expected Sequence[str]"),
        ("callbacks.checkpoint.save_last=3", "expected"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_key_and_the_type(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        check_overrides("fit", [override])
    assert str(caught.value).startswith(override.partition("=")[0] + "=")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("explain=maybe", "expected bool"),
        ("explain=null", "expected bool"),
        ("explain_samples=all", "expected int"),
        ("explain_samples=0", "expected 1 or more"),
    ],
)
def test_predict_is_told_plainly_whether_and_how_much_to_explain(
    override: str, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        check_overrides("predict", [override])
    assert str(caught.value).startswith(override.partition("=")[0] + "=")


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=3",
        "model.budget=12",
        "model.budget=0.25",
        "ckpt=null",
        "debug=true",
        "data.val_batch_size=null",
    ],
)
def test_a_value_of_the_right_type_passes_as_it_is(override: str) -> None:
    assert check_overrides("fit", [override]) == [override]


# What stands in quotes is taken as quoted already; null is nothing, and ??? is a missing value.
written = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text not in ("null", "???") and not is_quoted(text)
)


def arriving(text: str) -> str | None:
    found = check_overrides("predict", [f"question={text}"])
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        question: str | None = compose("predict", found).question
    return question


@settings(max_examples=10, deadline=None)
@given(text=written)
def test_free_text_arrives_as_it_was_typed(text: str) -> None:
    assert arriving(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "What's red, and where?",
        "Is it (really) 5 = five? [a, b] {c: d}",
        "back\\slash\\",
        '"Red" or "green"',
        "it's \\' odd",
        "Größe/café_naïve.png",
        "a~b",
        "2024",
        "true",
        "nan",
        "NULL",
        "What is ${x}?",
        "${oc.env:HOME}",
    ],
)
def test_text_that_looks_like_something_else_arrives_as_it_was_typed(text: str) -> None:
    assert arriving(text) == text


@pytest.mark.parametrize("text", ["'quoted, by hand'", '"quoted, by hand"'])
def test_text_that_is_quoted_already_loses_its_quotes(text: str) -> None:
    assert arriving(text) == "quoted, by hand"


def test_null_is_no_text() -> None:
    assert arriving("null") is None


# -------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_train_batches=2",
        "training.weight_decay=0.1",
        "training.objective.accuracy_every=3",
        "model.attn_implementation=eager",
        "data.train.families=[colour]",
        "callbacks.checkpoint.every_n_train_steps=3",
        "logger.project=mine",
    ],
)
def test_a_parameter_that_the_yaml_leaves_out_gets_its_plus(override: str) -> None:
    assert check_overrides("fit", ["seed=3", override]) == ["seed=3", f"+{override}"]


def test_a_parameter_is_known_by_the_option_that_was_chosen() -> None:
    """`offline` belongs to wandb's logger, not to the automatic choice."""
    assert check_overrides("fit", ["logger=wandb", "logger.offline=true"])
    with pytest.raises(ValueError, match="Unknown key"):
        check_overrides("fit", ["logger.offline=true"])


@pytest.mark.parametrize(
    "override",
    [
        "trainer.default_root_dir=here",
        "callbacks.checkpoint.dirpath=here",
        "logger.save_dir=here",
        "hydra.run.dir=here",
    ],
)
def test_what_hydra_fills_in_at_run_time_can_be_overridden(override: str) -> None:
    assert check_overrides("fit", [override]) == [override]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "model.budget=0.1,0.2"],
        ["--multirun", "seed=range(3)", "model=tiny,qwen3_vl_2b"],
        ["-m", "trainer.precision=32-true,bf16-mixed", "experiment=debug,tiny_base"],
    ],
)
def test_a_sweep_passes(arguments: list[str]) -> None:
    assert check_overrides("fit", arguments) == arguments


@pytest.mark.parametrize(
    "override", ["hydra.sweeper.max_batch_size=3", "hydra.sweep.dir=here", "hydra.job.chdir=false"]
)
def test_hydras_own_settings_can_be_overridden(override: str) -> None:
    assert check_overrides("fit", [override]) == [override]


def test_a_sweep_over_a_parameter_left_out_gets_its_plus() -> None:
    found = check_overrides("fit", ["-m", "trainer.limit_train_batches=2,3"])
    assert found == ["-m", "+trainer.limit_train_batches=2,3"]


@pytest.mark.parametrize("override", ["seed=x,1", "seed=1,x", "modle=a,b"])
def test_a_sweep_is_checked_at_each_of_its_values(override: str) -> None:
    with pytest.raises(ValueError, match=r"expected int|Unknown key"):
        check_overrides("fit", ["-m", override])


def test_several_values_without_a_sweep_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.budget.*(-m|multirun|quote)"):
        check_overrides("fit", ["model.budget=0.1,0.2"])


@pytest.mark.parametrize(
    "flag",
    [
        "--experimental-rerun=job.pickle",
        "--config-p=elsewhere",
        "--config-n=other",
        "--multi",
        "--foo",
        "-x",
    ],
)
@pytest.mark.parametrize("beside", [[], ["--help"]])
def test_a_flag_that_is_not_ours_is_refused(flag: str, beside: list[str]) -> None:
    with pytest.raises(ValueError, match=r"Unknown flag '.*'; expected one of .*--cfg"):
        check_overrides("fit", [flag, *beside])


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-c", "all"]])
def test_flags_of_ours_pass(flags: list[str]) -> None:
    assert check_overrides("fit", flags) == flags


@pytest.mark.parametrize("name", ["api_key", "token", "access_token", "password"])
def test_a_secret_never_reaches_the_runs_record(name: str) -> None:
    with pytest.raises(ValueError, match="environment variable") as caught:
        check_overrides("fit", [f"+logger.{name}=hunter2"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--help", "--hydra-help", "--version"])
def test_help_is_never_refused(flag: str) -> None:
    assert check_overrides("fit", [flag]) == [flag]


def test_flags_without_a_value_pass_through() -> None:
    assert check_overrides("fit", ["--cfg", "job", "seed=3"]) == ["--cfg", "job", "seed=3"]


@pytest.mark.parametrize("one_word", [True, False])
def test_a_folder_of_the_users_own_options_is_searched(one_word: bool, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    flag = [f"--config-dir={tmp_path}"] if one_word else ["--config-dir", str(tmp_path)]
    assert check_overrides("fit", [*flag, "experiment=mine"]) == [*flag, "experiment=mine"]
    with pytest.raises(ValueError, match="experiment/other"):
        check_overrides("fit", [*flag, "experiment=other"])


def test_deleting_a_callback_is_fine_and_a_missing_one_is_named() -> None:
    assert check_overrides("fit", ["~callbacks.progress_bar"])
    with pytest.raises(ValueError, match=r"callbacks\.nope"):
        check_overrides("fit", ["~callbacks.nope"])


def test_the_configurations_lie_beside_the_package_and_hold_every_command() -> None:
    assert {"fit.yaml", "validate.yaml", "test.yaml", "predict.yaml"} <= {
        file.name for file in config_dir().iterdir()
    }


# --------------------------------------------------------------------------------------- allowlist


@pytest.mark.parametrize("target", OUTSIDE)
def test_a_target_outside_the_allowlist_is_refused_before_anything_runs(target: str) -> None:
    with pytest.raises(ValueError, match=rf"is not allowed; expected.*{ALLOW_VARIABLE}"):
        check_config(calling(target))


@pytest.mark.parametrize("target", [t for t in OUTSIDE if "$" not in t])
def test_building_refuses_a_target_outside_the_allowlist(target: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        build(calling(target))


@pytest.mark.parametrize("target", ROUNDABOUT)
def test_building_refuses_a_way_through_a_modules_own_imports(target: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        build(calling(target))


def test_the_source_alone_betrays_a_name_that_was_imported_from_elsewhere() -> None:
    with pytest.raises(
        ValueError, match=r"part\._target_=lightning_arrcoc\.data\.datamodule\.Data"
    ):
        check_config(calling("lightning_arrcoc.data.datamodule.DataLoader"))


@pytest.mark.parametrize("module", ["callbacks", "loggers", "plugins", "profilers", "strategies"])
def test_every_public_part_of_lightning_may_be_called(module: str) -> None:
    """Also those that Lightning itself takes from its lower half, lightning.fabric."""
    path = f"lightning.pytorch.{module}"
    loaded = importlib.import_module(path)
    classes = [name for name in loaded.__all__ if inspect.isclass(getattr(loaded, name))]
    assert classes
    for name in classes:
        target_signature(f"{path}.{name}", "part")


@pytest.mark.parametrize(
    "target",
    [
        "lightning.pytorch.plugins.TorchCheckpointIO",
        "lightning.pytorch.profilers.SimpleProfiler",
        "lightning.pytorch.callbacks.DeviceStatsMonitor",
    ],
)
def test_a_part_of_lightning_is_made(target: str) -> None:
    assert type(build(calling(target))["part"]).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=os.system",
        "model.arr_coc._target_=os.system",
        "+callbacks.mine._target_=os.system",
        "+callbacks={mine: {_target_: os.system}}",
        "+trainer.plugins=[{_target_: os.system}]",
        "data.val={_target_: os.system}",
        "+foo.bar._target_=os.system",
    ],
)
def test_a_forbidden_target_is_found_at_any_depth(override: str) -> None:
    with pytest.raises(ValueError, match=r"_target_=os\.system is not allowed"):
        check_overrides("fit", [override])


@pytest.mark.parametrize(
    "override",
    [
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
        "+hydra.callbacks.mine._target_=os.system",
        "+hydra.callbacks.mine='${oc.create:{_target_: torch.load}}'",
        "hydra.launcher='${oc.create:{_target_: torch.load}}'",
        "+hydra.job.env_set.LIGHTNING_ARRCOC_ALLOW=torch",
    ],
)
def test_hydra_itself_is_given_nothing_to_call(override: str) -> None:
    """It makes these before any code of ours is asked."""
    with pytest.raises(ValueError, match=r"is not allowed|is set by who|expected one of hydra"):
        check_overrides("fit", [override])


@pytest.mark.parametrize(
    ("group", "content"),
    [
        ("hydra/job_logging", "version: 1\nformatters: {mine: {(): os.system}}\nroot: null\n"),
        ("experiment", "# @package _global_\nhydra: {callbacks: {mine: {_target_: os.system}}}\n"),
        ("hydra/job_logging", "version: 1\nhandlers: {mine: {class: my.Class}}\nroot: null\n"),
        ("experiment", "# @package _global_\nmodel: {_target_: os.system}\n"),
        ("callbacks", "mine: {_target_: os.system}\n"),
    ],
)
def test_a_file_of_somebody_else_calls_nothing_either(
    group: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / group).mkdir(parents=True)
    (tmp_path / group / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match="is not allowed"):
        check_overrides("fit", ["--config-dir", str(tmp_path), f"{group}=mine"])


def test_arguments_without_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="_args_"):
        check_config(calling("lightning.pytorch.callbacks.EarlyStopping", _args_=["a"]))


def test_a_target_that_an_interpolation_spells_is_refused_when_it_is_built() -> None:
    config = OmegaConf.create({"word": "os.system", "part": {"_target_": "${word}"}})
    with pytest.raises(ValueError, match=r"_target_=os\.system is not allowed"):
        build(config)
    with pytest.raises(ValueError, match="is not allowed"):
        check_config(config)
    config = OmegaConf.create(
        {"word": "data.digits.np.load", "part": {"_target_": "lightning_arrcoc.${word}"}}
    )
    with pytest.raises(ValueError, match=r"_target_=lightning_arrcoc\.data\.digits\.np\.load is"):
        build(config)


def test_nothing_is_built_before_every_target_is_allowed(tmp_path: Path) -> None:
    """The first part would complain about its file; the second is forbidden."""
    config = OmegaConf.create(
        [
            {
                "_target_": "lightning_arrcoc.data.images.open_image",
                "path": str(tmp_path / "absent.png"),
            },
            {"_target_": "os.system", "command": f"touch {tmp_path / 'canary'}"},
        ]
    )
    with pytest.raises(ValueError, match="is not allowed"):
        build(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target", ["lightning.pytorch.callbacks.x", "lightning_arrcoc.data.no.such.thing"]
)
def test_a_target_that_is_not_there_is_said_in_one_line(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"_target_=.* is not there") as caught:
        build(calling(target))
    assert "\n" not in str(caught.value)
    assert caplog.messages == [], "Hydra's own report would stand before our line"


def test_what_a_constructor_refuses_keeps_its_own_words() -> None:
    with pytest.raises(ValueError, match=r"^budget=0; expected a number of tokens"):
        build(calling("lightning_arrcoc.relevance.TokenAllocator", num_positions=0))


def test_an_allowed_target_is_called() -> None:
    made = build(calling("lightning_arrcoc.data.images.allowed_formats", pillow="12.1.0"))
    assert made["part"] == ("PNG", "WEBP")


# ---------------------------------------------------------------------------- packages of your own


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mine_x` and its neighbours whose names merely begin the same."""
    for name in ("mine_x", "mine_xy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "import os\n\ndef give(value: int) -> int:\n    return value\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine_x", "mine_xy"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("value", ["mine_x", "mine_x.", " mine_x , elsewhere"])
def test_the_variable_opens_its_package_and_no_other(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        build(calling("mine_x.give", value=3))
    monkeypatch.setenv(ALLOW_VARIABLE, value)
    check_config(calling("mine_x.give", value=3))
    assert build(calling("mine_x.give", value=3)) == {"part": 3}
    for target in ("mine_xy.give", "mine_x.os.system", "os.system", "mine.give", "mine_x"):
        with pytest.raises(ValueError, match="is not allowed"):
            build(calling(target, value=3))


@pytest.mark.usefixtures("packages")
def test_an_opened_package_is_checked_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "mine_x")
    with pytest.raises(ValueError, match="Did you mean 'value'"):
        check_config(calling("mine_x.give", valu=3))
    with pytest.raises(ValueError, match=r"part\.value='a'; expected int"):
        check_config(calling("mine_x.give", value="a"))


@pytest.mark.parametrize("target", ["osx.give", "os_.system", "ossystem"])
def test_a_name_that_only_begins_like_an_opened_package_stays_shut(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "os")
    with pytest.raises(ValueError, match="is not allowed"):
        target_signature(target, "part")


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_empty_variable_opens_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, value)
    for target in ("os.system", ".system", "system"):
        with pytest.raises(ValueError, match="is not allowed"):
            check_config(calling(target))


def test_checking_changes_neither_folder_nor_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    check_overrides("fit", ["experiment=debug"])
    assert list(tmp_path.iterdir()) == []
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"
    }
