r"""How a training grows with the number of ranks: measured on a few, and beyond by a model of one step.

.. math:: T(N) = t_0 + t_1 b_N + 2 \frac{N - 1}{N} \frac{S}{B} + 2 (N - 1) L

for a batch of :math:`b_N` samples on each of N ranks: the time of a step on one rank, and a ring all-reduce of S bytes
of gradients over links of bandwidth B and latency L (Patarasuk & Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002, with the
start of each of its 2 (N - 1) messages). Nothing of it overlaps, so that a real training may do better; a network whose
bandwidth falls with distance may do worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["weak", "strong"]

PUBLISHED: tuple[tuple[str, Kind, int, float], ...] = (
    ("175 billion parameters", "weak", 1024, 1.00),
    ("1 trillion parameters", "weak", 3072, 1.00),
    ("175 billion parameters", "strong", 1024, 0.89),
    ("1 trillion parameters", "strong", 3072, 0.87),
)
"""Efficiencies on Frontier: network, kind, devices, efficiency (Dash et al., 2023, arXiv:2312.12705, abstract). They
are of language models with tensor, pipeline and data parallelism: a mark to stand beside, not one to meet."""


@dataclass(frozen=True)
class Step:
    """Time of a training step.

    Attributes:
        fixed: seconds whatever the batch (t0).
        sample: seconds a sample (t1).
        gradients: bytes that are reduced (S).
        bandwidth: bytes a second of a link (B).
        latency: seconds of a message (L).
    """

    fixed: float
    sample: float
    gradients: float
    bandwidth: float
    latency: float

    def communication(self, ranks: int) -> float:
        """Seconds of the all-reduce."""
        return 2 * (ranks - 1) / ranks * self.gradients / self.bandwidth + 2 * (ranks - 1) * self.latency

    def seconds(self, ranks: int, samples: float) -> float:
        """Seconds of a step with so many samples on each rank."""
        return self.fixed + self.sample * samples + self.communication(ranks)


def line_through(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Intercept, not negative, and slope of the step time through two batches: (samples, seconds) each."""
    (few, short), (many, long) = sorted((first, second))
    slope = max(0.0, (long - short) / (many - few))
    fixed = max(0.0, long - slope * many)
    return fixed, (long - fixed) / many


def efficiency(kind: Kind, ranks: int, alone: float, together: float) -> float:
    """Part of the throughput of one rank that each of N has left.

    Args:
        kind: ``weak``, the batch of a rank stays, or ``strong``, the batch of all ranks stays.
        ranks: N.
        alone: seconds of a step on one rank.
        together: seconds of a step on N ranks.
    """
    return alone / together if kind == "weak" else alone / (ranks * together)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        ranks: N.
        seconds: of a step.
        efficiency: beside one rank.
        source: ``measured`` or ``model``.
    """

    kind: Kind
    ranks: int
    batch: float
    seconds: float
    efficiency: float
    source: Literal["measured", "model"]


def modelled(step: Step, kind: Kind, batch: int, ranks: Sequence[int]) -> list[Row]:
    """The model's table: the batch of one rank stays, or is shared out as long as every rank has a sample."""
    alone = step.seconds(1, batch)
    rows = []
    for n in ranks:
        samples = batch if kind == "weak" else batch / n
        if samples >= 1:
            seconds = step.seconds(n, samples)
            rows.append(Row(kind, n, samples, seconds, efficiency(kind, n, alone, seconds), "model"))
    return rows
