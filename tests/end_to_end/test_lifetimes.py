"""The life of cells as a user predicts it: one command from record to report, files, a sweep, and every refusal."""

import json
import shutil

import battery
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench.cli import main
from workbench.commands.lifetimes import predict_experiment, predict_file
from workbench.errors import InputError
from workbench.evaluate import evaluate_lifetimes
from workbench.lifetime_experiment import load_lifetimes

pytestmark = pytest.mark.long

QUICK = ["--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=2"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which the whole pipeline has run once."""
    folder = tmp_path_factory.mktemp("cells")
    battery.cells().to_netcdf(folder / "cells.nc")
    (folder / "cells.yaml").write_text(battery.EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["pipeline", "-c", "cells.yaml"]) == 0
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def refused(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err


def test_the_pipeline_leaves_predictions_scores_and_a_report(inside):
    home = inside / "runs" / "cells"
    with xr.open_dataset(home / "predictions.nc") as lives:
        assert lives.attrs["Conventions"] == "CF-1.11" and lives.sizes["cell"] == 36
        assert all("long_name" in array.attrs for array in lives.data_vars.values())
        tested = lives.isel(cell=lives["part"].values == "test")
        assert (tested["predicted_life_lower"] < tested["predicted_life"]).all()
        assert (tested["predicted_life"] < tested["predicted_life_upper"]).all()
        assert lives["attribution_discharge_capacity"].dims == ("cycle", "voltage")
        assert lives["unlike_training"].attrs["flag_meanings"] == "usual unlike"
    with xr.open_dataset(home / "scores.nc") as scores:
        mape = scores["score"].sel(metric="mape", part="test")
        assert float(mape.sel(forecast="model")) < float(mape.sel(forecast="mean_life"))
        truth, model = scores["cycle_life"], scores["prediction"].sel(forecast="model")
        rows = scores["cell_part"].values == "test"
        assert float(mape.sel(forecast="model")) == pytest.approx(float(100 * abs(model / truth - 1)[rows].mean()))
        within = (scores["predicted_life_lower"] <= truth) & (truth <= scores["predicted_life_upper"])
        assert float(scores["coverage"].sel(part="test")) == pytest.approx(float(within[rows].mean()))
        assert set(scores["policy"].values) == set(battery.cells()["policy"].values[rows_of(scores, "test")])
    page = (home / "report.html").read_text()
    for title in ("Predicted lives", "Intervals", "Policies", "What predictions rest on", "variance model", "±15 %"):
        assert title in page
    assert {"parity.svg", "intervals.png", "policies.svg"} <= {p.name for p in (home / "figures").iterdir()}


def rows_of(scores, part):
    names = scores["cell"].values[scores["cell_part"].values == part]
    return np.isin(battery.cells()["cell"].values, names)


def test_training_cells_are_predicted_by_networks_that_have_not_seen_them(inside):
    with xr.open_dataset("runs/cells/predictions.nc") as lives:
        train = lives.isel(cell=lives["part"].values == "train")
        assert train.sizes["cell"] == 24
        error = abs(train["predicted_life"] / train["cycle_life"] - 1)
    log = pd.read_csv("runs/cells/metrics.csv")
    assert np.isfinite(error).all() and error.mean() > 0.01
    assert {"train_loss", "validation_loss"} <= set(log.columns)


def test_a_file_of_weights_predicts_a_record_alone(inside, tmp_path):
    assert main(["export", "-c", "cells.yaml", "-o", str(tmp_path / "cells.safetensors")]) == 0
    some = battery.cells().isel(cell=[3, 30]).drop_vars(["cycle_life", "policy", "barcode"])
    some.to_netcdf(tmp_path / "mine.nc")
    predict_file(str(tmp_path / "cells.safetensors"), str(tmp_path / "mine.nc"), str(tmp_path / "lives.csv"), False)
    alone = pd.read_csv(tmp_path / "lives.csv", index_col="cell")
    predict_experiment(load_lifetimes(["cells.yaml"]), cells="c3,c30", output=str(tmp_path / "both.nc"))
    with xr.open_dataset(tmp_path / "both.nc") as both:
        for name in ("predicted_life", "predicted_life_lower", "predicted_life_upper", "p_value"):
            np.testing.assert_allclose(alone[name], both[name], rtol=1e-5)
    with pytest.raises(InputError, match="lives.csv exists already; pass --overwrite"):
        predict_file(str(tmp_path / "cells.safetensors"), "cells.nc", str(tmp_path / "lives.csv"), False)


def test_other_cells_are_refused_or_flagged(inside, tmp_path):
    checkpoint = "runs/cells/checkpoints/last.ckpt"
    record, out = battery.cells(), str(tmp_path / "out.csv")
    strange = record.isel(cell=[0, 1])
    strange["discharge_capacity"] = 0.7 * strange["discharge_capacity"].assign_attrs(units="Ah") + 0.2
    strange["discharge_capacity"].attrs = record["discharge_capacity"].attrs
    strange.to_netcdf(tmp_path / "strange.nc")
    predict_file(checkpoint, str(tmp_path / "strange.nc"), out, False)
    assert (pd.read_csv(out)["unlike_training"] == 1).all()
    cut = record.isel(cycle=slice(0, 9))
    cut.to_netcdf(tmp_path / "cut.nc")
    with pytest.raises(InputError, match="holds cycles 1 to 9, .* too few cycles"):
        predict_file(checkpoint, str(tmp_path / "cut.nc"), str(tmp_path / "cut.csv"), False)
    assert not (tmp_path / "cut.csv").exists()


def test_censored_cells_are_counted_and_predicted_on_request(inside, tmp_path, capsys, monkeypatch):
    record = battery.cells()
    record["cycle_life"][[2, 7, 11]] = np.nan
    record.to_netcdf(tmp_path / "cells.nc")
    shutil.copy("cells.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", "cells.yaml", *QUICK]) == 0
    assert "3 cells without an end of life (c2, c7, c11) are kept out of training" in capsys.readouterr().out
    assert main(["predict", "-c", "cells.yaml", "--cells", "censored", "-o", "censored.csv"]) == 0
    assert pd.read_csv("censored.csv")["cell"].tolist() == ["c2", "c7", "c11"]
    assert main(["predict", "-c", "cells.yaml"]) == 0
    with xr.open_dataset("runs/cells/predictions.nc") as lives:
        assert not np.isin(["c2", "c7", "c11"], lives["cell"].values).any()
    assert "no cell or part 'c99'" in refused(capsys, "predict", "-c", "cells.yaml", "--cells", "c99", "-o", "x.nc")


def test_a_sweep_chooses_a_depth_scores_and_keeps_what_is_finished(inside, capsys):
    words = ["sweep", "-c", "cells.yaml", *QUICK]
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["cycles"] == [8] and set(first["score"]["test"]) == {"model", "mean_life", "variance_model"}
    kept = {p: p.stat().st_mtime_ns for p in (inside / "runs/cells/sweep").rglob("*.json")}
    shutil.rmtree(inside / "runs/cells/sweep/cycles_008/final")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    gone = {p for p, at in kept.items() if p.stat().st_mtime_ns != at}
    assert {p.parent.name for p in gone} <= {"sweep", "final"}
    with xr.open_dataset("runs/cells/sweep/sweep.nc") as sweep:
        assert sweep["cross_validated"].dims == ("depth", "cycles")
        best = sweep["cross_validated"].min("depth")
        chosen = sweep["cross_validated"].sel(depth=sweep["chosen_depth"])
        assert (chosen <= best + sweep["cross_validated_error"].max("depth")).all()
    assert main(["report", "-c", "cells.yaml", "--overwrite"]) == 0
    assert "From how few cycles" in (inside / "runs/cells/report.html").read_text()
    told = refused(capsys, "sweep", "-c", "cells.yaml", "--data.points=13")
    assert "holds a sweep that was begun with other data, model or trainer settings: pass --overwrite" in told


def test_a_leaky_split_is_named_in_what_it_scores(inside, tmp_path):
    words = ["--data.split=leaky_windows", "--data.every=6", *QUICK]
    home = ["--run-dir", str(tmp_path / "leaky")]
    assert main(["fit", "-c", "cells.yaml", *words, *home]) == 0
    experiment = load_lifetimes(["cells.yaml"], words, str(tmp_path / "leaky"))
    predict_experiment(experiment, attributions=False)
    scores = evaluate_lifetimes(experiment)
    assert scores.attrs["headline"].startswith("LEAKY SPLIT") and "cannot be judged" in scores.attrs["verdict"]
    assert "baseline" not in scores.dims


def test_a_split_that_moved_is_refused(inside):
    with pytest.raises(InputError, match="cell c.* is in .* now, and the model was trained with"):
        predict_experiment(load_lifetimes(["cells.yaml"], ["--data.seed=3"]), overwrite=True)


def test_verbs_that_make_no_sense_say_which_do(inside, capsys):
    for verb in ("rollout", "speedup", "baselines"):
        said = refused(capsys, verb, "-c", "cells.yaml")
        assert "cells is about the life of cells" in said and "its verbs are check, fit" in said
    assert "is not about the life of cells: its model is no LifetimeTask" in refused(
        capsys, "sweep", "-c", "kolmogorov/fno"
    )
    assert "did you mean 'cycles'?" in refused(capsys, "check", "-c", "cells.yaml", "--data.cycle=3")


def test_check_says_what_it_found(inside, capsys):
    assert main(["check", "-c", "cells.yaml"]) == 0
    said = capsys.readouterr().out
    assert "test 12, train 24" in said and "3 folds of whole policies" in said and "minutes for 8 epochs" in said
    assert main(["check", "-c", "cells.yaml", "--data.cycles=40", "--no-batch"]) == 1
    assert "set data.cycles to at most 30" in capsys.readouterr().out


def test_validate_and_test_give_the_loss_of_unseen_cells(inside, capsys):
    for verb, name in (("validate", "validation_loss"), ("test", "test_loss")):
        assert main([verb, "-c", "cells.yaml"]) == 0
        assert name in capsys.readouterr().out


def test_a_training_that_ends_without_residuals_is_refused(inside, tmp_path, capsys):
    said = refused(capsys, "fit", "-c", "cells.yaml", "--trainer.max_epochs=7", "--run-dir", str(tmp_path / "seven"))
    assert "trainer.max_epochs is 7 and trainer.check_val_every_n_epoch 4: the last epoch must be validated" in said
