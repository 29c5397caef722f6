"""workbench dataset: build, list, inspect, rechunk and verify datasets; no torch unless a solver needs it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from workbench.errors import InputError
from workbench.launch.dask import add_option, cluster
from workbench.share import Share

HELP = """
  workbench dataset list                            recipes, presets, and which of them are built
  workbench dataset build kolmogorov_flow/tiny      run the solver (stopped builds go on)
  workbench dataset info kolmogorov_flow/tiny       variables, grid, time step, chunks, provenance (or any path)
  workbench dataset verify kolmogorov_flow/tiny     compare every file with its checksum
  workbench dataset statistics -c kolmogorov/fno    mean, deviation, tendency, quantiles of the training split
  workbench dataset climatology -c slp.yaml         mean by day of the year and hour, and its anomalies' variance
  workbench dataset rechunk slp.nc slp.zarr         copy into the layout that training reads fastest

climatology is that of data.state over the training split, or with --years over some of its years (then -o says where):
a 61-day window with quadratic weights. Without -o it lies beside the record, where data.climatology: fit finds it.

rechunk takes any record: a Zarr store, a NetCDF file, a glob, an address. It reads and writes region by region and
never takes more than --memory. Stopped at any moment, the same command goes on. What was written is compared with what
was read. By default a chunk is one time step of one trajectory, fields whole (steps below 16 KiB are put together,
fields above 128 MiB are cut), and as many chunks of consecutive steps share a file as make 64 MiB, 1024 at most.
--shards counts chunks per file. Packed integers become float32, everything else stays as it is to the last bit.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = argparse.ArgumentParser(
        prog="workbench dataset",
        description="Build, list, inspect, rechunk and verify datasets.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="run a recipe")
    building.add_argument("name", help="RECIPE/PRESET")
    building.add_argument("--overwrite", action="store_true", help="build again and replace the store")
    building.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="groups computed at once")
    building.add_argument(
        "--share", type=Share.parse, metavar="NUMBER/COUNT", help="build a share; a build without --share finishes it"
    )
    add_option(building)
    building.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a parameter")
    actions.add_parser("list", help="recipes and presets")
    for action, text in (("info", "what a record holds"), ("verify", "decode and check every chunk")):
        actions.add_parser(action, help=text).add_argument("name", help="RECIPE/PRESET, path or address")
    _add_rechunk(actions)
    summary = actions.add_parser("statistics", help="of the training split of an experiment", allow_abbrev=False)
    summary.add_argument("-c", "--config", action="append", default=[], metavar="EXPERIMENT", help="name or YAML file")
    add_option(summary)
    means = actions.add_parser("climatology", help="of the training split of an experiment", allow_abbrev=False)
    means.add_argument("-c", "--config", action="append", default=[], metavar="EXPERIMENT", help="name or YAML file")
    means.add_argument("-o", "--output", metavar="STORE", help="the new Zarr store (default: beside the record)")
    means.add_argument("--years", nargs=2, type=int, metavar=("FIRST", "LAST"), help="of the training split, inclusive")
    means.add_argument("--overwrite", action="store_true", help="replace an existing store")
    add_option(means)
    options, rest = parser.parse_known_args(argv)
    if options.action == "climatology":
        return _climatology(options, rest)
    if options.action == "statistics":
        return _statistics(options, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.action == "rechunk":
        return _rechunk(options)
    if options.action == "build":
        return _build(options)
    if options.action == "list":
        return _list()
    return _info(options.name) if options.action == "info" else _verify(options.name)


def _add_rechunk(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    copying = actions.add_parser("rechunk", help="copy a record into another layout")
    copying.add_argument("source", help="RECIPE/PRESET, path, glob or address")
    copying.add_argument("target", help="the new Zarr store")
    copying.add_argument("--chunks", default="", metavar="DIM=N,...", help="sizes, -1 for the whole (default time=1)")
    copying.add_argument("--shards", default="", metavar="DIM=N,...", help="chunks per file (default: 64 MiB files)")
    copying.add_argument("--variables", nargs="+", default=[], metavar="NAME", help="copy these only")
    copying.add_argument("--memory", default="1GB", metavar="SIZE", help="most that a process takes (default 1GB)")
    copying.add_argument("--overwrite", action="store_true", help="replace an existing target")
    add_option(copying)


def _build(options: argparse.Namespace) -> int:
    import yaml

    from workbench.data.recipe import build, read_recipe
    from workbench.data.store import refuse_existing
    from workbench.progress import bar

    overrides = dict(item.partition("=")[::2] for item in options.set)
    recipe = read_recipe(options.name, {k: yaml.safe_load(v) for k, v in overrides.items()})
    refuse_existing(recipe.path, options.overwrite)
    share = options.share
    with cluster(options.dask), bar(f"{recipe.name}/{recipe.preset}") as progress:
        path = build(recipe, overwrite=options.overwrite, workers=options.workers, progress=progress, share=share)
    if share:
        print(f"built share {share} of {path}")
        return 0
    print(f"built {path}")
    return _info(str(path))


def _rechunk(options: argparse.Namespace) -> int:
    from dask.utils import parse_bytes

    from workbench.data.rechunk import rechunk
    from workbench.progress import bar

    try:
        memory = parse_bytes(options.memory)
    except ValueError as error:
        raise InputError(f"--memory is '{options.memory}': expected a size such as 800MB or 4GB") from error
    chunks, shards = _sizes(options.chunks, "--chunks"), _sizes(options.shards, "--shards")
    names = [name for word in options.variables for name in word.split(",") if name]
    with cluster(options.dask), bar(f"rechunk {Path(options.target).name}") as progress:
        path = rechunk(
            options.source,
            options.target,
            chunks=chunks,
            shards=shards,
            variables=names,
            memory=memory,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(f"wrote {path}")
    return _info(str(path))


def _sizes(text: str, option: str) -> dict[str, int]:
    """``time=1,lat=-1`` as a mapping."""
    sizes = {}
    for item in filter(None, text.split(",")):
        dim, _, size = item.partition("=")
        try:
            sizes[dim.strip()] = int(size)
        except ValueError as error:
            raise InputError(f"{option} has '{item}': expected DIMENSION=NUMBER, such as time=1,lat=-1") from error
    return sizes


def _statistics(options: argparse.Namespace, overrides: list[str]) -> int:
    from workbench import experiment as experiments
    from workbench.data.statistics import statistics_path, table, training_statistics
    from workbench.data.store import open_data
    from workbench.data.windows import parts

    config = experiments.load(options.config, overrides).data
    record = open_data(config)
    train = parts(record, config)["train"]
    with cluster(options.dask):
        found = training_statistics(record, config, train, progress=True)
    print(f"{record.encoding['source']}: training split, {found.period}\n")
    print(table(found, {name: str(record[name].attrs.get("units", "")) for name in found.variables}))
    print(f"\nkept in {statistics_path(record, found.key)}")
    return 0


def _climatology(options: argparse.Namespace, overrides: list[str]) -> int:
    from workbench import experiment as experiments
    from workbench.data.climatology_store import climatology_path, write_climatology
    from workbench.data.store import open_data, refuse_existing
    from workbench.data.windows import parts
    from workbench.progress import bar

    if options.years and not options.output:
        raise InputError(
            "--years makes a climatology of its own: say where with -o STORE, then data.climatology: STORE"
        )
    config = experiments.load(options.config, overrides).data
    record = open_data(config)
    train = parts(record, config)["train"]
    if options.years:
        train = train.in_years(record, *options.years)
    path = Path(options.output) if options.output else climatology_path(record, config, train)
    refuse_existing(path, options.overwrite)
    with cluster(options.dask), bar("climatology") as progress:
        write_climatology(
            record,
            config.state,
            train,
            path,
            missing=config.missing,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(f"{record.encoding['source']}: climatology of {train.label(record)}\nwrote {path}")
    return 0


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
    from workbench.data.store import open_record, stored_chunks

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
        chunks = " x ".join(map(str, stored_chunks(array).values())) if array.chunks else "none"
        print(
            f"  {variable} [{array.attrs.get('units', 'no units')}] {array.attrs.get('long_name', '')} "
            f"({', '.join(map(str, array.dims))}), chunks {chunks}"
        )
    for key, value in record.attrs.items():
        if key not in ("title", "citation"):
            print(f"  {key}: {' '.join(str(value).split())[:110]}")
    return 0


def _verify(name: str) -> int:
    from workbench.data.integrity import faults
    from workbench.data.store import is_zarr, locate

    path = locate(name)
    if not is_zarr(path) or not Path(path).is_dir():
        raise InputError(f"{path} is not a local Zarr store: only its chunks carry checksums")
    found = list(faults(path, threads=os.cpu_count() or 1))
    for line in found:
        print(line)
    print(f"{path}: {len(found)} faults" if found else f"{path}: as it was written")
    return 1 if found else 0
