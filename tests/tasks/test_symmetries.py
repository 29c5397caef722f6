"""Augmentation by symmetries: group properties, physics, and what is refused."""

import functools

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_channel import packing_of, record

from workbench.data.packing import Normaliser
from workbench.errors import InputError
from workbench.models import FNO
from workbench.tasks import ForecastTask
from workbench.tasks.symmetries import Augmentation, Exchange, Reflection, Symmetries
from workbench.weights import card_of, export, load

CHANNEL = Symmetries(shifts=("x", "z"), reflections=(Reflection(("y",), ("v",)), Reflection(("z",), ("w",))))


@pytest.fixture
def built():
    dataset = record()
    packing = packing_of(dataset, static=("wall",))
    task = ForecastTask(functools.partial(FNO, width=2, modes=1, layers=1, projection=2), symmetries=CHANNEL)
    task.build(packing)
    batch = {role: packing.pack(dataset, role)[None] for role in packing.groups}
    return task, batch


def physical(task, batch, seed):
    """A batch mapped once, back in physical units."""
    torch.manual_seed(seed)
    return {role: task.normalisers[role].inverse(z) for role, z in task.normalised(batch, training=True).items()}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_every_map_is_a_shift_and_reflections_of_all_roles_and_times_alike(seed):
    dataset = record()
    packing = packing_of(dataset, static=("wall",))
    task = ForecastTask(functools.partial(FNO, width=2, modes=1, layers=1, projection=2), symmetries=CHANNEL)
    task.build(packing)
    batch = {role: packing.pack(dataset, role)[None] for role in packing.groups}
    found = physical(task, batch, seed)
    candidates = []
    for flip_y in (False, True):
        for flip_z in (False, True):
            for dx in range(8):
                for dz in range(4):
                    moved = {}
                    for role, values in batch.items():
                        x = values.roll((dx, dz), (-3, -1))
                        if flip_y:
                            x = x.flip(-2)
                        if flip_z:
                            x = x.flip(-1)
                        if role == "state":
                            x = x * torch.tensor([1.0, -1 if flip_y else 1, -1 if flip_z else 1]).view(3, 1, 1, 1)
                        moved[role] = x
                    candidates.append(moved)
    near = [c for c in candidates if all(torch.allclose(c[r], found[r], atol=1e-5) for r in found)]
    assert len(near) == 1


def test_scores_do_not_see_the_map(built):
    task, batch = built
    plain = task.normalised(batch, training=False)
    for role, values in plain.items():
        torch.testing.assert_close(values, task.normalisers[role](batch[role]), rtol=0, atol=0)


def test_every_element_of_the_group_is_drawn():
    dataset = record()
    packing = packing_of(dataset)
    augmentation = Augmentation(CHANNEL, packing)
    marked = torch.zeros(2000, 1, 3, 8, 5, 4)
    marked[:, :, :, 0, 0, 0] = 1.0  # a node that tells where it went
    torch.manual_seed(0)
    moved = augmentation({"state": marked})["state"][:, 0, 0]
    places, counts = torch.unique(moved.flatten(1).argmax(1), return_counts=True)
    assert len(places) == 8 * 2 * 4  # every x and z, both walls
    assert counts.max() < 4 * counts.min()


def test_elements_are_reversed_with_their_nodes():
    nodes, elements = ("time", "node_y", "node_x"), ("time", "elem_y", "elem_x")
    rng = np.random.default_rng(1)
    fields = {
        "d": (nodes, rng.normal(0, 1, (10, 5, 4)).astype("f4"), {"units": "m"}),
        "s": (elements, rng.normal(0, 1, (10, 4, 3)).astype("f4"), {"units": "Pa"}),
    }
    axes = {
        "node_y": np.arange(5.0),
        "node_x": np.arange(4.0),
        "elem_y": np.arange(4) + 0.5,
        "elem_x": np.arange(3) + 0.5,
    }
    dataset = xr.Dataset(fields, {"time": np.arange(10.0), **axes})
    packing = packing_of(dataset, state=("d",), diagnostic=("s",))
    augmentation = Augmentation(Symmetries(reflections=(Reflection(("node_y", "elem_y"), ("d",)),)), packing)
    group = packing.groups["state"]
    z = {role: packing.pack(dataset, role)[None] for role in packing.groups}
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = augmentation(z)
        turned = not torch.equal(found["diagnostic"], z["diagnostic"])
        seen.add(turned)
        if turned:
            torch.testing.assert_close(found["diagnostic"], z["diagnostic"].flip(-2))
            shift = 2 * group.mean[0] / group.std[0]
            torch.testing.assert_close(found["state"], -z["state"].flip(-2) - shift)
        else:
            torch.testing.assert_close(found["state"], z["state"])
    assert seen == {True, False}


def square():
    """Nodes and elements of a square section, with a displacement along each axis."""
    nodes, elements = ("time", "node_y", "node_x", "node_z"), ("time", "elem_y", "elem_x", "elem_z")
    rng = np.random.default_rng(1)
    size, units = (10, 4, 3, 4), {"units": "m"}
    fields = {f"u{n}": (nodes, rng.normal(i, 1 + i, size).astype("f4"), units) for i, n in enumerate("xyz")}
    fields["s"] = (elements, rng.normal(0, 1, (10, 3, 2, 3)).astype("f4"), units)
    axes = {f"node_{n}": np.arange(k) / 4 for n, k in zip("yxz", (4, 3, 4), strict=True)}
    axes |= {f"elem_{n}": np.arange(k) / 4 + 1 / 8 for n, k in zip("yxz", (3, 2, 3), strict=True)}
    dataset = xr.Dataset(fields, {"time": np.arange(10.0), **axes})
    return dataset, packing_of(dataset, state=("ux", "uy", "uz"), diagnostic=("s",))


SQUARE = Exchange((("node_y", "node_z"), ("elem_y", "elem_z")), (("uy", "uz"),))


def test_an_exchange_turns_components_with_their_axes_in_physical_units():
    dataset, packing = square()
    augmentation = Augmentation(Symmetries(exchanges=(SQUARE,)), packing)
    normalisers = {role: Normaliser(group) for role, group in packing.groups.items()}
    z = {role: normaliser(packing.pack(dataset, role)[None]) for role, normaliser in normalisers.items()}
    turned = dataset.transpose("time", "node_z", "node_x", "node_y", "elem_z", "elem_x", "elem_y")
    expected = {"state": np.stack([turned[n].values for n in ("ux", "uz", "uy")], 1), "diagnostic": turned.s.values}
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = {role: normalisers[role].inverse(x)[0] for role, x in augmentation(z).items()}
        moved = not torch.allclose(found["diagnostic"][:, 0], torch.from_numpy(dataset.s.values), atol=1e-5)
        seen.add(moved)
        if moved:
            torch.testing.assert_close(found["state"], torch.from_numpy(expected["state"]))
            torch.testing.assert_close(found["diagnostic"][:, 0], torch.from_numpy(expected["diagnostic"]))
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (Exchange((("node_y", "q"),)), "symmetries.exchanges names the dimension 'q'"),
        (Exchange((("node_y", "node_x"),)), r"nodes along 'node_y' \(4 over 0.75\) and 'node_x' \(3 over 0.5\) differ"),
        (Exchange((("node_y", "node_z"),), (("uy", "s"),)), "uy and s must be variables of one role"),
        (Exchange((("node_y", "node_y"),)), "node_y and node_y must be two axes of the same variables"),
    ],
)
def test_what_is_no_exchange_is_refused(exchange, message):
    with pytest.raises(InputError, match=message):
        Augmentation(Symmetries(exchanges=(exchange,)), square()[1])


def test_weights_carry_the_symmetries(tmp_path):
    task = ForecastTask(
        functools.partial(FNO, width=2, modes=1, layers=1, projection=2),
        symmetries=Symmetries(
            shifts=("x",), reflections=CHANNEL.reflections, exchanges=(Exchange((("x", "z"),), (("u", "w"),)),)
        ),
    )
    task.build(packing_of(record().isel(x=slice(4))))
    export(task, tmp_path / "a.safetensors", card_of(task))
    again, _ = load(tmp_path / "a.safetensors")
    assert again.symmetries == task.symmetries


@pytest.mark.parametrize(
    ("symmetries", "message"),
    [
        (Symmetries(shifts=("q",)), "symmetries.shifts names the dimension 'q': expected one of"),
        (Symmetries(shifts=("y",)), "symmetries.shifts: the nodes along 'y' are 0.2929 to 0.7071 apart"),
        (Symmetries(reflections=(Reflection(("q",)),)), "symmetries.reflections names the dimension 'q'"),
        (Symmetries(reflections=(Reflection(("y",), ("p",)),)), "'p' is odd under the reflection of y, but"),
    ],
)
def test_what_is_no_symmetry_is_refused(symmetries, message):
    with pytest.raises(InputError, match=message):
        Augmentation(symmetries, packing_of(record()))


def test_a_one_sided_grid_has_no_mirror_image():
    with pytest.raises(InputError, match="nodes along 'y' are not the mirror image of themselves"):
        Augmentation(Symmetries(reflections=(Reflection(("y",)),)), packing_of(record(stretched=False)))
