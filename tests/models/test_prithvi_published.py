"""Prithvi WxC by the path of published weights, from a file as it is published, and back into that form."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.errors import InputError
from workbench.models import FNO
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_published import published_state
from workbench.weights import load_published

OPTIONS = {"embed_dim": 8, "n_heads": 2, "n_blocks_encoder": 1, "n_blocks_decoder": 2, "mask_unit_size_px": (4, 4)}


def network(seed=0, **options):
    torch.manual_seed(seed)
    return PrithviWxC(2, 5, (8, 12), **(OPTIONS | options))


def forecast(model):
    torch.manual_seed(1)
    model.place((torch.linspace(-70, 75, 8), torch.linspace(0, 330, 12)))
    hours = torch.tensor([6.0])
    return model(torch.randn(1, 2, 2, 8, 12), torch.randn(1, 5, 8, 12), hours, hours, torch.randn(1, 2, 8, 12))


def published(model, path):
    """A file as the authors' training writes it: weights and masks under one key, moments of the optimiser beside."""
    optimiser = torch.optim.AdamW(model.parameters())
    forecast(model).sum().backward()
    optimiser.step()
    torch.save({"model_state": published_state(model), "optimizer_state": optimiser.state_dict(), "epoch": 3}, path)
    return path


def test_a_published_file_loads_by_its_path(tmp_path):
    model = network()
    path = published(model, tmp_path / "prithvi.wxc.pt")
    assert torch.load(path)["model_state"]["decoder_shifter.local_mask"].dtype == torch.bool
    expected = forecast(model)
    assert torch.equal(forecast(load_published(network(1), path)), expected)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert torch.equal(forecast(load_published(network(1), tmp_path / "a.safetensors")), expected)
    torch.save(published_state(model), tmp_path / "bare.pt")
    assert torch.equal(forecast(load_published(network(1), tmp_path / "bare.pt")), expected)


def test_a_network_without_memory_takes_that_of_the_file(tmp_path):
    """Built on the meta device, loaded without a copy, and trained on."""
    model = network()
    path = published(model, tmp_path / "prithvi.wxc.pt")
    expected = forecast(model)
    with torch.device("meta"):
        other = network()
    loaded = load_published(other, path)
    found = forecast(loaded)
    assert torch.equal(found, expected)
    found.sum().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    assert not torch.equal(forecast(loaded), expected)
    assert torch.equal(forecast(load_published(network(1), path)), expected), "the file is as it was"


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    mark, path = tmp_path / "exploded", tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"model_state": {}, "optimizer_state": Bomb(mark)}))
    with pytest.raises(InputError, match="refused, nothing was executed"):
        load_published(network(), path)
    assert not mark.exists()
    with pytest.raises(InputError, match="no weights file at"):
        load_published(network(), tmp_path / "none.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    path = published(network(), tmp_path / "prithvi.wxc.pt")
    with pytest.raises(InputError, match=r"'mask_token' is \(1, 1, 1, 8\), expected \(1, 1, 1, 16\)"):
        load_published(network(embed_dim=16), path)
    with pytest.raises(InputError, match=r"20 missing \(encoder.lgl_block.transformers.3"):
        load_published(network(n_blocks_encoder=2), path)
    with pytest.raises(InputError, match=r"20 unknown \(decoder.lgl_block.transformers.3"):
        load_published(network(n_blocks_decoder=1, decoder_shifting=False), path)


def test_masks_are_those_of_moved_windows_only():
    still = network(decoder_shifting=False)
    assert set(published_state(still)) == set(still.state_dict())
    moving = network()
    added = set(published_state(moving)) - set(moving.state_dict())
    assert len(added) == 4 and all("shifter" in key for key in added)


def test_other_networks_translate_as_they_load(tmp_path):
    """Published corners of spectral weights become the one weight of an FNO, which has other names for them."""
    model = FNO(1, 1, (8, 8), modes=(2, 2), width=2, layers=1, projection=4, grid=None)
    state = model.state_dict()
    (name,) = [key for key in state if state[key].ndim == 5]
    weight = torch.view_as_complex(state.pop(name)).permute(2, 3, 0, 1).contiguous()
    prefix = name.removesuffix("weight")
    state |= {f"{prefix}weights1": weight[..., :2, :].clone(), f"{prefix}weights2": weight[..., 2:, :].clone()}
    torch.save(state, tmp_path / "fno.pt")
    other = FNO(1, 1, (8, 8), modes=(2, 2), width=2, layers=1, projection=4, grid=None)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(load_published(other, tmp_path / "fno.pt")(x), model(x))
