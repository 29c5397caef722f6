"""Downscaling: a fine field from its own area-weighted means over cells of ``data.coarsen`` points along each axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.cells import Interpolation, interpolation, means_of
from workbench.data.packing import Packing
from workbench.errors import InputError
from workbench.models.base import DownscalingNetwork
from workbench.tasks.diagnosis import DiagnosisTask, refuse_other_grids
from workbench.tasks.losses import Loss
from workbench.tasks.optimisation import Optimisation

RIDGE = 1e-3
"""Penalty of the linear part for each sample, on normalised means."""


class DownscalingTask(DiagnosisTask):
    r"""Give ``data.state`` on its points from its means over cells.

    .. math:: y = z + P(\bar x - M z), \qquad z = B\bar x + N(\bar x, s)

    with means M over cells, an interpolation B, the network N of means and what is known of the points, and P, which
    repeats a cell's value on its points. The last term makes the means of the fine field those that were given (Harder
    et al., 2023, J. Mach. Learn. Res. 24(365), the additive constraint).

    ``data.forcing`` is seen as means too, ``data.static`` on the points.

    Args:
        network: the network; channels, cells and points are supplied from the data.
        loss: distance that is minimised.
        interpolate: what the network adds to: interpolation of the means.
        pretrained: weights file of a Prithvi WxC, whose blocks the network's core takes before training.
        frozen: whether the blocks of the core are left as they are.
        optimisation: optimiser and schedule.

    Raises:
        InputError: roles are missing or lie on other grids, or the grid is no whole number of cells.
    """

    role = "state"

    def __init__(
        self,
        network: Callable[[tuple[int, int], int, tuple[tuple[int, ...], tuple[int, ...]]], DownscalingNetwork],
        loss: Loss | None = None,
        interpolate: Interpolation = "bicubic",
        pretrained: str | None = None,
        frozen: bool = False,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(
            network,  # type: ignore[arg-type]
            loss,
            pretrained=pretrained,
            frozen=frozen,
            optimisation=optimisation,
        )
        self.arguments = {
            "network": network,
            "loss": loss,
            "interpolate": interpolate,
            "pretrained": pretrained,
            "frozen": frozen,
            "optimisation": optimisation,
        }
        self.interpolate = interpolate

    def check(self, packing: Packing) -> None:
        """Raise InputError where the roles are not those of downscaling."""
        if "state" not in packing.groups or "diagnostic" in packing.groups:
            raise InputError("DownscalingTask gives data.state from its means over cells, and takes no data.diagnostic")
        if packing.coarsen < 2:
            raise InputError("DownscalingTask needs data.coarsen, the points along each axis of a cell: set it to 4")
        refuse_other_grids(type(self).__name__, packing.groups, packing)

    def made(self, packing: Packing) -> nn.Module:
        """The network, and the maps between points and cells."""
        groups, factor = packing.groups, packing.coarsen
        space = groups["state"].space
        maps = {"means": means_of(packing.spec, space, factor)}
        cells = tuple(len(one) for one in maps["means"])
        for name, kind in (("fine", self.interpolate), ("repeat", "nearest")):
            maps[name] = [interpolation(n, factor, kind) for n in cells]
        for name, along in maps.items():
            for axis, one in enumerate(along):
                self.register_buffer(f"{name}_{axis}", torch.from_numpy(one).float(), persistent=False)
        seen = packing.history * sum(groups[role].channels for role in ("state", "forcing") if role in groups)
        known = groups["static"].channels if "static" in groups else 0
        return self.make_network((seen, known), groups["state"].channels, (cells, packing.space))  # type: ignore[arg-type]

    def assemble(self, data: Any) -> None:
        """Build the network, and fit what of it is linear."""
        super().assemble(data)
        if getattr(self.network, "linear", None) is not None and self.trainer.state.fn == "fit":
            self.fit_linear(data.loader("train", "none"))

    def fit_linear(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Ridge regression of what interpolation leaves, at each point on the 3 x 3 cells round it and a constant.

        Args:
            batches: the training part, once, in physical units.
        """
        network: Any = self.network
        factor = self.packing.coarsen if self.packing else 1
        square, cross, count = torch.zeros(()), torch.zeros(()), 0
        for batch in batches:
            fields = {role: self.normalisers[role](batch[role]) for role in self.inputs}
            means = self.seen(fields)
            x = network.around(torch.cat([m.flatten(1, 2) for m in means], 1)).double()
            left = (fields["state"][:, -1] - self.mapped("fine", means[0][:, -1])).double()
            y = rearrange(left, "b d (cy py) (cx px) -> b cy cx (d py px)", py=factor, px=factor)
            square = square + torch.einsum("bkyx,blyx->yxkl", x, x)
            cross = cross + torch.einsum("bkyx,byxp->yxkp", x, y)
            count += len(x)
        if dist.is_available() and dist.is_initialized():
            for total in (square, cross):
                there = total.to(self.trainer.strategy.root_device)
                dist.all_reduce(there)
                total.copy_(there)
            count *= dist.get_world_size()
        penalty = torch.full(square.shape[-1:], RIDGE * count, dtype=square.dtype)
        penalty[-1] = 0  # the constant
        found = torch.linalg.solve(square + torch.diag(penalty), cross)
        found = rearrange(found, "cy cx k (d py px) -> d k (cy py) (cx px)", py=factor, px=factor)
        network.linear.copy_(found)

    def seen(self, fields: dict[str, Tensor]) -> list[Float[Tensor, "b h c *cells"]]:
        """Means over cells of state and forcing."""
        return [self.mapped("means", fields[role]) for role in ("state", "forcing") if role in fields]

    def mapped(self, name: str, fields: Float[Tensor, "*b c *from"]) -> Float[Tensor, "*b c *to"]:
        """Apply one of the maps between points and cells along every axis."""
        axes = len(self.packing.space) if self.packing else 0
        with torch.autocast(fields.device.type, enabled=False):
            for axis in range(axes):
                where = axis - axes
                fields = torch.tensordot(fields.float(), self.get_buffer(f"{name}_{axis}"), dims=([where], [1]))
                fields = fields.movedim(-1, where)
        return fields

    def estimate(self, fields: dict[str, Tensor]) -> Float[Tensor, "b d *space"]:
        """The fine field, normalised; of the state only its means over cells are used."""
        means = self.seen(fields)
        given = means[0][:, -1]
        added = self.network(torch.cat([m.flatten(1, 2) for m in means], 1), fields.get("static"))
        found = self.mapped("fine", given) + added.float()
        return found + self.mapped("repeat", given - self.mapped("means", found))
