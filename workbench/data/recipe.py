"""Recipe -> store, with provenance: what `datasets/NAME/recipe.yaml` declares becomes a Zarr store.

A recipe names a *source* by class path: a frozen dataclass with ``template() -> Dataset`` (lazy, full shape) and
``simulate(trajectories, progress) -> Dataset`` (those trajectories, in memory). The build computes groups of them
in parallel, notes each written trajectory in a journal, and gives the store its name when all are there. Stopped at
any moment, it goes on with what is missing; a second build of the same store is refused while the first one runs.
Several jobs may build shares of one store.
"""

from __future__ import annotations

import dataclasses
import importlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
import yaml

from workbench import __version__
from workbench.data.spec import TRAJECTORY
from workbench.data.writer import StoreWriter
from workbench.errors import InputError
from workbench.resources import data_root, folder
from workbench.share import Share
from workbench.workers import executor


class Source(Protocol):
    """What makes a record: a solver or a reader of foreign files."""

    trajectories: int

    def template(self) -> xr.Dataset:
        """The whole record, lazy: dims, coordinates, attributes, dtypes; nothing is computed."""
        ...

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The given trajectories, in memory."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A dataset's declaration with one preset applied.

    Attributes:
        name, preset: together the name of the record, ``name/preset``.
        title, licence, citation: for the store, the card and the report.
        class_path, arguments: the source and its constructor arguments.
        chunks, shards: layout of the store.
        variables: declared variables with units and long names.
    """

    name: str
    preset: str
    title: str
    licence: str
    citation: str
    class_path: str
    arguments: dict[str, Any]
    chunks: dict[str, int]
    shards: dict[str, int]
    variables: dict[str, dict[str, str]]

    @property
    def path(self) -> Path:
        """Where the store is built."""
        return data_root() / self.name / f"{self.preset}.zarr"

    def source(self) -> Source:
        """Make the source.

        Raises:
            InputError: the class path or an argument is wrong.
        """
        module, _, cls = self.class_path.rpartition(".")
        try:
            made = getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError) as error:
            raise InputError(f"recipe {self.name} names the source {self.class_path}: {error}") from error
        known = [f.name for f in dataclasses.fields(made)]
        for key in self.arguments:
            if key not in known:
                raise InputError(
                    f"recipe {self.name}/{self.preset} gives '{key}' to {cls}, which knows {', '.join(known)}"
                )
        return made(**self.arguments)


def recipe_names() -> dict[str, list[str]]:
    """Every recipe and its presets."""
    files = sorted(folder("datasets").glob("*/recipe.yaml"))
    return {f.parent.name: list(yaml.safe_load(f.read_text())["presets"]) for f in files}


def read_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read ``NAME/PRESET`` (preset ``tiny`` by default).

    Raises:
        InputError: there is no such recipe or preset.
    """
    dataset, _, preset = name.partition("/")
    preset = preset or "tiny"
    file = folder("datasets") / dataset / "recipe.yaml"
    if not file.is_file():
        raise InputError(f"no dataset '{dataset}': the recipes are {', '.join(recipe_names())}")
    plain = yaml.safe_load(file.read_text())
    if preset not in plain["presets"]:
        raise InputError(f"dataset {dataset} has no preset '{preset}': it has {', '.join(plain['presets'])}")
    arguments = {**plain["source"].get("init_args", {}), **(plain["presets"][preset] or {}), **(overrides or {})}
    return Recipe(
        dataset,
        preset,
        plain["title"],
        plain["licence"],
        plain.get("citation", ""),
        plain["source"]["class_path"],
        arguments,
        plain.get("chunks", {}),
        plain.get("shards", {}),
        plain.get("variables", {}),
    )


def build(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    workers: int = 1,
    group: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    share: Share | None = None,
) -> Path:
    """Build the store of a recipe, or go on with a build that was stopped.

    As one of several jobs, build a `share` of the trajectories. A call without a share then builds what is missing,
    which may be nothing, and finishes the store.

    Args:
        recipe: what to build.
        overwrite: replace an existing store.
        workers: groups of trajectories computed at the same time, where dask has no cluster.
        group: trajectories per group; by default about four groups per worker.
        progress: called with groups done and groups in all.
        share: which of several jobs this is.

    Raises:
        InputError: the store exists or is being built, or the source refuses its parameters.
    """
    source = recipe.source()
    template = describe(source.template(), recipe)
    writer = StoreWriter(
        recipe.path,
        template,
        chunks={str(d): n for d, n in recipe.chunks.items()},
        shards=recipe.shards,
        identity={"recipe": recipe.name, "preset": recipe.preset, "arguments": recipe.arguments},
        overwrite=overwrite,
        share=share,
    )
    mine = _trajectories(recipe, template.sizes.get(TRAJECTORY, 1), share)
    began = time.perf_counter()
    try:
        with executor(workers) as (pool, at_once):
            size = group or max(1, -(-len(mine) // (4 * at_once)))
            _write_groups(writer, source, mine, size, pool, at_once, progress or (lambda done, total: None))
        writer.spend(time.perf_counter() - began)
        return writer.finish({"workbench_build_seconds": round(writer.journal.spent()[0], 2)})
    finally:
        writer.close()


def _trajectories(recipe: Recipe, count: int, share: Share | None) -> list[int]:
    """What is to be built, all or a share; no file of the store holds trajectories of two shares."""
    everything = list(range(count))
    if share is None:
        return everything
    chunk = recipe.chunks.get(TRAJECTORY, -1)
    unit = count if chunk == -1 else chunk * recipe.shards.get(TRAJECTORY, 1)
    units = [everything[i : i + unit] for i in range(0, count, unit)]
    return [t for one in share.of(units) for t in one]


def _groups(trajectories: Sequence[int], size: int) -> list[list[int]]:
    """Runs of consecutive trajectories, of at most `size`."""
    groups: list[list[int]] = []
    for t in trajectories:
        if groups and len(groups[-1]) < size and groups[-1][-1] == t - 1:
            groups[-1].append(t)
        else:
            groups.append([t])
    return groups


def _write_groups(
    writer: StoreWriter,
    source: Source,
    trajectories: list[int],
    size: int,
    pool: Executor,
    at_once: int,
    progress: Callable[[int, int], None],
) -> None:
    """Compute the missing trajectories in groups, `at_once` at a time, and write each group as it comes.

    Raises:
        InputError: the source cannot make one. Those that were begun are kept, and it says how many are there.
    """
    todo = _groups([t for t in trajectories if str(t) not in writer.done], size)
    total, done = len(todo), 0
    progress(done, total)
    failed: InputError | None = None
    pending: dict[Future[xr.Dataset], list[int]] = {}
    while todo or pending:
        while todo and len(pending) < at_once:
            members = todo.pop(0)
            pending[pool.submit(source.simulate, members)] = members
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            members = pending.pop(future)
            try:
                part = future.result()
            except InputError as error:
                failed = failed or error
                todo.clear()
                continue
            values = {str(n): np.asarray(v.values) for n, v in part.data_vars.items()}
            first, *others = map(str, members)
            writer.write(first, values, {TRAJECTORY: slice(members[0], members[-1] + 1)})
            writer.note(*others)
            done += 1
            progress(done, total)
    if failed is None:
        return
    kept = sum(str(t) in writer.done for t in trajectories)
    if not kept:
        raise failed
    raise InputError(
        f"{failed}. {kept} of {len(trajectories)} trajectories are complete and kept in {writer.partial}: the "
        "same build goes on with the others, one with other parameters begins anew"
    ) from failed


def describe(template: xr.Dataset, recipe: Recipe) -> xr.Dataset:
    """The template with the recipe's provenance, its declared units compared.

    Raises:
        InputError: the source makes other variables or units than the recipe declares.
    """
    for name, declared in recipe.variables.items():
        if name not in template.data_vars:
            raise InputError(f"recipe {recipe.name} declares '{name}', the source makes {list(template.data_vars)}")
        found = template[name].attrs.get("units")
        if found != declared["units"]:
            raise InputError(
                f"recipe {recipe.name} declares '{name}' in '{declared['units']}', the source in '{found}'"
            )
    return template.assign_attrs(
        title=template.attrs.get("title", recipe.title),
        licence=recipe.licence,
        citation=recipe.citation,
        workbench_recipe=recipe.name,
        workbench_preset=recipe.preset,
        workbench_arguments=yaml.safe_dump(recipe.arguments, sort_keys=True),
        workbench_version=__version__,
        workbench_python=platform.python_version(),
    )
