"""What states of a channel add to the sums of `workbench.metrics.channel_sums`: one slab at a time, in NumPy."""

from __future__ import annotations

import numpy as np
import xarray as xr

from workbench.data.weights import trapezoid
from workbench.errors import InputError
from workbench.metrics.channel import Grid, divergence_of_gradient, one_sided_power, q_of_gradient

COMPONENTS = ("u", "v", "w")
QUANTITIES = (*COMPONENTS, "q")
PAIRS = (("u", "u"), ("v", "v"), ("w", "w"), ("u", "v"))
HISTORY = ("energy", "rms_u", "rms_v", "rms_w", "bulk_velocity", "divergence", "wall_slip")

EDGES = np.linspace(-8.0, 8.0, 65)
JOINT_EDGES = np.linspace(-4.0, 4.0, 25)
"""Of bins in standard deviations; values beyond are counted in one more bin at either end."""


class Kernel:
    """Sums of one slab of states ``[3, state, x, y, z]``, in NumPy."""

    def __init__(self, grid: Grid, scale: xr.Dataset) -> None:
        self.grid = grid
        self.centre, self.width = (
            scale[name].sel(quantity=list(QUANTITIES)).transpose("quantity", "y").values for name in ("centre", "width")
        )
        if self.centre.shape[1] != len(grid.y):
            raise InputError(
                f"the scale of the bins has {self.centre.shape[1]} wall-normal nodes, the record {len(grid.y)}: "
                "interpolate the scale to the record's nodes"
            )
        nodes = xr.DataArray(grid.y, dims="y", coords={"y": grid.y}, name="y")
        weights = trapezoid(nodes).values
        self.weights = weights / weights.sum()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every sum."""
        nx, ny, nz = (len(n) for n in (self.grid.x, self.grid.y, self.grid.z))
        joint = len(JOINT_EDGES) + 1
        return {
            "count": (),
            "velocity": (3, ny),
            "product": (len(PAIRS), ny),
            "power_x": (3, ny, nx // 2 + 1),
            "power_z": (3, ny, nz // 2 + 1),
            "q_square": (ny,),
            "histogram": (len(QUANTITIES), ny, len(EDGES) + 1),
            "joint": (ny, joint, joint),
        }

    def volume(self, fields: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """`HISTORY` of every state, ``[quantity, state]``."""
        plane = fields.mean((2, 4))  # [3, state, y]
        square = (fields**2).mean((2, 4))
        energy = 0.5 * (square.sum(0) @ self.weights)
        rms = np.sqrt(np.maximum(square - plane**2, 0.0) @ self.weights)
        strength = np.einsum("ij...,ij...->...", gradient, gradient).mean((1, 3)) @ self.weights
        divergent = (divergence_of_gradient(gradient) ** 2).mean((1, 3)) @ self.weights
        relative = np.sqrt(divergent / np.where(strength > 0, strength, 1.0))
        slip = np.sqrt(square[..., [0, -1]].sum(0).mean(-1))
        return np.stack([energy, *rms, plane[0] @ self.weights, relative, slip])

    def planes(self, fields: np.ndarray, gradient: np.ndarray) -> dict[str, np.ndarray]:
        """Every sum over the states of this slab, of averages over wall-parallel planes."""
        q = q_of_gradient(gradient)
        index = {name: i for i, name in enumerate(COMPONENTS)}
        products = [(fields[index[a]] * fields[index[b]]).mean((1, 3)).sum(0) for a, b in PAIRS]
        values = np.concatenate([fields, q[None]])
        standard = (values - self.centre[:, None, None, :, None]) / self.width[:, None, None, :, None]
        return {
            "count": np.asarray(float(fields.shape[1])),
            "velocity": fields.mean((2, 4)).sum(1),
            "product": np.stack(products),
            "power_x": one_sided_power(fields, 2).mean(4).sum(1).swapaxes(-1, -2),
            "power_z": one_sided_power(fields, 4).mean(2).sum(1),
            "q_square": (q**2).mean((1, 3)).sum(0),
            "histogram": np.stack([self._histogram(s) for s in standard]),
            "joint": self._joint(standard[0], standard[1]),
        }

    def _histogram(self, standard: np.ndarray) -> np.ndarray:
        """Shares of a plane's values in each bin, summed over states ``[y, bin]``; NaN where a value is not finite."""
        bins = _bins(standard, EDGES)
        return self._counted(bins, len(EDGES) + 1, standard).reshape(len(self.grid.y), -1)

    def _joint(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        count = len(JOINT_EDGES) + 1
        bins = _bins(u, JOINT_EDGES) * count + _bins(v, JOINT_EDGES)
        return self._counted(bins, count**2, u + v).reshape(len(self.grid.y), count, count)

    def _counted(self, bins: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
        ny = len(self.grid.y)
        flat = bins + count * np.arange(ny)[None, None, :, None]
        shares = np.bincount(flat.ravel(), minlength=ny * count) / (bins.shape[1] * bins.shape[3])
        return shares if np.isfinite(values).all() else np.full_like(shares, np.nan)

    def labelled(self, totals: dict[str, np.ndarray], batches: np.ndarray) -> xr.Dataset:
        """The sums with their dimensions and coordinates."""
        dims = {
            "count": ("batch",),
            "velocity": ("batch", "component", "y"),
            "product": ("batch", "pair", "y"),
            "power_x": ("batch", "component", "y", "wavenumber_x"),
            "power_z": ("batch", "component", "y", "wavenumber_z"),
            "q_square": ("batch", "y"),
            "histogram": ("batch", "quantity", "y", "bin"),
            "joint": ("batch", "y", "bin_u", "bin_v"),
        }
        lengths = self.grid.lengths
        coords = {
            "batch": batches,
            "component": list(COMPONENTS),
            "pair": [a + b for a, b in PAIRS],
            "quantity": list(QUANTITIES),
            "y": self.grid.y,
            "wavenumber_x": 2 * np.pi / lengths[0] * np.arange(totals["power_x"].shape[-1]),
            "wavenumber_z": 2 * np.pi / lengths[1] * np.arange(totals["power_z"].shape[-1]),
            "points_x": len(self.grid.x),
            "points_z": len(self.grid.z),
        }
        arrays = {name: (dims[name], values) for name, values in totals.items()}
        return xr.Dataset(arrays, coords)


def _bins(standard: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of the bin of each value: 0 below the first edge, ``len(edges)`` from the last on; NaN anywhere."""
    step = edges[1] - edges[0]
    inside = np.clip(np.floor((standard - edges[0]) / step) + 1, 0, len(edges))
    return np.nan_to_num(inside).astype(np.int64)
