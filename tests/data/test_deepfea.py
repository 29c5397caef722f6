"""The reader of published structural simulations, on small ones of the same layout."""

from pathlib import Path

import numpy as np
import pytest

from workbench.data.readers.deepfea import DeepFEASimulations
from workbench.data.recipe import build, read_recipe
from workbench.errors import InputError

STEPS = 4


def write(folder: Path, nodes: tuple[int, ...], seed: int = 0, steps: int = STEPS) -> dict[str, np.ndarray]:
    """One simulation; rows run along y, columns along x, and the last row is held."""
    dim = len(nodes)
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.arange(n) * 0.5 for n in nodes), indexing="ij")
    start = np.stack([grid[1], grid[0], *grid[2:]])
    held = np.zeros(nodes)
    held[-1] = 1
    u = 0.01 * rng.standard_normal((steps, dim, *nodes)) * (1 - held)
    after = start + u
    before = np.concatenate([start[None], after[:-1]])
    force = rng.standard_normal((steps, dim, *nodes))
    flag = np.broadcast_to(held, (steps, 1, *nodes))
    stress, strain = rng.uniform(size=(2, steps, 1, *(n - 1 for n in nodes)))
    folder.mkdir(parents=True)
    np.savez(folder / "dis_in.npz", np.concatenate([before, force, flag], 1))
    np.savez(folder / "dis_out.npz", after)
    np.savez(folder / "effective_out.npz", eff_stress=stress, eff_strain=strain)
    return {"u": u, "force": force, "stress": stress, "strain": strain, "start": start, "held": held}


@pytest.mark.parametrize("nodes", [(4, 3), (4, 3, 3)])
def test_simulations_become_a_record_in_si_units(tmp_path, nodes):
    parts = {k: write(tmp_path / str(k), nodes, k) for k in (1, 2, 10)}
    reader = DeepFEASimulations(str(tmp_path), time_step=0.1, metre=1e-3, newton=2.0, pascal=1e6)
    record, template = reader.simulate([2, 0]), reader.template()
    assert reader.trajectories == 3
    space = ("node_y", "node_x", "node_z")[: len(nodes)]
    assert record.displacement_x.dims == ("trajectory", "time", *space)
    assert record.von_mises.dims == ("trajectory", "time", *(d.replace("node", "elem") for d in space))
    for place, number in enumerate((10, 1)):
        for c, axis in enumerate("xyz"[: len(nodes)]):
            found, part = record.isel(trajectory=place), parts[number]
            np.testing.assert_allclose(found[f"displacement_{axis}"][1:], 1e-3 * part["u"][:, c], atol=1e-9)
            np.testing.assert_allclose(found[f"load_{axis}"][1:], 2 * part["force"][:, c], rtol=1e-6)
            np.testing.assert_allclose(found[f"position_{axis}"], 1e-3 * part["start"][c], atol=1e-9)
            np.testing.assert_array_equal(found[f"support_{axis}"], part["held"])
        np.testing.assert_allclose(found.von_mises[1:], 1e6 * part["stress"][:, 0], rtol=1e-6)
        np.testing.assert_allclose(found.effective_strain[1:], part["strain"][:, 0], rtol=1e-6)
    assert np.abs(record.isel(time=0)[["displacement_x", "load_y", "von_mises"]].to_array()).max() == 0
    np.testing.assert_allclose(record.time, 0.1 * np.arange(STEPS + 1))
    np.testing.assert_allclose(record.node_y, 5e-4 * np.arange(4))
    np.testing.assert_allclose(record.elem_x, [2.5e-4, 7.5e-4])
    assert record.node_x.attrs["units"] == "m"
    for name in record:
        assert template[name].shape == (3, *record[name].shape[1:])
        assert template[name].dtype == record[name].dtype == np.float32


def test_nodes_off_a_straight_grid_are_numbered(tmp_path):
    write(tmp_path / "1", (4, 3))
    for name in ("dis_in", "dis_out"):
        values = np.load(tmp_path / "1" / f"{name}.npz")["arr_0"].copy()
        values[:, 0, 1] += 0.1
        np.savez(tmp_path / "1" / f"{name}.npz", values)
    record = DeepFEASimulations(str(tmp_path)).simulate([0])
    np.testing.assert_array_equal(record.node_x, [0, 1, 2])
    assert record.node_x.attrs["units"] == "1"


def test_the_recipe_reads_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    write(tmp_path / "deepfea_published" / "2D_LEM" / "1", (4, 3))
    assert build(read_recipe("deepfea_published/linear_2d")).is_dir()


def change(file: Path, key: str, how) -> None:
    with np.load(file) as archive:
        arrays = {name: archive[name].copy() for name in archive}
    arrays[key] = how(arrays[key])
    np.savez(file, **arrays)


def spoil(place: tuple, value: float):
    def how(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return how


@pytest.mark.parametrize(
    ("name", "key", "how", "message"),
    [
        ("dis_out", "arr_0", lambda a: a[:, :1], r"dis_out\.npz: expected coordinates \[step, 2, H, W\]"),
        ("dis_in", "arr_0", lambda a: a[:, :4], r"dis_in\.npz: expected 2 coordinates, 2 forces and a flag"),
        ("dis_in", "arr_0", spoil((0, 4), 0.0), r"expected a flag from 0 \(free\) to 1 \(held\).*found 0 to 0"),
        ("dis_in", "arr_0", spoil((0, 4, 0), -1.0), r"expected a flag.*found -1 to 1"),
        ("dis_in", "arr_0", spoil((2, 0, 0, 0), 0.5), r"nodes before step 2 lie up to .* from where step 1 left them"),
        ("dis_in", "arr_0", spoil((1, 2, 0, 0), np.nan), r"expected finite float32 or float64 numbers in 'arr_0'"),
        ("dis_in", "arr_0", lambda a: a.astype(int), r"expected finite float32 or float64 numbers.*found int64"),
        (
            "effective_out",
            "eff_stress",
            lambda a: a[:2],
            r"'eff_stress' of shape \(4, 1, 3, 2\); found \(2, 1",
        ),
    ],
)
def test_simulations_of_another_layout_are_refused(tmp_path, name, key, how, message):
    write(tmp_path / "1", (4, 3))
    change(tmp_path / "1" / f"{name}.npz", key, how)
    with pytest.raises(InputError, match=message):
        DeepFEASimulations(str(tmp_path)).simulate([0])


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"expected folders 1, 2, … of simulations, found none; .*zenodo"):
        DeepFEASimulations(str(tmp_path / "nowhere")).template()
    write(tmp_path / "1", (4, 3))
    write(tmp_path / "2", (4, 3), steps=3)
    reader = DeepFEASimulations(str(tmp_path))
    with pytest.raises(InputError, match=r"2: 3 steps on nodes \(4, 3\), expected 4 on \(4, 3\) as in 1"):
        reader.simulate([1])
    with pytest.raises(InputError, match=r"has simulations 0 to 1; asked for \[2\]"):
        reader.simulate([2])
    np.savez(tmp_path / "1" / "effective_out.npz", eff_stress=np.ones(3))
    with pytest.raises(InputError, match=r"effective_out\.npz"):
        reader.simulate([0])
    (tmp_path / "1" / "dis_out.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"dis_out\.npz is not a whole NumPy archive"):
        DeepFEASimulations(str(tmp_path)).template()
    (tmp_path / "1" / "dis_out.npz").unlink()
    with pytest.raises(InputError, match=r"dis_out\.npz is not there"):
        DeepFEASimulations(str(tmp_path)).template()


def test_an_archive_without_its_array_is_named(tmp_path):
    write(tmp_path / "1", (4, 3))
    np.savez(tmp_path / "1" / "effective_out.npz", stress=np.ones((4, 1, 3, 2)))
    with pytest.raises(InputError, match=r"effective_out\.npz has no array 'eff_stress'; it has stress"):
        DeepFEASimulations(str(tmp_path)).template()
