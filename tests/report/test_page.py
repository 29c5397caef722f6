"""The whole page: every part present or left out with a hint, self-contained, small, escaped, the same every time."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from workbench.errors import InputError
from workbench.report import main
from workbench.report.html import VOID
from workbench.report.page import write_report

pytestmark = pytest.mark.long

ANCHORS = [
    "forecast", "scores", "growth", "last-lead", "spectra", "drift", "training", "data", "configuration",
    "environment", "references",
]  # fmt: skip
HOSTILE = "<script>alert(1)</script> \"quoted\" & $x_1$ 'y' \\frac{"


class Page(HTMLParser):
    """Checks that every tag is closed in order, and collects what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.sections: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        named = dict(attrs)
        assert len(named) == len(attrs), f"an attribute of <{tag}> is given twice"
        assert not [name for name in named if name.startswith("on")], "event attributes are not written"
        self.links += [named[k] for k in ("src", "href", "data", "poster", "srcset", "action") if k in named]
        self.ids += [named["id"]] if "id" in named else []
        self.scripts += tag == "script"
        if tag == "section":
            self.sections[named["id"]] = ""

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if "section" in self.open:
            last = list(self.sections)[-1]
            self.sections[last] += data


def read(page: Path) -> tuple[str, Page]:
    text = page.read_text(encoding="utf-8")
    return text, Page(text)


def check_self_contained(text: str, page: Page) -> None:
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert set(link[1:] for link in page.links if link.startswith("#")) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert page.scripts == 1
    assert len(text.encode()) < 5_000_000


def test_whole_run_has_every_section_and_stands_alone(whole_run):
    text, parsed = read(whole_run.run_dir / "report.html")
    check_self_contained(text, parsed)
    assert list(parsed.sections) == ANCHORS
    assert 'class="absent"' not in re.sub(r"<noscript>.*?</noscript>", "", text)
    assert "Beats its baselines" in text and "beats persistence to step 12" in text
    for figure in ("1.19\u202fM", "12.3\u202fms", "Waves", "pushforward", "brandstetter2022message", "CC0-1.0"):
        assert figure in text
    assert text.count("<canvas") == 3


def test_figures_are_written_as_png_and_svg(whole_run):
    files = sorted(p.name for p in (whole_run.run_dir / "figures").iterdir())
    stems = {Path(name).stem for name in files}
    assert files == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
    assert {"error_growth_rmse_vorticity", "comparison_vorticity", "variance_vorticity", "training_loss"} <= stems
    assert not list(whole_run.run_dir.glob(".*partial*"))


FORECAST_HINT, SCORES_HINT, FIT_HINT = "workbench rollout -c", "workbench evaluate -c", "workbench fit -c"


@pytest.mark.parametrize(
    ("parts", "hints"),
    [
        (("forecast",), {**dict.fromkeys(("scores", "growth", "spectra", "drift"), SCORES_HINT), "training": FIT_HINT}),
        (("scores", "training"), {"forecast": FORECAST_HINT, "last-lead": FORECAST_HINT, "spectra": SCORES_HINT}),
        (("training",), {"forecast": FORECAST_HINT, "scores": SCORES_HINT}),
    ],
    ids=["-".join(p) for p in (("forecast",), ("scores", "training"), ("training",))],
)
def test_missing_part_is_left_out_with_the_command_that_makes_it(make_run, parts, hints):
    text, parsed = read(write_report(make_run(parts=parts)))
    check_self_contained(text, parsed)
    absent = set(re.findall(r'<section id="([^"]+)"><h2>[^<]*</h2><p class="absent">', text))
    always = {"configuration", "environment", "references"}
    shown = {"forecast": {"forecast", "last-lead"}, "scores": {"scores", "growth", "drift"}, "training": {"training"}}
    assert absent == set(ANCHORS) - always - set().union(*(shown[part] for part in parts))
    assert all(hint in parsed.sections[anchor] for anchor, hint in {**hints, "data": FIT_HINT}.items())


def test_missing_spectra_name_the_dimensions_of_the_record(make_run):
    _, parsed = read(write_report(make_run(parts=("forecast",))))
    assert "evaluate: {spectra: [y, x]}" in parsed.sections["spectra"]


def test_resolved_configuration_is_left_out_where_there_is_none(make_run):
    _, parsed = read(write_report(make_run(parts=("training",))))
    assert "an experiment on waves" not in parsed.sections["configuration"]
    assert "resolved configuration is written by" in parsed.sections["configuration"]
    assert "record:" in parsed.sections["configuration"]


def test_scores_without_intervals_say_so(make_run):
    text, parsed = read(write_report(make_run(parts=("scores",))))
    assert "too few starts to resample" in parsed.sections["growth"]
    assert "interval" not in parsed.sections["scores"]
    assert "Beats its baselines" in text


def test_missing_record_leaves_pictures_out(make_run, tmp_path):
    experiment = make_run(parts=("forecast",))
    (tmp_path / "truth.zarr").rename(tmp_path / "moved.zarr")
    _, parsed = read(write_report(experiment))
    assert "No truth to compare with: no record at" in parsed.sections["forecast"]


def test_verdict_against_the_model_is_a_warning_with_its_reason(make_run):
    experiment = make_run(parts=("scores",))
    path = experiment.run_dir / "scores.nc"
    with xr.open_dataset(path, engine="netcdf4") as opened:
        scores = opened.load()
    scores.attrs["verdict"] = "does not beat its baselines: slp is no better than linear at the first step"
    scores.to_netcdf(path)
    text, _ = read(write_report(experiment))
    assert 'class="verdict warn"' in text
    assert "<strong>Does not beat its baselines</strong><p>slp is no better than linear" in text


def test_no_scores_is_no_verdict(make_run):
    text, _ = read(write_report(make_run(parts=("training",))))
    assert 'class="verdict open"' in text and "Not scored yet" in text


def test_hostile_text_is_text(make_run):
    stop = {"member": 0, "position": 0, "init_time": 0.5, "step": 5, "variable": HOSTILE, "index": [0]}
    experiment = make_run(parts=("forecast", "scores", "card"), title=HOSTILE, long_name=HOSTILE, stopped=[stop])
    path = experiment.run_dir / "scores.nc"
    with xr.open_dataset(path, engine="netcdf4") as opened:
        scores = opened.load()
    scores.attrs.update(headline=HOSTILE, verdict=f"beats its baselines: {HOSTILE}", weights=HOSTILE)
    scores.assign_coords(forecast=["model", HOSTILE, "climatology"]).to_netcdf(path)
    (experiment.run_dir / "config.yaml").write_text(f"# {HOSTILE}\nkey: '{HOSTILE}'\n")
    text, parsed = read(write_report(experiment))
    check_self_contained(text, parsed)
    assert "alert(1)" in text and "<script>alert" not in text
    assert HOSTILE in parsed.sections["configuration"]


def test_the_same_run_gives_the_same_bytes(make_run):
    experiment = make_run(parts=("forecast", "training", "card"))

    def everything() -> dict[str, bytes]:
        page = write_report(experiment, overwrite=True)
        files = [page, *sorted((experiment.run_dir / "figures").iterdir())]
        return {file.name: file.read_bytes() for file in files}

    assert everything() == everything()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "plane", "trajectories": 2}, ["trajectory 10, start 0.5\u202fs", "<canvas"]),
        ({"kind": "latlon", "calendar": True}, ["start 2009-01-01 12:00", "lead 6\u202fh, step 1 of 12"]),
        ({"kind": "line"}, ['data-frame="9" visibility="hidden"', "All leads"]),
        ({"kind": "line", "calendar": True}, ["lead time (days)", "lead 3\u202fd, step 12 of 12"]),
        ({"kind": "volume", "trajectories": 2}, ["z = 0.6\u202fm (mid-plane)", "three mid-planes"]),
        ({"kind": "levels"}, ["level = 1000\u202fhPa"]),
        ({"kind": "series"}, ["has no space to take them along", "against lead time: truth and prediction"]),
        ({"kind": "plane", "steps": 1, "inits": 1}, ["lead 0.25\u202fs, step 1 of 1"]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_records_of_every_kind(make_run, options, expected):
    text, parsed = read(write_report(make_run(parts=("forecast",), **options)))
    check_self_contained(text, parsed)
    for words in expected:
        assert words in text
    assert "No truth to compare with" not in text


def test_stopped_forecast_is_marked(make_run):
    stop = {"member": 0, "position": 0, "init_time": "2009-01-01T12:00:00.000000000", "step": 5, "index": [3, 4]}
    stopped = [{**stop, "variable": "vorticity"}]
    experiment = make_run(kind="latlon", calendar=True, stopped=stopped, parts=("forecast", "scores"))
    text, parsed = read(write_report(experiment))
    assert "1 of 5" in text and "[3, 4]" in text
    assert "stopped at step 5" in parsed.sections["forecast"]
    assert "step 5 of 12 — stopped, not finite" in text
    assert "Lead 24\u202fh, the last before the forecast stopped" in parsed.sections["last-lead"]
    assert "a forecast stopped" in parsed.sections["growth"]


def test_animation_follows_the_chosen_start_and_variable(make_run):
    experiment = make_run(
        "--report.start=7", "--report.variable=pressure", trajectories=2, names=("u", "pressure"), parts=("forecast",)
    )
    _, parsed = read(write_report(experiment))
    assert "pressure (s⁻¹), trajectory 11, start 1\u202fs" in parsed.sections["forecast"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--report.start=5", r"report.start is 5, the forecast has 5 starts: choose 0 .. 4"),
        ("--report.variable=slp", r"report.variable is 'slp', the forecast holds vorticity"),
    ],
)
def test_a_choice_that_the_forecast_does_not_have_is_refused(make_run, override, message):
    experiment = make_run(override, parts=("forecast",))
    with pytest.raises(InputError, match=message):
        write_report(experiment)
    assert not (experiment.run_dir / "figures").exists()
    assert not list(experiment.run_dir.glob(".*partial*"))


def test_an_existing_report_is_refused_and_kept_until_the_new_one_is_whole(make_run, tmp_path):
    experiment = make_run(parts=("training",))
    page = write_report(experiment)
    before = page.read_bytes()
    with pytest.raises(InputError, match=r"report\.html exists already; pass --overwrite"):
        write_report(experiment)
    (experiment.run_dir / "data_card.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*data_card\.json"):
        write_report(experiment, overwrite=True)
    assert page.read_bytes() == before and (experiment.run_dir / "figures" / "training_loss.png").exists()
    (experiment.run_dir / "data_card.json").write_text('{"title": "second"}')
    write_report(experiment, overwrite=True)
    assert "second" in page.read_text()


def test_figures_of_an_earlier_report_do_not_stay(make_run):
    experiment = make_run(parts=("training", "card"))
    write_report(experiment)
    (experiment.run_dir / "metrics.csv").write_text("epoch,step,learning_rate\n0,10,0.001\n")
    write_report(experiment, overwrite=True)
    assert sorted(p.name for p in (experiment.run_dir / "figures").iterdir()) == [
        "learning_rate.png",
        "learning_rate.svg",
    ]


def test_a_folder_of_figures_without_a_report_is_not_overwritten(make_run):
    experiment = make_run(parts=("training",))
    (experiment.run_dir / "figures").mkdir()
    with pytest.raises(InputError, match="figures exists already"):
        write_report(experiment)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.nc", b"not netcdf", r"cannot read .*scores\.nc.*workbench evaluate --overwrite"),
        ("metrics.csv", b"", r"cannot read the training log"),
        ("metrics.csv", b"epoch,step,train_loss\n0,1,many\n", r"cannot read the training log"),
        ("data_card.json", b"{", r"cannot read .*data_card\.json"),
        ("data_card.json", b"[1]", r"data_card\.json holds list: expected a JSON object"),
        ("fit.json", b"{", r"cannot read .*fit\.json"),
    ],
)
def test_a_damaged_file_is_named(make_run, name, content, message):
    experiment = make_run(parts=("training",))
    (experiment.run_dir / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        write_report(experiment)


def test_scores_that_are_not_scores_are_refused(make_run):
    experiment = make_run(parts=("training",))
    xr.Dataset({"x": ("t", np.zeros(2))}).to_netcdf(experiment.run_dir / "scores.nc")
    with pytest.raises(InputError, match="expected the variable 'score', found x"):
        write_report(experiment)


def test_no_run_and_an_empty_run_are_refused(make_run, tmp_path):
    experiment = make_run(parts=())
    with pytest.raises(InputError, match=r"nothing to report .* workbench fit -c"):
        write_report(experiment)
    experiment.run_dir.rmdir()
    with pytest.raises(InputError, match="no run at"):
        write_report(experiment)


def test_command_writes_and_says_where(make_run, tmp_path, capsys):
    make_run(parts=("training",))
    words = ["-c", str(tmp_path / "waves.yaml"), "--run-dir", str(tmp_path / "run"), "--report.title=By command"]
    assert main(words) == 0
    assert re.search(r"wrote .*report\.html \(\d\.\d MB\)", capsys.readouterr().out)
    assert "<h1>By command</h1>" in (tmp_path / "run" / "report.html").read_text()


def test_help_teaches_without_heavy_imports():
    code = (
        "import sys\n"
        "from workbench.report import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'matplotlib', 'xarray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "workbench report -c kolmogorov/fno" in done.stdout and "--overwrite" in done.stdout


def test_report_is_free_of_torch():
    code = "import sys, workbench.report.page\nsys.exit('torch' in sys.modules or 'pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_card_with_levels_and_versions(make_run):
    experiment = make_run(parts=("training",))
    card = {
        "variables": [{"name": "u", "units": "m s-1"}, {"name": "p"}],
        "axes": [{"name": "y", "units": "m", "values": [0.0, 0.3, 1.0]}, {"name": "cell", "values": ["a", "b"]}],
        "statistics": {"u": {"mean": [1.0, 2.0, 3.0, 4.0], "std": 0.5}},
        "time_step": 3600.0,
        "time_units": "s",
    }
    (experiment.run_dir / "data_card.json").write_text(json.dumps(card))
    _, parsed = read(write_report(experiment))
    for words in ("1.00, 2.00, 3.00, …", "0.500", "0 … 1", "a … b", "60\u202fmin"):
        assert words in parsed.sections["data"]


def test_environment_holds_versions_and_says_nothing_twice(make_run):
    experiment = make_run(parts=("forecast",))
    store = zarr.open_group(experiment.run_dir / "rollout.zarr", mode="r+")
    store.attrs.update({"workbench_versions": '{"torch": "2.13", "xarray": "2026.9"}', "note": "{not json"})
    scores = xr.Dataset({"score": (("forecast", "metric", "variable", "lead_time"), np.ones((1, 1, 1, 2)))})
    scores = scores.assign_coords(forecast=["model"], metric=["rmse"], variable=["vorticity"], lead_time=[1.0, 2.0])
    scores.attrs.update(workbench_version="0.1.0", split="test", confidence=0.9)
    scores.to_netcdf(experiment.scores)
    text, parsed = read(write_report(experiment))
    environment = parsed.sections["environment"]
    assert "torch 2.13, xarray 2026.9" in environment and "{not json" in environment
    assert environment.count("0.1.0") == 1 and "scores: split" in environment
    assert 'class="verdict open"' in text
    assert "No variance yet" in parsed.sections["drift"]


def test_variables_that_do_not_fit_are_counted_in_the_order_of_the_experiment(make_run):
    names = ("e", "d", "c", "b", "a")
    sizes = {"y": 4, "x": 4}
    text, parsed = read(write_report(make_run(parts=("forecast", "scores"), names=names, long_name="e", sizes=sizes)))
    assert "Variables in the forecast that are not shown: 1." in parsed.sections["last-lead"]
    shown = re.search(r"truth, prediction and error of ([^\"]*)", text)[1]
    assert [words.split()[0] for words in shown.split("; ")] == list("edcb")
    assert "1 more variables: in the tables above" in parsed.sections["growth"]
    assert "error_growth_rmse_a" not in text


def test_a_forecast_in_netcdf_and_the_columns_of_a_rate_monitor(make_run):
    experiment = make_run("--rollout.format=netcdf", kind="line", calendar=True, parts=("forecast", "training"))
    store = experiment.run_dir / "rollout.zarr"
    xr.open_zarr(store, consolidated=False, decode_timedelta=True).drop_encoding().to_netcdf(experiment.forecast)
    shutil.rmtree(store)
    log = experiment.run_dir / "metrics.csv"
    log.write_text(log.read_text().replace("learning_rate", "lr-AdamW"))
    text, parsed = read(write_report(experiment))
    assert "lead 6\u202fh, step 1 of 12" in text and "All leads" in parsed.sections["last-lead"]
    assert (experiment.run_dir / "figures" / "learning_rate.svg").exists()
