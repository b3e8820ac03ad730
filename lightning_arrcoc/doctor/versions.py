"""Installed versions: those that are needed, and those that are known to be bad."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lightning_arrcoc.doctor.finding import Finding, Patient, Status

SHOWN = ("torch", "lightning", "transformers")


class Bad(NamedTuple):
    """Versions of a package that are known to do harm.

    Attributes:
        package, versions: which; versions as pip understands them.
        why: what they do.
        source: where that is told.
        status: "fail", or "warn" where it does not concern everybody.
    """

    package: str
    versions: str
    why: str
    source: str
    status: Status = "fail"


KNOWN_BAD = (
    Bad("lightning", "==2.6.2", "steals credentials when imported", "GHSA-w37p-236h-pfx3"),
    Bad("lightning", "==2.6.3", "steals credentials when imported", "GHSA-w37p-236h-pfx3"),
    Bad(
        "lightning", "<2.6.6", "a checkpoint can run code when it is loaded",
        "CVE-2026-58659, Lightning-AI/pytorch-lightning#21913",
    ),
    Bad("torch", "<2.10", "a checkpoint can run code despite weights_only", "CVE-2026-24747"),
    Bad(
        "torch", "==2.9.*", "on a GPU the vision tower of Qwen3-VL is up to 20 times slower",
        "pytorch/pytorch#174051", "warn",
    ),
    Bad(
        "transformers", ">=5.3,<5.4", "a batch of Qwen-VL prompts without padding crashes",
        "huggingface/transformers#44514",
    ),
    Bad("pillow", "<13", "a JPEG can run code; here JPEG is refused", "CVE-2026-112403", "warn"),
)  # fmt: skip


def look(patient: Patient) -> Finding:
    """Compare what is installed with what is needed and with what is known."""
    return judge(installed, requirements())


def judge(version_of: Callable[[str], str | None], needed: list[Requirement]) -> Finding:
    """The worst that is found.

    Args:
        version_of: the installed version of a package, None where it is missing.
        needed: what must be there.
    """
    complaints: list[tuple[Status, str, str]] = []
    for package, versions, why, source, status in KNOWN_BAD:
        version = version_of(package)
        if version and SpecifierSet(versions).contains(version, prereleases=True):
            complaints.append((status, f"{package} {version}: {why} ({source})", package))
    for wanted in needed:
        version = version_of(wanted.name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            what = f"{wanted.name} {version or 'is missing'}, but {wanted.specifier} is needed"
            complaints.append(("fail", what, str(wanted).partition(";")[0].strip()))
    if not complaints:
        return Finding("ok", ", ".join(f"{name} {version_of(name)}" for name in SHOWN))
    packages = " ".join(f'"{name}"' for name in dict.fromkeys(name for *_, name in complaints))
    worst: Status = "fail" if any(status == "fail" for status, *_ in complaints) else "warn"
    what = "; ".join(what for _, what, _ in complaints)
    return Finding(worst, what, f"pip install --upgrade {packages}")


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[Requirement]:
    """What this package needs here, extras aside; nothing where it runs without being installed."""
    try:
        lines = metadata.requires("lightning-arrcoc") or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
