"""Turbulence networks against the published code's outputs and gradients.

A new model needs one function here, which returns the tensors of a case under the names that its file gives them, and
one line in MODELS. A new case needs nothing.
"""

import numpy as np
import pytest
import torch
from einops import rearrange

from workbench.models import FNO, IFNO, Network

# The largest error over the largest value. The references are float32, so a run in double comes no nearer.
TOLERANCE = 2e-6


def fourier_operator(network: type[Network], layout, arrays, dtype):
    """FNO and IFNO of Gzh-sustech/PITO: channels last but one, the last axis is time; coordinates are given."""
    config = layout["config"]
    x = torch.tensor(arrays["x"], dtype=dtype, requires_grad=True)
    model = network(
        config["in_dim"],
        config["out_dim"],
        (*x.shape[1:4], x.shape[5]),
        modes=(config["modes1"], config["modes2"], config["modes3"], config["modes4"]),
        width=config["width"],
        layers=config["layers"],
        projection=config["fc_dim"],
        grid=None,
    )
    model.to(dtype).load_state_dict(published_state(arrays))
    y = rearrange(model(rearrange(x, "b x y z c t -> b c x y z t")), "b c x y z t -> b x y z c t")
    y.backward(torch.tensor(arrays["cotangent"], dtype=dtype))
    return {"y": y, "grad_x": x.grad}


def published_state(arrays):
    """The state dict of the published model: real tensors under sd/, complex ones in two halves."""
    state = {key.removeprefix("sd/"): torch.tensor(value) for key, value in arrays.items() if key.startswith("sd/")}
    for key, real in arrays.items():
        if key.startswith("sd_re/"):
            name = key.removeprefix("sd_re/")
            state[name] = torch.complex(torch.tensor(real), torch.tensor(arrays[f"sd_im/{name}"]))
    return state


MODELS = {
    "FNO": lambda *case: fourier_operator(FNO, *case),
    "IFNO": lambda *case: fourier_operator(IFNO, *case),
}


def test_case(case):
    name = case.entry.get("model")
    if name not in MODELS:
        pytest.skip(f"no builder for model {name!r} yet")
    arrays = case.arrays()
    for dtype in (torch.float32, torch.float64):
        for key, value in MODELS[name](case.entry, arrays, dtype).items():
            expected = arrays[key]
            error = np.abs(value.detach().numpy() - expected).max() / np.abs(expected).max()
            assert error < TOLERANCE, f"{key} in {dtype}: {error:.1e} of the largest value"
