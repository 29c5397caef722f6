"""Turbulence networks against the published code's outputs and gradients.

A new model needs one function here, which returns the tensors of a case under the names that its file gives them, and
one line in MODELS. A new case needs nothing.
"""

import json

import numpy as np
import pytest
import torch
from einops import rearrange
from plain_ifactformer import PlainIFactFormer

from workbench.models import FNO, IFNO, IFactFormer, Network


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


def variant(layout):
    """Our arguments for a published version."""
    early, chained = layout["variant"] == "paper2024", layout["attention"] == "chained"
    return {"norm": "plane" if early else "channel", "extra_head": early and not chained}


def factorised(layout, **sizes):
    """Our IFactFormer of a published case."""
    channels, space = 3 * sizes.get("history", 1), tuple(layout["config"]["grid"])
    return IFactFormer(channels, 3, space, attention=layout["attention"], **variant(layout), **sizes)


def factorised_transformer(plain, layout, arrays, dtype):
    """IFactFormer of huiyu-2002/IFactFormer-m, ours or the plain one: channels last, time first."""
    config = layout["config"]
    sizes = {name: config[name] for name in ("dim", "heads", "dim_head", "depth")} | {"iterations": config["n_layer"]}
    if plain:
        model = PlainIFactFormer(chained=layout["attention"] == "chained", **variant(layout), **sizes)
        apply = model
    else:
        model = factorised(layout, **sizes)

        def apply(x):
            return rearrange(model(rearrange(x, "b t x y z c -> b (t c) x y z")), "b c x y z -> b x y z c")

    model.load_state_dict(published_state(arrays))
    model.to(dtype)
    x = torch.tensor(arrays["x"], dtype=dtype, requires_grad=True)
    y = apply(x)
    y.backward(torch.tensor(arrays["cotangent"], dtype=dtype))
    found = {"y": y, "grad_x": x.grad, "roll/fields": rollout(apply, arrays, dtype)}
    if dtype == torch.float64:
        found["y_float64"] = y
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"encoder.layers.{i}.0.0._B" for i in range(config["depth"])}
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if name not in frozen}
    assert set(gradients) == {key for key in arrays if key.startswith("grad/")}
    return found | gradients


def rollout(apply, arrays, dtype):
    """Four steps in physical units, each prediction fed back."""
    x_mean, x_std, y_mean, y_std, window = (
        torch.tensor(arrays[f"roll/{name}"], dtype=dtype) for name in ("x_mean", "x_std", "y_mean", "y_std", "start")
    )
    fields = []
    with torch.no_grad():
        for _ in range(arrays["roll/fields"].shape[1]):
            fields.append(apply((window - x_mean) / x_std) * y_std + y_mean)
            window = torch.cat([window[:, 1:], fields[-1][:, None]], dim=1)
    return torch.stack(fields, dim=1)


# published model: the networks that must reproduce it, each with (entry, arrays, dtype) -> tensors by name
MODELS = {
    "FNO": [lambda *case: fourier_operator(FNO, *case)],
    "IFNO": [lambda *case: fourier_operator(IFNO, *case)],
    "IFactFormer": [
        lambda *case: factorised_transformer(False, *case),
        lambda *case: factorised_transformer(True, *case),
    ],
}


def tolerance(model, key):
    """The largest error over the largest value. Most references are float32, so a run in double comes no nearer."""
    if model != "IFactFormer":
        return 2e-6
    # single precision turns features by angles up to 800 rad, which it knows to 3e-5 rad
    return 1e-10 if key == "y_float64" else 3e-4 if key.startswith("grad") else 2e-4


def test_case(case):
    name = case.entry.get("model")
    if name not in MODELS:
        pytest.skip(f"no builder for model {name!r} yet")
    arrays = case.arrays()
    for run in MODELS[name]:
        for dtype in (torch.float32, torch.float64):
            for key, value in run(case.entry, arrays, dtype).items():
                expected = arrays[key]
                error = np.abs(value.detach().numpy() - expected).max() / np.abs(expected).max()
                assert error < tolerance(name, key), f"{key} in {dtype}: {error:.1e} of the largest value"


SIZES = {
    "tiny": {"dim": 24, "heads": 2, "dim_head": 8, "iterations": 3},
    "d2t2": {"dim": 12, "heads": 3, "dim_head": 6, "depth": 2, "history": 2},
    "paper_re180": {},
}


def test_names_and_shapes_of_parameters(case):
    entry = case.entry
    if entry.get("model") != "IFactFormer":
        pytest.skip("the other cases load all their parameters by name")
    published = json.loads((case.folder / f"state_dict_shapes_{entry['variant']}.json").read_text())
    letter = {"parallel": "m", "chained": "o"}[entry["attention"]]
    for size, arguments in SIZES.items():
        key = f"IFactFormer_{letter}/{entry['variant']}/{size}"
        model = factorised(entry, **arguments)
        assert {name: list(value.shape) for name, value in model.state_dict().items()} == published[key]
    assert sum(p.numel() for p in model.parameters()) == published[f"{key}__params"]
