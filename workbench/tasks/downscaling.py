"""Downscaling: a fine field from its own area-weighted means over cells of ``data.coarsen`` points along each axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.cells import Interpolation, interpolation, means_of
from workbench.data.packing import Packing
from workbench.errors import InputError
from workbench.models.base import DownscalingNetwork
from workbench.tasks.diagnosis import DiagnosisTask, refuse_other_grids
from workbench.tasks.losses import Loss
from workbench.tasks.optimisation import Optimisation


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
        means = [self.mapped("means", fields[role]) for role in ("state", "forcing") if role in fields]
        given = means[0][:, -1]
        added = self.network(torch.cat([m.flatten(1, 2) for m in means], 1), fields.get("static"))
        found = self.mapped("fine", given) + added.float()
        return found + self.mapped("repeat", given - self.mapped("means", found))
