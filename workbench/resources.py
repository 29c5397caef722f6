"""Finds `datasets/`, `experiments/` and `hpc/` in a checkout or inside an installed wheel."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from workbench.errors import InputError

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder of declarations called `name` (``datasets``, ``experiments``, ``hpc``).

    A wheel carries it inside the package as ``_name``; a checkout keeps it beside the package.
    """
    packaged = _PACKAGE / f"_{name}"
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def experiment_names() -> list[str]:
    """Names of the packaged experiments, such as ``kolmogorov/fno``."""
    root = folder("experiments")
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def find_experiment(name: str) -> Path:
    """The YAML file that `name` means: a path first, then a packaged experiment.

    Raises:
        InputError: there is neither; the nearest names are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = folder("experiments") / f"{name.removesuffix('.yaml')}.yaml"
    if packaged.is_file():
        return packaged
    known = experiment_names()
    near = get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise InputError(
        f"no experiment '{name}': no file at {path.resolve()} and no packaged experiment of that name; "
        f"nearest: {', '.join(near)}"
    )


def data_root() -> Path:
    """Where built datasets live: ``$WORKBENCH_DATA``, else ``data/`` in the current folder."""
    return Path(os.environ.get("WORKBENCH_DATA", "data"))
