"""Fast charging as the MATR data set writes it: ``5.4C(50%)-3.6C`` is 5.4C to 50 % of charge, then 3.6C."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench.errors import InputError

_POLICY = re.compile(r"(\d+\.?\d*)C(?:\((\d+\.?\d*)%\)-(\d+\.?\d*)C)?(?:-?newstructure)?")
FAST_UNTIL = 0.8
"""State of charge at which the policy ends; 1C follows."""


@dataclass(frozen=True)
class ChargePolicy:
    """Two steps of constant current up to 80 % of charge.

    Attributes:
        first: C-rate of the first step, h-1.
        switch: state of charge at which the second one begins, 0 to 0.8.
        second: C-rate of the second step, h-1.
    """

    first: float
    switch: float
    second: float

    @classmethod
    def parse(cls, text: str) -> ChargePolicy:
        """Read a policy of one step (``4C``) or two (``5.4C(50%)-3.6C``).

        Raises:
            InputError: it is none.
        """
        match = _POLICY.fullmatch(text.strip())
        found = [float(part) if part else 0.0 for part in match.groups()] if match else [0.0] * 3
        first, switch, second = found[0], found[1] / 100, found[2] or found[0]
        if not (match and first > 0 and second > 0 and switch <= FAST_UNTIL):
            raise InputError(
                f"unknown policy '{text}': expected one or two C-rates, such as 4C or 5.4C(50%)-3.6C (5.4C to 50 % of "
                "charge, then 3.6C to 80 %)"
            )
        return cls(first, switch or FAST_UNTIL, second)

    @property
    def hours(self) -> float:
        """From empty to 80 % of charge."""
        return self.switch / self.first + (FAST_UNTIL - self.switch) / self.second

    def __str__(self) -> str:
        return f"{self.first:g}C({100 * self.switch:g}%)-{self.second:g}C"
