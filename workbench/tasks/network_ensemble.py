"""Many small networks of one kind, trained as one: each with weights and random numbers of its own.

The weights of all networks lie in one tensor each, ``[network, ...]``, and one call evaluates them together (`vmap`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.errors import InputError
from workbench.models.base import CellNetwork


class NetworkEnsemble(nn.Module):
    """Networks that differ in their weights alone.

    Args:
        make: makes a network of two streams, raw and change.
        seeds: of the initial weights, one a network; equal seeds make equal networks.

    Raises:
        InputError: the networks normalise over batches, so that cells of a fold that is left out would leak in.
    """

    def __init__(self, make: Callable[[], CellNetwork], seeds: Sequence[int]) -> None:
        super().__init__()
        networks = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                networks.append(make())
        if any(isinstance(module, _BatchNorm) for module in networks[0].modules()):
            raise InputError(
                f"{type(networks[0]).__name__} normalises over batches, and the cells of a fold that is left out would "
                "leak in: set its normalisation to group"
            )
        self.names = {name: name.replace(".", "/") for name, _ in networks[0].named_parameters()}
        for name, parameter in networks[0].named_parameters():
            stacked = torch.stack([n.get_parameter(name).detach() for n in networks])
            self.register_parameter(self.names[name], nn.Parameter(stacked, parameter.requires_grad))
        self.count = len(networks)
        self.frames = int(getattr(networks[0], "frames", 0))
        # In a list, so that its weights, which are never used, are none of this module's.
        self._pattern = [copy.deepcopy(networks[0])]

    def forward(self, raw: Float[Tensor, "m b v n p"], change: Float[Tensor, "m b v n p"]) -> Float[Tensor, "m b"]:
        """What each of the first m networks makes of its own samples ``raw[k]`` and ``change[k]``."""
        # Here, not in `train`: after a validation Lightning sets `training` of every module without calling it.
        self._pattern[0].train(self.training)
        weights = {name: self.get_parameter(key)[: len(raw)] for name, key in self.names.items()}

        def one(parameters: dict[str, Tensor], raw: Tensor, change: Tensor) -> Tensor:
            found: Tensor = functional_call(self._pattern[0], parameters, (raw, change))
            return found

        found: Tensor = vmap(one, randomness="different")(weights, raw, change)
        return found

    def prepare(
        self, number: int, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], target: Float[Tensor, "b"]
    ) -> None:
        """Let one network take from its training cells what it does not learn by gradients (`CellNetwork.prepare`)."""
        network = self._pattern[0]
        weights = {name: self.get_parameter(key) for name, key in self.names.items()}
        network.load_state_dict({name: weight.detach()[number] for name, weight in weights.items()}, strict=False)
        network.prepare(raw, change, target)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                weights[name][number] = parameter

    def depths(self) -> Float[Tensor, "m"]:
        """Depth of every network: what its method ``depth`` gives."""
        network = _Depth(self._pattern[0])

        def one(parameters: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(network, parameters, ())
            return found

        found: Tensor = vmap(one)({f"network.{name}": self.get_parameter(key) for name, key in self.names.items()})
        return found


class _Depth(nn.Module):
    """Calls ``depth`` of a network as if it were its forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self) -> Tensor:
        """Return the depth."""
        found: Tensor = self.network.depth()  # type: ignore[operator]
        return found
