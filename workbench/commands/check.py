"""workbench check: look at an experiment without training it, and say how to repair what is found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench import experiment as experiments
from workbench.data.config import DataConfig
from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeExperiment, either

HELP = """
Opens the record, compares names, units, grid and time step with what model and task need, looks for windows that
cross splits, statistics from outside the training split, wasteful chunks, missing values; estimates memory and time;
runs one batch. Every finding ends in the line or command that repairs it. Exit status 1 if there is an error.

  workbench check -c kolmogorov/fno
"""
WASTE = 4.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``error`` stops a training, ``warning`` costs, ``ok`` is as it should be.
        what: what was found.
        repair: the line or command that repairs it; empty where nothing needs repair.
    """

    level: Literal["error", "warning", "ok"]
    what: str
    repair: str = ""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("check", "Look at an experiment without training it.", HELP)
    parser.add_argument("--json", action="store_true", help="print findings as one JSON list")
    parser.add_argument("--no-batch", action="store_true", help="data only: do not build the model (no torch)")
    options, rest = parser.parse_known_args(argv)
    experiment = either(options.config, rest, options.run_dir)
    findings = []
    for finding in check(experiment, batch=not options.no_batch):
        findings.append(finding)
        if not options.json:
            repair = f"\n           -> {finding.repair}" if finding.repair else ""
            print(f"{finding.level:>8}  {finding.what}{repair}", flush=True)
    if options.json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    return int(any(f.level == "error" for f in findings))


def check(experiment: experiments.Experiment | LifetimeExperiment, batch: bool = True) -> Iterator[Finding]:
    """Findings on an experiment of either kind; an error ends the look."""
    if isinstance(experiment, LifetimeExperiment):
        return check_lifetimes(experiment, batch)
    return check_record(experiment, batch)


def check_record(experiment: experiments.Experiment, batch: bool = True) -> Iterator[Finding]:
    """Findings on an experiment, cheap ones first; an error ends the look."""
    from workbench.data.preflight import look

    try:
        seen = look(experiment.data)
    except InputError as error:
        what, _, repair = str(error).rpartition("; ")
        yield Finding("error", what or repair, repair if what else "")
        return
    size = ", ".join(f"{dim} {n}" for dim, n in seen.dataset.sizes.items())
    yield Finding("ok", f"record {seen.dataset.encoding['source']}: {size}, {seen.dataset.nbytes / 1e6:,.0f} MB")
    for variable in seen.spec.variables:
        yield Finding("ok", f"{variable.name} [{variable.units}] on {variable.dims}")
    for name, part in seen.parts.items():
        yield Finding("ok", f"{name}: {len(seen.windows[name]):,} windows, {part.label(seen.dataset)}")
    yield _gap(experiment.data, seen.parts)
    yield from _chunks(experiment.data, seen)
    try:
        from workbench.data.starts import choose_starts

        rollout = experiment.rollout
        _, starts = choose_starts(
            seen.parts[rollout.split],
            experiment.data.history,
            experiment.data.stride,
            experiment.data.reach(rollout.steps) if rollout.within else 0,
            rollout.starts,
        )
        yield Finding(
            "ok", f"rollout: {len(starts)} starts per trajectory, {rollout.steps} steps, {rollout.members} members"
        )
    except InputError as error:
        what, _, repair = str(error).rpartition("; ")
        yield Finding("error", what, repair)
    if batch:
        yield from _one_batch(experiment)


def _gap(config: DataConfig, parts: Any) -> Finding:
    """Splits by time whose windows lie closer than a window's span leak through autocorrelation."""
    if config.split.by != "time":
        return Finding("ok", f"splits by {config.split.by} share nothing")
    between = parts["validation"].runs[0][0] - parts["train"].runs[-1][1]
    if 0 <= between < config.history * config.stride:
        return Finding(
            "warning",
            f"the validation split starts {between} steps after training ends: neighbours are nearly equal",
            f"data.split.gap: {max(10, config.history * config.stride)}",
        )
    return Finding("ok", f"{between} steps between training and validation")


def _chunks(config: DataConfig, seen: Any) -> Iterator[Finding]:
    """Bytes that one window must read against bytes that it uses."""
    span, states = seen.windows["train"].span, config.history + config.horizon
    used = read = 0.0
    for name in config.variables():
        array = seen.dataset[name]
        stored = array.encoding.get("chunks") or array.encoding.get("chunksizes")
        if "time" not in array.dims or not stored:
            continue
        per_step = array.nbytes / array.sizes["time"] / array.sizes.get("trajectory", 1)
        chunk = dict(zip(array.dims, stored, strict=True))
        crossed = (span - 2) // chunk["time"] + 2 if span > 1 else 1
        touched = min(crossed, states, -(-array.sizes["time"] // chunk["time"]))
        read += per_step * chunk["time"] * touched * chunk.get("trajectory", 1)
        used += per_step * states
    if not used:
        return
    ratio = read / used
    text = f"a random window reads {read / 1e6:.3g} MB to use {used / 1e6:.3g} MB (x{ratio:.1f})"
    if seen.dataset.nbytes <= config.cache * 2**20:
        yield Finding("ok", text + "; the record fits into the cache, so each chunk is read once")
    elif ratio > WASTE:
        yield Finding(
            "warning", text + ": chunks hold many steps", "data.shuffle: block, or rechunk to one step a chunk"
        )
    else:
        yield Finding("ok", text)


def check_lifetimes(experiment: LifetimeExperiment, batch: bool = True) -> Iterator[Finding]:
    """Findings on an experiment on the life of cells; an error ends the look."""
    from collections import Counter

    from workbench.data.cell_curves import open_cells
    from workbench.data.cell_parts import batch_folds, censored_note

    config = experiment.data
    try:
        cells = open_cells(config)
    except InputError as error:
        what, _, repair = str(error).rpartition("; ")
        yield Finding("error", what or repair, repair if what else "")
        return
    counts = Counter(cells["part"].values.tolist())
    yield Finding(
        "ok", f"record {cells.encoding['source']}: {', '.join(f'{n} {c}' for n, c in sorted(counts.items()))}"
    )
    for name in config.variables:
        attrs, dims = cells[name].attrs, cells[name].sizes
        yield Finding("ok", f"{name} [{attrs['units']}]: {', '.join(f'{d} {n}' for d, n in dims.items())}")
    first, last = config.first_cycle, config.cycles
    yield Finding("ok", f"cycles {first} to {last}, changes since cycle {config.reference_cycle}")
    if note := censored_note(cells):
        yield Finding("ok", note)
    if config.leaky:
        yield Finding(
            "warning", "windows of one cell lie in training and test: errors say nothing of new cells",
            "data.split: severson, policy or cell",
        )  # fmt: skip
    else:
        batches = batch_folds(cells)
        whole = f"{config.folds} folds of whole policies" + (f", {batches} of whole batches" if batches else "")
        yield Finding("ok", f"{whole}; no cell lies in two parts")
    if batch:
        yield from _one_batch(experiment)


def _fitted_on(data: Any) -> str:
    """What the statistics of a data module were computed on."""
    if hasattr(data, "statistics"):
        return str(data.statistics.period) if data.statistics else ""
    return f"{data.packing.training} cells"


def _one_batch(experiment: experiments.Experiment | LifetimeExperiment) -> Iterator[Finding]:
    """Build the model, run one training batch, measure time and memory."""
    import torch

    from workbench.commands.rollout import class_paths
    from workbench.data.cell_module import CellDataModule
    from workbench.data.module import RecordDataModule
    from workbench.weights import rebuild

    kind = CellDataModule if isinstance(experiment, LifetimeExperiment) else RecordDataModule
    data: Any = kind(**{k: getattr(experiment.data, k) for k in experiment.data.__dataclass_fields__})
    try:
        data.prepare_data()
        data.setup()
        task = rebuild(
            experiment.config["model"], class_paths(experiment.config), f"the files of {experiment.name}"
        ).build(data.packing)
    except KeyError:
        yield Finding(
            "error", "the experiment has no model section", "model: {class_path: ForecastTask, init_args: ...}"
        )
        return
    except InputError as error:
        yield Finding("error", str(error))
        return
    yield Finding("ok", f"statistics from the train split only: {_fitted_on(data)}")
    parameters = sum(p.numel() for p in task.parameters())
    batch = next(iter(data.train_dataloader()))
    saved = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    clock = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        loss = task.sample_losses(batch, training=True).mean()
    loss.backward()
    seconds = time.perf_counter() - clock
    if not torch.isfinite(loss):
        yield Finding("error", f"the loss of the first batch is {loss.item()}", "data.normalise: standard")
        return
    steps = len(data.train_dataloader())
    epochs = int((experiment.config.get("trainer") or {}).get("max_epochs") or 1)
    memory = 16 * parameters + saved
    yield Finding("ok", f"model: {parameters:,} parameters; first loss {loss.item():.4g}")
    yield Finding(
        "ok", f"memory of a training step: about {memory / 1e9:.2f} GB (weights, gradients, Adam, activations)"
    )
    yield Finding(
        "ok",
        f"one batch of {len(batch['index'])} took {seconds:.2f} s here: {steps:,} steps an epoch, about "
        f"{seconds * steps * epochs / 60:.1f} minutes for {epochs} epochs",
    )
