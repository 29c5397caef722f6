"""BibTeX of the methods and packages that a run used, found by class path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "assets" / "references.bib"

CLASSES: dict[str, tuple[str, ...]] = {
    "workbench.models.FNO": ("li2021fourier",),
    "workbench.models.IFNO": ("you2022learning", "li2021fourier"),
    "workbench.models.UNet": ("ronneberger2015unet",),
    "workbench.tasks.ForecastTask": ("loshchilov2019decoupled",),
}
"""Class path -> keys of the papers that it implements; ``workbench.models.fno.FNO`` and ``FNO`` are the same class."""

SETTINGS: dict[tuple[str, str], tuple[str, ...]] = {("unroll", "pushforward"): ("brandstetter2022message",)}
"""Argument and value, anywhere in the model's section -> keys of the papers that it switches on."""

SCORING = ("kunsch1989jackknife", "politis1992circular")
PACKAGES = ("hoyer2017xarray", "zarr", "paszke2019pytorch", "falcon2019lightning", "hunter2007matplotlib")


def entries() -> dict[str, str]:
    """BibTeX by key: every method and package that Workbench can cite."""
    found = FILE.read_text(encoding="utf-8").strip().split("\n\n")
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in found}


def used(config: Mapping[str, Any], scored: bool) -> list[str]:
    """Keys of everything that an experiment used: methods first, then packages.

    Args:
        config: the experiment as plain dicts.
        scored: whether intervals were bootstrapped.
    """
    keys = [key for path in class_paths(config) for key in CLASSES.get(canonical(path), ())]
    keys += [key for pair in settings(config.get("model")) for key in SETTINGS.get(pair, ())]
    keys += SCORING if scored else ()
    return list(dict.fromkeys([*keys, *PACKAGES]))


def class_paths(config: Any) -> Iterator[str]:
    """Every class path that a configuration names."""
    if isinstance(config, Mapping):
        if "class_path" in config:
            yield str(config["class_path"])
        for value in config.values():
            yield from class_paths(value)


def canonical(path: str) -> str:
    """A class path in the form of `CLASSES`: without the module's file, and complete where only the name was given."""
    name = path.rpartition(".")[2]
    return next((known for known in CLASSES if known.endswith(f".{name}") and _same_package(known, path)), path)


def _same_package(known: str, path: str) -> bool:
    return "." not in path or path.startswith(known.rpartition(".")[0] + ".")


def settings(config: Any) -> Iterator[tuple[str, str]]:
    """Every argument that is set to a word in a configuration."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if isinstance(value, str):
                yield str(key), value
            else:
                yield from settings(value)


def data_entry(citation: str, title: str, licence: str) -> str:
    """BibTeX of the data: as given, or made of what the data card says."""
    if citation.lstrip().startswith("@"):
        return citation.strip()
    fields = {"title": title, "note": citation, "copyright": licence}
    lines = [f"  {key} = {{{_braced(value)}}}" for key, value in fields.items() if value]
    return "@misc{data,\n" + ",\n".join(lines) + "\n}" if lines else ""


def _braced(text: str) -> str:
    """`text` without the characters that would end a BibTeX field."""
    return " ".join(text.split()).replace("\\", "").replace("{", "(").replace("}", ")")
