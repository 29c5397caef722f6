"""Vibrating structures computed on coarser meshes and with longer steps, from the loads and supports of the record.

A forecast starts from rest, so what a solver begins with is its case: loads, supports and material. Meshing what is
cut out, assembly, factorisation and the admissible step depend on it and are part of every forecast; the integration
of the full mesh is not. Loads come at all saved instants, stresses are made only where they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench.errors import InputError
from workbench.simulate.coarsening import Candidate, Forecaster
from workbench.simulate.structures_fields import components, moving_fields
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_motion import Motion
from workbench.simulate.structures_replay import Conditions, Replay, divides, read_conditions

if TYPE_CHECKING:
    from workbench.simulate.structures import Structures

STEPS = (1, 2)
"""Steps of an implicit solver between two saved instants, besides those of a record that it made."""
NEWTON = 12
"""Explicit steps that an implicit one costs, roughly, where the body is neo-Hookean (`benchmarks/neohookean.py`)."""
FEWEST = 2
"""Elements along an axis of the coarsest mesh."""


class Scheme(NamedTuple):
    """How a mesh is marched.

    Attributes:
        words: names it in tables.
        settings: what distinguishes it from others on the same mesh.
        steps: between two saved instants, roughly.
        of_the_record: on the record's mesh it repeats the record.
        batched: it advances several cases together.
    """

    words: str
    settings: dict[str, str | float]
    steps: float
    of_the_record: bool
    batched: bool


@dataclass(frozen=True)
class StructuresCoarsening:
    """The cases of a record on coarser meshes.

    Attributes:
        source: what made the record.
        cases: what drives each trajectory.
        leads: states that are forecast.
    """

    source: Structures
    cases: tuple[Conditions, ...] = ()
    leads: int = 0
    reads: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[tuple[str, ...]] = ("displacement_*",)

    def driven_by(self, record: xr.Dataset, leads: int) -> StructuresCoarsening:
        """See `workbench.simulate.coarsening.Driven`."""
        return replace(self, cases=tuple(read_conditions(record, range(record.sizes["trajectory"]))), leads=leads)

    def candidates(self, interval: float) -> list[Candidate]:
        """Every mesh that divides that of the record's solver, down to `FEWEST` elements an axis, by every scheme.

        Implicit solvers take `STEPS` and the record's steps between instants, the explicit one of neo-Hookean bodies
        the stable step, on its own mesh the record's.
        """
        own = [n * self.source.refinement for n in self.source.elements]
        found = []
        for coarser in (c for c in range(1, min(own) // FEWEST + 1) if divides(self.source, c)):
            elements = [n // coarser for n in own]
            mesh, count = " x ".join(map(str, elements)), math.prod(elements)
            for scheme in self._schemes(coarser):
                label, settings = f"{mesh}, {scheme.words}", {"coarser": coarser, **scheme.settings}
                repeats = coarser == 1 and scheme.of_the_record
                found.append(Candidate(label, settings, count * scheme.steps, repeats, scheme.batched))
        return sorted(found, key=lambda candidate: candidate.work)

    def _schemes(self, coarser: int) -> list[Scheme]:
        """What the record's law is marched by, on 1/`coarser` of the solver's elements along each axis."""
        source = self.source
        linear, implicit, own = source.law == "linear", source.scheme == "implicit", source.steps_between
        found = []
        for n in sorted({*STEPS, own} if implicit else STEPS):
            words = f"{'' if linear else 'implicit, '}{n} step{'s' * (n > 1)}"
            settings: dict[str, str | float] = {"integrator": "implicit", "steps_per_instant": n}
            found.append(Scheme(words, settings, n if linear else n * NEWTON, implicit and n == own, batched=False))
        if linear:
            return found
        return [*found, Scheme("stable step", {"integrator": "explicit"}, own / coarser, not implicit, batched=True)]

    def forecaster(self, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Forecaster:
        """See `workbench.simulate.coarsening.Coarsening`; all leads are made before the first is given.

        Raises:
            InputError: another device than the CPU is asked for, or a variable that does not follow from the motion.
        """
        if device != "cpu":
            raise InputError(f"Structures are computed on the CPU; found device {device}")
        settings: Mapping[str, Any] = candidate.settings
        replay = Replay.coarser(
            self.source, settings["coarser"], settings.get("steps_per_instant"), settings["integrator"]
        )
        rest = (np.zeros((*(n + 1 for n in self.source.specimen.grid), self.source.dim)),) * 2
        recorded = Replay(self.source, replace(self.source.specimen, refinement=1))

        def forecast(start: Tensor) -> Iterator[Tensor]:
            every = round(interval / self.cases[0].interval)
            cases = [self.cases[number].between(0, every * self.leads) for number in start]
            bodies, motions = replay.motions(cases, [rest] * len(cases))
            states = [_variables(replay, recorded, c, bodies[k], motions[k], names) for k, c in enumerate(cases)]
            yield from torch.from_numpy(np.stack(states)[:, every::every].astype(np.float32)).unbind(1)

        return forecast


def _variables(
    replay: Replay, recorded: Replay, case: Conditions, body: LinearBody, motion: Motion, names: Sequence[str]
) -> np.ndarray:
    """The named variables of a motion ``[time, name, *space]``; stress and strain only where one is asked for.

    On a mesh coarser than the record's they are those of the interpolated motion, by the rules of the record's mesh.
    """
    u, v = replay.nodal(motion)
    fields = {**components("displacement", u), **components("velocity", v)}
    if not set(names) <= set(fields):
        if replay.stride > 1:
            flat = (field.reshape(len(u), -1, u.shape[-1]) for field in (u, v))
            replay, body, motion = recorded, recorded.body(case), Motion(*flat, *[np.zeros(len(u))] * 3)
        refinement, law = replay.specimen.refinement, replay.source.law
        fields = moving_fields(motion, body.elements, body.material, law, body.kinematics, refinement)
    other = [name for name in names if name not in fields or fields[name].ndim == 1]
    if other:
        raise InputError(f"Structures forecast displacement, velocity, stress and strain; found {', '.join(other)}")
    return np.stack([fields[name] for name in names], 1)
