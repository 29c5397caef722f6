"""workbench dataset: build, list, inspect and verify datasets; no torch unless a solver needs it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from workbench.errors import InputError

HELP = """
  workbench dataset list                            recipes, presets, and which of them are built
  workbench dataset build kolmogorov_flow/tiny      run the solver (stopped builds go on)
  workbench dataset info kolmogorov_flow/tiny       variables, grid, time step, chunks, provenance (or any path)
  workbench dataset verify kolmogorov_flow/tiny     decode every chunk and compare its checksum
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = argparse.ArgumentParser(
        prog="workbench dataset",
        description="Build, list, inspect and verify datasets.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="run a recipe")
    building.add_argument("name", help="RECIPE/PRESET")
    building.add_argument("--overwrite", action="store_true", help="build again and replace the store")
    building.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="groups computed at once")
    building.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a parameter")
    actions.add_parser("list", help="recipes and presets")
    for action, text in (("info", "what a record holds"), ("verify", "decode and check every chunk")):
        actions.add_parser(action, help=text).add_argument("name", help="RECIPE/PRESET, path or address")
    options = parser.parse_args(argv)
    if options.action == "build":
        return _build(options)
    if options.action == "list":
        return _list()
    return _info(options.name) if options.action == "info" else _verify(options.name)


def _build(options: argparse.Namespace) -> int:
    import yaml

    from workbench.data.recipe import build, read_recipe
    from workbench.data.store import refuse_existing
    from workbench.progress import bar

    overrides = dict(item.partition("=")[::2] for item in options.set)
    recipe = read_recipe(options.name, {k: yaml.safe_load(v) for k, v in overrides.items()})
    refuse_existing(recipe.path, options.overwrite)
    with bar(f"{recipe.name}/{recipe.preset}") as progress:
        path = build(recipe, overwrite=options.overwrite, workers=options.workers, progress=progress)
    print(f"built {path}")
    return _info(str(path))


def _list() -> int:
    from workbench.data.recipe import read_recipe, recipe_names

    for name, presets in recipe_names().items():
        print(f"{name}: {read_recipe(f'{name}/{presets[0]}').title}")
        for preset in presets:
            path = read_recipe(f"{name}/{preset}").path
            print(f"  {name}/{preset:<10} {'built: ' + str(path) if path.exists() else 'not built'}")
    return 0


def _info(name: str) -> int:
    from workbench.data.spec import TIME, segments, time_step
    from workbench.data.store import open_record

    record = open_record(name)
    print(f"{record.encoding['source']}: {record.attrs.get('title', 'no title')}")
    print("  " + ", ".join(f"{dim} {size}" for dim, size in record.sizes.items()) + f", {record.nbytes / 1e6:,.1f} MB")
    if TIME in record.dims:
        step, units, _ = time_step(record)
        runs = segments(record, "split")
        gaps = f", {len(runs) - 1} gaps" if len(runs) > 1 else ""
        first, last = (str(record.time.values[i])[:19] for i in (0, -1))
        print(f"  time {first} .. {last}, step {step:g} {units}{gaps}")
    for variable, array in record.data_vars.items():
        chunks = " x ".join(str(c[0]) for c in array.chunks) if array.chunks else "none"
        print(
            f"  {variable} [{array.attrs.get('units', 'no units')}] {array.attrs.get('long_name', '')} "
            f"({', '.join(map(str, array.dims))}), chunks {chunks}"
        )
    for key, value in record.attrs.items():
        if key not in ("title", "citation"):
            print(f"  {key}: {' '.join(str(value).split())[:110]}")
    return 0


def _verify(name: str) -> int:
    from workbench.data.store import damaged_chunks, is_zarr, locate

    path = locate(name)
    if not is_zarr(path) or not Path(path).is_dir():
        raise InputError(f"{path} is not a local Zarr store: only its chunks carry checksums")
    found = list(damaged_chunks(path, threads=os.cpu_count() or 1))
    for line in found:
        print(line)
    print(f"{path}: {len(found)} damaged chunks" if found else f"{path}: every chunk decodes and matches its checksum")
    return 1 if found else 0
