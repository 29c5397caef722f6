import json
import os
import pickle
import zipfile

import pytest
import torch

from workbench.errors import InputError
from workbench.header import FORMAT, read_card

CARD = {"format": FORMAT, "note": "hello"}


def checkpoint(path, **extra):
    torch.save({"state_dict": {"w": torch.ones(2, dtype=torch.float64)}, "rng": torch.get_rng_state(), **extra}, path)
    return path


def test_the_card_of_a_checkpoint_is_read_without_its_tensors(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt", workbench=json.dumps(CARD), loops={"epoch": 3, "names": ["a", ("b", 1.5)]})
    assert read_card(path) == CARD


def test_the_card_of_a_safetensors_file_is_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"workbench": json.dumps(CARD)})
    assert read_card(tmp_path / "a.safetensors") == CARD


class Bomb:
    """Leaves a mark when unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["bare", "zipped", "torch"])
def test_a_pickle_that_holds_code_is_refused_and_never_run(tmp_path, kind):
    mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
    if kind == "bare":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif kind == "torch":
        torch.save({"workbench": "{}", "x": Bomb(mark)}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/data.pkl", pickle.dumps({"workbench": Bomb(mark)}))
    with pytest.raises(InputError, match="refused"):
        read_card(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "torch.hub.load", "torch.serialization.load", "importlib.import_module"]
)
def test_no_callable_of_any_module_is_reached(tmp_path, name):
    module, _, function = name.rpartition(".")
    program = f"c{module}\n{function}\n(S'x'\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", program)
    with pytest.raises(InputError, match="refused"):
        read_card(tmp_path / "a.ckpt")


def test_what_is_no_weights_file_of_ours_is_said(tmp_path):
    with pytest.raises(InputError, match="no weights file at"):
        read_card(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="carries no Workbench card"):
        read_card(checkpoint(tmp_path / "a.ckpt"))
    with pytest.raises(InputError, match="card format 99"):
        read_card(checkpoint(tmp_path / "b.ckpt", workbench=json.dumps({"format": 99})))
    (tmp_path / "c.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_card(tmp_path / "c.safetensors")
    whole = checkpoint(tmp_path / "d.ckpt", workbench=json.dumps(CARD)).read_bytes()
    (tmp_path / "d.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_card(tmp_path / "d.ckpt")
    with zipfile.ZipFile(tmp_path / "e.ckpt", "w") as archive:
        archive.writestr("readme", "no data")
    with pytest.raises(InputError, match="without data.pkl"):
        read_card(tmp_path / "e.ckpt")
