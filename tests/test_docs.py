"""What the documentation says works: its commands, links, experiments and code."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from workbench import cli, experiment
from workbench.data import recipe
from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.lifetime_experiment import LIFETIME_SECTIONS, either
from workbench.metrics import METRICS
from workbench.resources import experiment_names
from workbench.share import Share

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = sorted([*ROOT.glob("*.md"), *(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)])
FENCE = re.compile(r"^(`{3,})(.*?)\n(.*?)^\1\s*$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages."""
    return [body for _, language, body in FENCE.findall(page.read_text()) if language.strip() in languages]


def commands(text: str) -> list[list[str]]:
    """The words after ``workbench`` in every line that calls it, comments and environment left out."""
    lines = (
        shlex.split(line, comments=True) for line in text.splitlines() if re.match(r"\s*(\w+=\S+ )?workbench ", line)
    )
    return [words[words.index("workbench") + 1 :] for words in lines]


def help_text(verb: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.verb(verb)(["--help"])
    return out.getvalue().partition("options:")[2]


def documented() -> list:
    found = {}
    for page in PAGES:
        for block in blocks(page, "sh", "text", "{code-cell} ipython3"):
            found |= {tuple(words): page.name for words in commands(block)}
    for verb in cli.VERBS:
        examples = "\n".join(re.sub(r"   +\S.*", "", line.strip()) for line in help_text(verb).splitlines())
        found |= {tuple(words): f"{verb} --help" for words in commands(examples)}
    return [pytest.param(list(words), id=f"{where}: {' '.join(words)}") for words, where in found.items()]


class Reached(Exception):
    """Carries the parser that a verb made."""


def parser_of(verb: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def reached(self, *_):
        raise Reached(self)

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", reached)
        with pytest.raises(Reached) as found:
            cli.verb(verb)([])
    return found.value.args[0]


@pytest.mark.parametrize("words", documented())
def test_documented_commands_exist(words, monkeypatch):
    if words[0].startswith("-"):
        assert cli.main(words) == 0
        return
    options, rest = parser_of(words[0], monkeypatch).parse_known_args(words[1:])
    assert not rest or words[0] != "dataset"
    config = {}
    for key, value in experiment.parse_overrides([w for w in rest if not w.startswith("--print_config")]):
        config = experiment.merge(config, experiment.nest(key, value))
    names = getattr(options, "config", None) or []
    lifetimes = any(name.startswith("battery/") for name in names)
    experiment.check_keys(config, LIFETIME_SECTIONS if lifetimes else experiment.SECTIONS)
    for name in names:
        assert name.endswith(".yaml") or name in experiment_names(), name


def test_every_verb_is_documented():
    readme, reference = (ROOT / "README.md").read_text(), (DOCS / "reference.md").read_text()
    for verb in cli.VERBS:
        assert f"`{verb}`" in readme, verb
        assert re.search(rf"^#+ .*\b{verb}\b", reference, re.MULTILINE), verb


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_internal_links_resolve(page):
    text = FENCE.sub("", page.read_text())
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    targets += [f"{t}.md" for t in re.findall(r"\{doc\}`([^`]+)`", text)]
    targets += re.findall(r"\{literalinclude\} (\S+)", page.read_text())
    for target in filter(None, targets):
        there = page.parent / target
        assert there.exists() or there.with_suffix(".ipynb").exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_blocks_compile_and_experiments_load(page, tmp_path):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
    for number, block in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        if "model" in yaml.safe_load(block):
            either([str(file)])


@pytest.mark.parametrize(
    ("notebook", "packaged", "kept"),
    [
        ("analyse_a_rollout", "kolmogorov/fno", {"loss": "RelativeL2"}),
        ("a_surrogate_of_vibrating_structures", "structures/beam_2d", {"target": "increment", "loads": "both"}),
    ],
)
def test_notebooks_lay_their_file_over_a_packaged_experiment(notebook, packaged, kept, tmp_path):
    cells = blocks(DOCS / "notebooks" / f"{notebook}.md", "{code-cell} ipython3")
    first, _, written = next(cell for cell in cells if cell.startswith("%%writefile")).partition("\n")
    file = tmp_path / first.split()[1]
    file.write_text(written)
    found = experiment.load([packaged, str(file)])
    assert found.rollout.steps == yaml.safe_load(written)["rollout"]["steps"]
    assert kept.items() <= found.config["model"]["init_args"].items()


def test_the_tutorials_network_takes_the_place_of_the_packaged_one():
    found = experiment.load(["channel/ifactformer_m_mfu", str(EXAMPLES / "channel_unet.yaml")])
    arguments = found.config["model"]["init_args"]
    assert arguments["network"]["class_path"] == "UNet" and "dim" not in arguments["network"]["init_args"]
    assert found.evaluate.long_run.domain == "channel" and arguments["optimisation"]


def test_the_network_of_the_tutorial_on_structures_takes_the_place_of_the_packaged_one():
    found = experiment.load(["structures/beam_2d", str(EXAMPLES / "markov.yaml")])
    network = found.config["model"]["init_args"]["network"]
    assert network == {"class_path": "markov.Markov", "init_args": {"width": 32, "layers": 3}}


def test_the_experiment_on_notched_beams_fits_their_record():
    found = experiment.load([str(EXAMPLES / "beam_notched.yaml")])
    record = recipe.read_recipe(found.data.record).source().template()
    assert set(found.data.variables()) <= set(record.data_vars)
    assert max(found.data.split.test) == record.sizes["trajectory"] and found.rollout.steps + 1 == record.sizes["time"]


def test_a_network_of_your_own_for_nodes_and_elements_steps_as_a_rollout_does(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    network = importlib.import_module("markov").Markov(4 + 2 + 1, (4, 1), (5, 4), width=6).eval()
    rng = torch.Generator().manual_seed(0)
    states, forcing, static = (torch.randn(3, *sizes, 5, 4, generator=rng) for sizes in ((1, 4), (6, 2), (1,)))
    fixed = torch.zeros(3, 4, 5, 4, dtype=torch.bool)
    fixed[..., 0] = True
    given = {"static": static, "fixed": fixed, "scale": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    whole, state = network(states, forcing, **given), states
    for t in range(6):
        step = network(state, forcing[:, t : t + 1], **given)
        torch.testing.assert_close((step.nodes[:, 0], step.elements[:, 0]), (whole.nodes[:, t], whole.elements[:, t]))
        state = torch.where(fixed[:, None], states, step.nodes)
    assert whole.elements.shape == (3, 6, 1, 4, 3) and whole.memory.shape == (3, 0, 5, 4)
    with pytest.raises(InputError, match="segment: 0 only"):
        network(states, forcing, **given, segment=2)


@pytest.fixture(scope="module")
def lake(server, tmp_path_factory) -> Path:
    """The how-tos followed: your own record, and your own network on it."""
    folder = tmp_path_factory.mktemp("lake")
    for file in ("lake.py", "lake.yaml", "dilated.py", "dilated.yaml"):
        shutil.copy(EXAMPLES / file, folder)
    subprocess.run([sys.executable, "lake.py"], cwd=folder, check=True)
    words = ("pipeline", "-c", "lake.yaml", "-c", "dilated.yaml", "--trainer.max_epochs=2")
    (status,), (out,), _ = server.run(folder, *words, WORKBENCH_DATA=str(folder / "data"))
    assert status == 0, out
    return folder


def test_a_network_of_your_own_learns_your_own_record(lake):
    with xr.open_dataset(lake / "runs/lake/scores.nc", decode_timedelta=True) as scores:
        rmse = scores.score.sel(metric="rmse", variable="height").isel(lead_time=0)
        assert float(rmse.sel(forecast="model")) < float(rmse.sel(forecast="persistence"))
    config = yaml.safe_load((lake / "runs/lake/config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["class_path"] == "dilated.DilatedResNet"


def test_conventions_name_what_a_run_holds(lake):
    """Both ways: what is there is described, and what is described is there."""
    page = (DOCS / "conventions.md").read_text()
    files = first_column(page, "Run directory")
    there = {p.name for p in (lake / "runs/lake").iterdir() if not p.name.startswith(".")}
    assert there <= files, there - files
    by_other_verbs = {"rollout.nc", "predict.zarr", "baselines.nc", "model.safetensors", "speedup.nc", "launch"}
    assert files - there - {"checkpoints/best.ckpt", "last.ckpt"} <= by_other_verbs, files - there
    with xr.open_dataset(lake / "runs/lake/scores.nc", decode_timedelta=True) as scores:
        variables = set(map(str, scores.data_vars))
    described = first_column(page, "Scores")
    described |= {f"decorrelation_lead{name}" for name in described if name.startswith("_")}
    described = {name for name in described if not name.startswith("_")}
    assert described == variables


def first_column(page: str, section: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading."""
    body = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)} | (
        {"checkpoints"} if section == "Run directory" else set()
    )


def test_a_recipe_of_your_own_builds(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(recipe, "folder", lambda name: EXAMPLES / name)
    record = open_record(str(recipe.build(recipe.read_recipe("heated_rod/tiny"), group=3)))
    wave = np.abs(np.fft.rfft(record.temperature.values, axis=-1))[..., 1]
    exact = np.exp(-1e-4 * (2 * np.pi) ** 2 * record.time.values)
    np.testing.assert_allclose(wave, wave[:, :1] * exact, rtol=1e-5)
    assert record.attrs["citation"].startswith("@book{crank1975")


def test_jobs_build_shares_of_a_recipe(tmp_path, monkeypatch):
    """No file of two shares, however the trajectories lie in chunks; on workers of dask as on threads."""
    import distributed

    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(recipe, "folder", lambda name: EXAMPLES / name)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "whole"))
    rods = recipe.read_recipe("heated_rod/tiny", {"trajectories": 7})
    whole = open_record(str(recipe.build(rods)))
    for chunk in (1, 3):
        monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / f"shares{chunk}"))
        rods = dataclasses.replace(rods, chunks={"trajectory": chunk})
        for number in (2, 1):
            recipe.build(rods, share=Share(number, 3))
        with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
            path = recipe.build(rods)
        np.testing.assert_array_equal(open_record(str(path)).temperature, whole.temperature)


def test_a_metric_of_your_own_is_right(monkeypatch):
    metric = runpy.run_path(str(EXAMPLES / "std_ratio.py"))["STD_RATIO"]
    assert metric.name not in METRICS
    monkeypatch.setitem(METRICS, metric.name, metric)
    tests = runpy.run_path(str(EXAMPLES / "std_ratio_tests.py"))
    ran = [function() for name, function in tests.items() if name.startswith("test_")]
    assert len(ran) == 2


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GOMP_SPINCOUNT": "100"})
    assert done.returncode == 0, done.stdout + done.stderr
