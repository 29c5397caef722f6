"""Weather: masked reconstruction and forecasts at any lead time, added to a climatology.

The task of Prithvi WxC (Schmude et al., 2024, arXiv:2409.13598). A sample has two states, the calendar of
the later one, what does not change, and a target a lead time away: the network sees a part of the states' tokens,
masked within windows and window by window in turn, and gives the target as a deviation from the climatology there.
Later the same network is trained on a few of its own steps, all tokens seen from the second on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.data.config import DataConfig
from workbench.data.derived import CALENDAR
from workbench.data.grid import is_latitude, is_longitude
from workbench.data.packing import Packing
from workbench.errors import InputError
from workbench.known import Known
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_sharding import shard
from workbench.models.stored import load_published
from workbench.tasks.anomalies import AnomalyMSE
from workbench.tasks.forecast import Context, ForecastTask
from workbench.tasks.losses import Loss
from workbench.tasks.optimisation import Optimisation


class WeatherTask(ForecastTask):
    """Forecast the state of the atmosphere at a lead time, and from there on step by step.

    ``data.forcing`` starts with the calendar, ``[cos_day_of_year, sin_day_of_year, cos_hour_of_day,
    sin_hour_of_day]``; what follows there (sea ice) and ``data.static`` (land, height) are the network's other static
    channels. ``data.leads`` and ``data.input_deltas`` draw the times of each sample; forecasts step by ``data.stride``.
    Of missing values (``data.missing: mask``) the network sees the mean, the loss nothing.

    Args:
        network: the network; channels and the grid are supplied from the data, the scalers from its statistics.
        loss: distance that is minimised; by default `AnomalyMSE`.
        mask_ratio: fraction of the tokens that is masked in training, in the first step of a sample. With
            ``masking_mode: both`` of the network, kinds of masking alternate from one gradient step to the next.
            Published: 0.5, and 0 on rollouts.
        unroll: gradient of a multi-step loss (``data.horizon`` over 1): through all steps or the last only.
        noise: standard deviation of Gaussian noise added to the normalised input in training.
        horizons: how many steps of ``data.horizon`` are trained on from an epoch on: ``{0: 1, 8: 2, 12: 3}``.
        weights: file with weights to start a training from: published ones, a checkpoint, or an exported file. They
            bring their own scalers.
        optimisation: optimiser and schedule.

    Raises:
        InputError: roles, grid or climatology are not what the network needs.
    """

    def __init__(
        self,
        network: Callable[[int, int, tuple[int, ...]], PrithviWxC],
        loss: Loss | None = None,
        mask_ratio: float = 0.0,
        unroll: Literal["full", "pushforward"] = "full",
        noise: float = 0.0,
        horizons: dict[int, int] | None = None,
        weights: str | None = None,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(
            network,  # type: ignore[arg-type]
            loss or AnomalyMSE(),
            residual=False,
            unroll=unroll,
            noise=noise,
            horizons=horizons,
            optimisation=optimisation,
        )
        if not 0 <= mask_ratio < 1:
            raise InputError(f"model mask_ratio is {mask_ratio}: expected a fraction of the tokens, 0 or below 1")
        self.arguments = {
            "network": network,
            "loss": loss,
            "mask_ratio": mask_ratio,
            "unroll": unroll,
            "noise": noise,
            "horizons": horizons,
            "weights": weights,
            "optimisation": optimisation,
        }
        self.mask_ratio, self.weights = mask_ratio, weights

    # ------------------------------------------------------------------------------------------ building

    def assemble(self, data: Any) -> None:
        """Build the network, start it from `weights` where it is trained, and spread it over the devices."""
        super().assemble(data)
        if self.weights and self.trainer.training:
            load_published(self.network, self.weights)
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh["data_parallel"])

    def check_data(self, config: DataConfig) -> None:
        """Refuse samples whose later steps the network cannot be told the times of.

        Raises:
            InputError: several steps are to be trained on with a lead of 0, or with drawn times and a history over 2.
        """
        if config.horizon > 1 and 0 in config.leads:
            raise InputError(
                f"data.leads {list(config.leads)} with data.horizon {config.horizon}: a step of lead 0 stays where it "
                "is; leave the 0 out, or set data.horizon to 1"
            )
        if config.horizon > 1 and config.history > 2 and (config.leads or config.input_deltas):
            raise InputError(
                f"data.horizon {config.horizon} with data.history {config.history} and drawn leads or input deltas: "
                "after the first step the inputs are not evenly apart; set data.history to 2"
            )

    def build(self, packing: Packing) -> WeatherTask:
        """Make the network and normalisers for `packing`; returns self.

        Raises:
            InputError: the calendar is missing, there is a diagnostic, or the grid is not one of latitude and
                longitude that divides into windows.
        """
        check_roles(packing)
        super().build(packing)
        self.hours = packing.spec.time_step / 3600
        return self

    def made_network(self, packing: Packing) -> Any:
        """The network for the channels and the grid of `packing`, with the scalers of the record."""
        state = packing.groups["state"]
        surface = [packing.groups[role] for role in ("forcing", "static") if role in packing.groups]
        network: Any = self.make_network(state.channels, sum(group.channels for group in surface), packing.space)
        if network.mask_ratio_inputs:
            raise InputError(
                f"the network has mask_ratio_inputs {network.mask_ratio_inputs}: say model.init_args.mask_ratio "
                "instead, which masks the first step of a training sample and no forecast (rollout.mask_ratio does)"
            )
        if network.history != packing.history:
            raise InputError(
                f"the network takes {network.history} states, data.history is {packing.history}: set both to the same "
                "(network init_args history)"
            )
        if network.residual == "climate" and not state.anomaly_std:
            raise InputError(
                "residual: climate adds to the climatology, and the experiment names none: set data.climatology to fit "
                "or to the path of one, or take residual: temporal"
            )
        output = {"climate": state.anomaly_std, "temporal": state.tendency_std, "none": state.std}[network.residual]
        known = ([value for group in surface for value in getattr(group, name)] for name in ("mean", "std"))
        network.standardise(*(torch.tensor(x) for x in (state.mean, state.std, *known, output)))
        return network

    @property
    def adds_to_climatology(self) -> bool:  # type: ignore[override]
        """Whether a step needs the climatology at its end."""
        return bool(self.network.residual == "climate")

    # ------------------------------------------------------------------------------------------ stepping

    def normalised(self, batch: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Every role of a batch and the climatology, normalised, and the times that were drawn, in hours."""
        found = super().normalised(batch, training)
        if "climatology" in batch:
            found["climatology"] = self.normalisers["state"](batch["climatology"])
        return found | {name: batch[name] for name in ("input_delta", "lead_time") if name in batch}

    def context(self, known: Known, step: int) -> Context:
        """What step `step` (0-based) needs: calendar and surface of its latest input, climatology and time of its end.

        After a step the two inputs are a lead apart.
        """
        history = self.packing.history if self.packing else 1
        context = {"forcing": known["forcing"][:, step + history - 1]}
        if "static" in known:
            context["static"] = known["static"]
        if "climatology" in known:
            context["climatology"] = known["climatology"][:, step]
        if "lead_time" in known:
            context["lead_time"] = known["lead_time"]
            context["input_delta"] = known["lead_time" if step else "input_delta"]
        context["mask_ratio"] = torch.tensor(self.mask_ratio if self.training and not step else 0.0)
        return context

    def advance(
        self, window: Float[Tensor, "b h c *space"], context: Context | None = None
    ) -> Float[Tensor, "b c *space"]:
        """The state a lead time after the last of `window`, normalised; by default a step of ``data.stride`` after it.

        Args:
            window: the last `history` states; NaN where a value is missing.
            context: `forcing` at the last of them ``[b, k, *space]``, `static`, and `climatology` at the target
                ``[b, c, *space]``, normalised; `lead_time` and `input_delta` ``[b]`` in hours; the `mask_ratio`.
        """
        context = context or {}
        state: Any = self.normalisers["state"]
        hours = window.new_full((len(window),), self.hours)
        climate, ratio = context.get("climatology"), context.get("mask_ratio")
        found = self.network(
            state.inverse(window.nan_to_num()),
            self.surface(context),
            context.get("input_delta", hours),
            context.get("lead_time", hours),
            None if climate is None else state.inverse(climate.nan_to_num()),
            mask_ratio=None if ratio is None else float(ratio),
        )
        last = window[:, -1]
        return torch.where(torch.isnan(last), last, state(found))

    def surface(self, context: Context) -> Float[Tensor, "b k *space"]:
        """The calendar and what the network knows of the surface, in physical units."""
        roles = [role for role in ("forcing", "static") if role in context]
        found = [cast("Any", self.normalisers[role]).inverse(context[role].nan_to_num()) for role in roles]
        return torch.cat(found, 1)

    # ------------------------------------------------------------------------------------------ training

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Mean loss of the batch, masked by the kind whose turn this gradient step is."""
        if (self.network.masking == "global") != bool(self.global_step % 2):
            self.network.swap_masking()
        return super().training_step(batch, batch_index)


def check_roles(packing: Packing) -> None:
    """Raise InputError unless there are a calendar first, no diagnostic, and a grid of latitude and longitude."""
    calendar, forcing = tuple(CALENDAR), packing.groups.get("forcing")
    found = forcing.variables if forcing else ()
    if found[: len(calendar)] != calendar:
        raise InputError(
            f"WeatherTask needs the calendar first in data.forcing: expected [{', '.join(calendar)}, ...], found "
            f"{list(found)}"
        )
    if "diagnostic" in packing.groups:
        raise InputError("WeatherTask predicts what it takes in: list what is under data.diagnostic under data.state")
    if "state" not in packing.groups:
        raise InputError("WeatherTask needs data.state: at least one variable that is forecast")
    space = packing.groups["state"].space
    axes = [packing.spec.axis(dim) for dim in space]
    if len(axes) != 2 or not is_latitude(axes[0]) or not is_longitude(axes[1]):
        raise InputError(
            f"WeatherTask needs fields on (latitude, longitude) in degrees, in this order; found {space}: transpose "
            "the record, or name its axes lat and lon (units degrees_north, degrees_east)"
        )
