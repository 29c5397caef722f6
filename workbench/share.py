"""One of several jobs that write one store at once: which of its pieces are this job's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from workbench.errors import InputError

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Share:
    """Share `number` of `count`, counted from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a share that is none of them."""
        if not 1 <= self.number <= self.count:
            raise InputError(f"--share is {self.number}/{self.count}: expected NUMBER/COUNT with 1 <= NUMBER <= COUNT")

    @classmethod
    def parse(cls, text: str) -> Share:
        """``2/4``, the second of four.

        Raises:
            InputError: the text is not of that form.
        """
        if not re.fullmatch(r"\d+/\d+", text):
            raise InputError(f"--share is '{text}': expected NUMBER/COUNT, such as 2/4")
        return cls(*map(int, text.split("/")))

    @property
    def label(self) -> str:
        """For file names: ``2-of-4``."""
        return f"{self.number}-of-{self.count}"

    def of(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Consecutive pieces, as many as the other shares get, or one more or less; none where there are too few."""
        first, last = ((self.number - 1 + k) * len(pieces) // self.count for k in (0, 1))
        return pieces[first:last]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
