"""The oldest and the newest versions that are supported, each in an environment of its own.

    nox                             # both
    nox -s "versions(oldest)"       # the lower bounds of pyproject.toml
    nox -s versions -- --torch      # torch too, which is a download of some GB

An environment sees all that is installed beside nox, and its own packages before that. So what is
large, and torch above all, is there once, and minutes become seconds.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import nox
from packaging.requirements import Requirement

CHOSEN = ("lightning", "transformers")  # whose inside we lean on; torch where it is asked for
SHORT_FIT = ("-m", "lightning_arrcoc", "fit", "experiment=debug")
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@nox.session(venv_backend="venv")
@nox.parametrize("which", ["oldest", "newest"], ids=["oldest", "newest"])
def versions(session: nox.Session, which: str) -> None:
    """The contract of the drop-ins, the entry point as it is installed, and a short fit."""
    see_installed(session)
    names = (*CHOSEN, "torch") if "--torch" in session.posargs else CHOSEN
    if which == "oldest":
        session.install(*(f"{name}=={lowest(name)}" for name in names))
    else:
        session.install("--upgrade", *(str(required(name)) for name in names))
    session.install("--no-deps", "--editable", ".")
    session.run(
        "python", "-c", "import lightning, torch, transformers as t; "
        "print(lightning.__version__, torch.__version__, t.__version__)",
    )  # fmt: skip
    tests = ("tests/contract", "tests/callbacks/test_factory.py")
    session.run("python", "-m", "pytest", "-q", "-n", "0", *tests, env=QUIET)
    folder = session.create_tmp()
    safe = {**QUIET, "LIGHTNING_ARRCOC_CALLBACKS": "safe"}
    example = ("examples/02_drop_in.py", "--folder", folder, "--epochs", "5")
    session.run("python", *example, env=safe)
    session.run("python", *SHORT_FIT, f"hydra.run.dir={folder}/fit", env=QUIET)


def see_installed(session: nox.Session) -> None:
    """What is installed beside nox is found behind what the session installs."""
    python = session.run(
        "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True
    )
    Path(str(python).strip(), "beside_nox.pth").write_text(sysconfig.get_path("purelib"))


def required(name: str) -> Requirement:
    """As pyproject.toml has it."""
    lines = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    return next(found for found in map(Requirement, lines) if found.name == name)


def lowest(name: str) -> str:
    """The version that a requirement begins with."""
    return next(one.version for one in required(name).specifier if one.operator == ">=")
