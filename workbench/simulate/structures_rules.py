"""What arguments a source of vibrating structures takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from workbench.errors import InputError
from workbench.simulate.structures_mesh import COMPONENTS
from workbench.simulate.structures_record import HISTORIES

NUMERAL = re.compile(r"'[-+]?\d+e[-+]?\d+'")
Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Argument -> whether a value is good, and what is expected."""


def refuse_bad_arguments(arguments: Mapping[str, Any]) -> None:
    """Compare the arguments of `workbench.simulate.structures.Structures` with what each of them may be.

    Raises:
        InputError: one is out of range, or of another kind.
    """
    _refuse(arguments, {"elements": (_elements, "two or three whole numbers of at least 2")})
    _refuse(arguments, _rules(arguments))


def _refuse(arguments: Mapping[str, Any], rules: Rules) -> None:
    for name, (is_good, expected) in rules.items():
        try:
            good = is_good(arguments[name])
        except (TypeError, ValueError):  # a text for a number, a number for a range
            good = False
        if not good:
            hint = "; YAML takes 1e6 for a text: write 1.0e+6" if NUMERAL.search(repr(arguments[name])) else ""
            raise InputError(f"Structures: {name} must be {expected}; found {arguments[name]!r}{hint}")


def _elements(value: Any) -> bool:
    return len(value) in (2, 3) and all(_whole(n) and n >= 2 for n in value)


def _rules(arguments: Mapping[str, Any]) -> Rules:
    dim, law, loaded = len(arguments["elements"]), arguments["law"], arguments["loaded_face"]
    faces = [f"{axis}{side}" for axis in COMPONENTS[:dim] for side in "01"]
    flat = law == "linear" and dim == 2
    kinds = {"histories": HISTORIES, "cutouts": ("none", "notch", "hole")}
    kinds["layouts"] = ("uniform", "layers", "inclusion")
    return {
        "lengths": (lambda v: len(v) == dim and min(v) > 0, f"{dim} positive numbers, as elements has"),
        "law": (lambda v: v in ("linear", "neo_hookean"), "linear or neo_hookean"),
        "integrator": (
            lambda v: v in (None, "implicit") or (v == "explicit" and law == "neo_hookean"),
            "implicit, or for neo_hookean bodies explicit",
        ),
        "plane": (lambda v: v == "strain" or (v == "stress" and flat), "strain, or for linear 2D bodies stress"),
        "supported_faces": (
            lambda v: bool(v) and set(v) <= set(faces) - {loaded},
            f"some of {', '.join(faces)}, not the loaded one",
        ),
        "loaded_face": (lambda v: v in faces, f"one of {', '.join(faces)}"),
        **{n: (lambda v: 0 < v < math.inf, "positive") for n in ("periods", "density", "dynamic_peak", "strain_peak")},
        **{
            n: (lambda v: _whole(v) and v >= 1, "at least 1, and whole")
            for n in ("refinement", "intervals", "trajectories")
        },
        "substeps": (lambda v: v is None or (_whole(v) and v >= 1), "at least 1, and whole, or left out"),
        "spectral_radius": (lambda v: 0 <= v <= 1, "from 0 to 1"),
        "seed": (lambda v: _whole(v) and v >= 0, "zero or positive, and whole"),
        "poissons_ratio": (lambda v: len(v) == 2 and -1 < v[0] <= v[1] < 0.5, "a range in -1 < nu < 0.5"),
        "damping_ratio": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
        "moving_supports": (lambda v: 0 <= v <= 1, "from 0 to 1"),
        **{
            n: (lambda v: len(v) == 2 and 0 < v[0] <= v[1] < math.inf, "a range of positive numbers, the least first")
            for n in ("youngs_modulus", "static_peak")
        },
        **{
            n: (lambda v, known=known: bool(v) and set(v) <= set(known), f"some of {', '.join(known)}")  # type: ignore[misc]
            for n, known in kinds.items()
        },
    }


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
