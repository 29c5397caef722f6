"""Life by comparison: how much longer than cells whose life is known, from the difference of the videos.

Source: Zhang et al. (2025), Nature Machine Intelligence 7, 270-277, arXiv:2310.05052 (BatLiNet): its inter-cell branch.
Pairs of cells are many where cells are few.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models.ridge_part import fixed


class ReferenceCells(nn.Module):
    r"""Cells of known life, and the pairs that others make with them.

    .. math:: \hat y_i = \frac{1}{R} \sum_{j=1}^{R} \left( y_j + f(x_i - x_j) \right)

    with y the standardised logarithm of life and x a cell's video. In training every cell is compared with one
    reference, drawn anew each time.

    Args:
        count: references, R.
        shape: (variables, cycles, points) of a video.
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.raw, self.change = fixed(torch.zeros(count, *shape)), fixed(torch.zeros(count, *shape))
        self.target = fixed(torch.zeros(count))

    @torch.no_grad()
    def take(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], target: Float[Tensor, "b"]) -> None:
        """Take as many of the cells as are wanted, at equal steps in the order of their lives.

        Raises:
            InputError: there are fewer cells.
        """
        count = len(self.target)
        if len(target) < count:
            raise InputError(
                f"references is {count}, but only {len(target)} cells of known life are trained on: set it to at most "
                f"{len(target)}"
            )
        chosen = target.argsort()[torch.linspace(0, len(target) - 1, count).round().long()]
        for own, given in ((self.raw, raw), (self.change, change), (self.target, target)):
            own.copy_(given[chosen])

    def pairs(
        self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]
    ) -> tuple[Float[Tensor, "b r v n p"], Float[Tensor, "b r v n p"], Float[Tensor, "..."]]:
        """Differences of both videos to those of the references, and the targets of these: one in training, or all."""
        references = [x.detach() for x in (self.raw, self.change, self.target)]
        if self.training:
            drawn = torch.randint(len(self.target), (len(raw), 1), device=raw.device)
            references = [x[drawn] for x in references]
        return raw[:, None] - references[0], change[:, None] - references[1], references[2]
