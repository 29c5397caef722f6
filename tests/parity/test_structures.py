"""Structure networks against the published code's outputs, ours and the plain one.

A new case needs nothing: `test_case` runs every entry of the folder's index.
"""

import numpy as np
import torch
from plain_deepfea import PlainDeepFEA

from workbench.models.deepfea import DeepFEA


def published(arrays):
    return {key.removeprefix("sd/"): torch.tensor(value) for key, value in arrays.items() if key.startswith("sd/")}


def ours(config, arrays, fed, dtype):
    state = config["node_out"]
    elements = arrays["element"].shape[2]
    model = DeepFEA(
        config["in_channels"],
        (state, elements),
        tuple(config["frame"]),
        tuple(config["hidden"]),
        kernel=config["kernels"][0],
        activation=config["activation"],
    )
    model.load_state_dict(published(arrays))
    x = torch.tensor(arrays["x"], dtype=dtype)
    found = model.to(dtype)(x[:, :, :state], x[:, :, state:-1], x[:, 0, -1:], fixed=x[:, 0, -1:] > 0, fed=fed)
    seen = torch.where(
        (x[:, :, -1:] < 0) & torch.tensor(fed).view(-1, *[1] * (x.ndim - 2)), found.nodes.roll(1, 1), x[:, :, :state]
    )
    return found.nodes, found.elements, torch.cat([seen, x[:, :, state:]], 2)


def plain(config, arrays, fed, dtype):
    elements = arrays["element"].shape[2]
    sizes = (config["node_out"], elements, config["hidden"], config["kernels"], config["frame"])
    model = PlainDeepFEA(config["in_channels"], *sizes)
    state = {key: value for key, value in published(arrays).items() if ".bias_c" not in key}  # never read
    model.load_state_dict(state)
    x = torch.tensor(arrays["x"], dtype=dtype)
    return *model.to(dtype)(x, [not f for f in fed]), x


def test_case(case):
    arrays, config = case.arrays(), case.entry["config"]
    fed = [t > 0 and case.entry["prob_ground_truth"] == 0 for t in range(arrays["x"].shape[1])]
    for dtype in (torch.float32, torch.float64):
        nodes, elements, seen = ours(config, arrays, fed, dtype)
        for key, value in {"node": nodes, "element": elements, "x_after_feedback": seen}.items():
            assert np.abs(value.detach().numpy() - arrays[key]).max() < 1e-6, f"{key} in {dtype}"
        for value, key in zip(plain(config, arrays, fed, dtype), ("node", "element"), strict=False):
            assert np.abs(value.detach().numpy() - arrays[key]).max() < 1e-6, f"plain {key} in {dtype}"
