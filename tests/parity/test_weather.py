"""Prithvi WxC against the published code's outputs, intermediates, drawn indices and gradients, ours and the plain one.

A new case needs nothing: what is computed follows from the names of its tensors.
"""

import json
import re
import warnings
from functools import cache

import numpy as np
import torch
from plain_prithvi import PlainPrithvi

from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_masking import Order, order_of
from workbench.models.prithvi_published import published_state

RENAMED = {"in_channels", "in_channels_static", "input_size_time", "n_lats_px", "n_lons_px"}
UNUSED = {"mask_ratio_targets", "input_scalers_epsilon", "static_input_scalers_epsilon"}


def built(config):
    """Our network for the published constructor arguments."""
    positions = 3 if config["positional_encoding"] == "absolute" else 0
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k not in RENAMED | UNUSED}
    space, static = (config["n_lats_px"], config["n_lons_px"]), config["in_channels_static"] - positions
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "with decoder_shifting and an odd number of pairs")
        return PrithviWxC(config["in_channels"], static, space, history=config["input_size_time"], **options)


def tensors_of(case):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in case.arrays().items()}


def state_of(tensors):
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}


def prepared(config, tensors):
    """Our network with the published weights, and what it is called with."""
    model = built(config)
    result = model.load_state_dict(state_of(tensors), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    static = tensors["batch.static"]
    if config["positional_encoding"] == "fourier":
        latitudes, longitudes, static = static[0, 0, :, 0], static[0, 1, 0], static[:, 2:]
    else:
        sine, other, longitude = static[0, :3].double().unbind()
        latitudes, longitudes, static = sine[:, 0].asin(), torch.atan2(longitude[0], other[0]), static[:, 3:]
    model.place((latitudes.double().rad2deg(), longitudes.double().rad2deg()))
    inputs = {key: tensors[f"batch.{key}"] for key in ("x", "input_time", "lead_time")}
    return model.eval(), inputs | {"static": static, "climate": tensors.get("batch.climate")}


def orders(tensors):
    """The output of each recorded pass, and the order of its tokens; None for the order in which they lie."""
    nothing = torch.zeros(len(tensors["batch.x"]), 16, 0, dtype=torch.int64)
    found = {"out": None}
    if "idx_masked" in tensors:
        recorded = Order(tensors["idx_masked"], tensors["idx_unmasked"])
        found["out_random_order" if "out_random_order" in tensors else "out"] = recorded
    if "out_after_swap" in tensors:
        found["out_after_swap"] = Order(tensors["idx_masked_after_swap"], tensors["idx_unmasked_after_swap"])
    for masking in ("global", "local"):
        if f"out_random_{masking}" in tensors:
            kept = tensors[f"idx_unmasked_{masking}"]
            found[f"out_random_{masking}"] = Order(nothing[..., 0, :] if kept.ndim == 2 else nothing, kept)
        if f"mask_{masking}" in tensors:
            mask = tensors[f"mask_{masking}"].flatten().bool()
            shape = (len(nothing), 16, -1) if masking == "local" else (len(nothing), -1)
            found["out_mask_local" if masking == "local" else "out"] = order_of(mask.expand(shape))
    return found


def ours(config, tensors, dtype):
    model, inputs = prepared(config, tensors)
    model.to(dtype)
    inputs = {key: None if value is None else value.to(dtype) for key, value in inputs.items()}
    found = {}
    if any(key.startswith("act.") for key in tensors):
        record(model, found)
    for key, order in orders(tensors).items():
        found[key] = model(**inputs, order=order)
        if key == "out":
            first = dict(found)
    return model, found | first


def record(model, found):
    """Note what goes into and comes out of the stacks, in the published order of axes."""

    def note(name):
        def hook(_, inputs, output):
            for kind, value in (("in", inputs[0]), ("out", output)):
                found[f"act.{name}_{kind}"] = value.transpose(0, 1)

        return hook

    model.encoder.register_forward_hook(note("encoder"))
    model.decoder.register_forward_hook(note("decoder"))
    model.unembed.register_forward_hook(lambda _, __, output: found.update({"act.unembed": output.transpose(0, 1)}))


def plain(config, tensors, dtype):
    model = PlainPrithvi(**config)
    model.load_state_dict({key: value for key, value in state_of(tensors).items() if "shifter" not in key})
    model.to(dtype)
    batch = {key.removeprefix("batch."): v.to(dtype) for key, v in tensors.items() if key.startswith("batch.")}
    windows = torch.arange(16).expand(len(batch["x"]), -1)
    found = {}
    for key, order in orders(tensors).items():
        found[key] = model(batch, (windows[:, :0], windows) if order is None else tuple(order))
    return model, found


def gradients(model, out, tensors):
    """The published loss and its gradient for every parameter."""
    weight = tensors["lats"].to(out).deg2rad().cos()[:, None] / model.output_scalers**2
    loss = (weight * (out - tensors["batch.y"]) ** 2).mean()
    loss.backward()
    return {"loss": loss} | {f"grad.{name}": p.grad for name, p in model.named_parameters()}


def compare(found, tensors):
    for key, value in found.items():
        expected = tensors[key].double()
        error = (value.detach().double() - expected).abs().max() / expected.abs().max()
        assert error < (1e-4 if key.startswith("grad") else 1e-5), f"{key}: {error:.1e} of the largest value"


def test_case(case):
    tensors = tensors_of(case)
    for run in (ours, plain):
        for dtype in (torch.float32, torch.float64):
            model, found = run(case.entry["config"], tensors, dtype)
            compare(found, tensors)
            assert {key for key in tensors if key.startswith("out")} <= set(found)
            if "loss" in tensors:
                graded = gradients(model, found["out"], tensors)
                assert {key for key in tensors if key.startswith("grad.")} == set(graded) - {"loss"}
                compare(graded, tensors)


def test_order_is_drawn_as_published(case):
    tensors = tensors_of(case)
    seed = re.search(r"manual_seed\((\d+)\)", case.entry["note"])
    model, inputs = prepared(case.entry["config"], tensors)
    if seed is None or "idx_masked" not in tensors:
        return
    torch.manual_seed(int(seed[1]))
    model.random_order = True
    outputs = {"out_random_order" if "out_random_order" in tensors else "out": model(**inputs)}
    if "out_after_swap" in tensors:
        model.swap_masking()
        outputs["out_after_swap"] = model(**inputs)
    compare(outputs, tensors)


def test_state_dict_goes_back(case):
    """What the published code loads strictly: every name, kind and shape, and the masks that it does not read."""
    tensors = tensors_of(case)
    model, _ = prepared(case.entry["config"], tensors)
    found, expected = published_state(model), state_of(tensors)
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@cache
def large_model():
    """The published model without its values, and what its state dict holds."""
    with torch.device("meta"):
        model = PrithviWxC(160, 8, (360, 576))
        state = published_state(model)
    return model, {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in state.items()}


def test_names_of_the_large_model(case):
    model, state = large_model()
    assert state == json.loads((case.folder / "state_dict_2300m.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == 2_366_633_600
