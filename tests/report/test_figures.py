"""Curves and pictures: what is drawn is what was given, and drawing leaves nothing behind."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from workbench.report import figures, pictures, style
from workbench.report.gallery import Gallery, inline, to_svg


@pytest.fixture
def scores(whole_run):
    with xr.open_dataset(whole_run.scores, engine="netcdf4", decode_timedelta=True) as opened:
        return opened.load()


def curves(figure: Figure, axes: int = 0) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[axes].get_lines()}


def test_error_growth_draws_every_forecast_with_its_band(scores):
    scores = scores.assign_coords(forecast=["model", "damped_persistence", "climatology"])
    figure = figures.error_growth(scores, "rmse", "pressure", "Pa", stopped=[3, 3, 99])
    drawn = curves(figure)
    expected = scores["score"].sel(metric="rmse", variable="pressure")
    for name in scores["forecast"].values:
        np.testing.assert_array_equal(drawn[name.replace("_", " ")], expected.sel(forecast=name).values)
    axes = figure.axes[0]
    assert len(axes.collections) == 3
    band = axes.collections[0].get_paths()[0].vertices
    model = scores.sel(metric="rmse", variable="pressure", forecast="model")
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [model.score_low.min(), model.score_high.max()])
    (stop,) = [line for line in axes.get_lines() if line.get_label() == "a forecast stopped"]
    np.testing.assert_allclose(stop.get_xdata(), [0.75])
    assert axes.get_ylabel() == "rmse (Pa)" and axes.get_xlabel() == "lead time (s)"


def test_error_growth_chooses_its_axis(scores):
    def scale(values):
        changed = scores.copy()
        changed["score"] = changed["score"].copy(data=np.broadcast_to(values, changed["score"].shape))
        axes = figures.error_growth(changed, "rmse", "pressure").axes[0]
        return axes.get_yscale(), axes.get_ylim()[0]

    steps = scores.sizes["lead_time"]
    assert scale(np.geomspace(1e-3, 1e3, steps))[0] == "log"
    assert scale(np.linspace(0.1, 2.0, steps)) == ("linear", 0)
    assert scale(np.linspace(-1.0, 2.0, steps))[1] < -1
    assert scale(np.full(steps, np.nan))[0] == "linear"


def test_spectrum_is_logarithmic_and_leaves_out_what_is_not_there(scores):
    spectrum = scores["spectrum"]
    lead = spectrum["spectrum_lead"].values[-1]
    figure = figures.spectrum(spectrum, lead, "vorticity", "s-1")
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn = curves(figure)
    assert set(drawn) == {"truth", "model"}
    expected = spectrum.sel(variable="vorticity", spectrum_lead=lead, source="model").values
    np.testing.assert_array_equal(drawn["model"], expected[1:])
    assert axes.get_ylabel() == "variance (s⁻²)" and axes.get_xlabel() == "wavenumber (rad m⁻¹)"


def test_spectrum_does_not_show_rounding_noise():
    values = np.array([1.0, 1e-3, 1e-25])
    spectrum = xr.DataArray(
        np.stack([values, values])[:, None, None],
        dims=("source", "variable", "spectrum_lead", "wavenumber"),
        coords={"source": ["truth", "model"], "variable": ["u"], "spectrum_lead": [1.0], "wavenumber": [1.0, 2.0, 3.0]},
    )
    assert figures.spectrum(spectrum, 1.0, "u").axes[0].get_ylim()[0] == pytest.approx(1e-10)


def test_drift_starts_at_zero_unless_the_model_runs_away(scores):
    figure = figures.drift(scores["variance"], "vorticity", "m s-1")
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[0].get_ylabel() == "spatial variance (m² s⁻²)"
    np.testing.assert_array_equal(
        curves(figure)["truth"], scores["variance"].sel(source="truth", variable="vorticity").values
    )
    wild = scores["variance"].copy()
    wild.loc[{"source": "model"}] = np.geomspace(1, 1e9, wild.sizes["lead_time"])
    assert figures.drift(wild, "vorticity").axes[0].get_yscale() == "log"


def test_training_curves_take_each_epoch_once_and_mark_the_best():
    log = pd.DataFrame(
        {
            "epoch": [0, 0, 1, 1, 2],
            "step": [9, 9, 19, 19, 29],
            "train_loss": [np.nan, 0.9, np.nan, 0.5, np.nan],
            "validation_loss": [0.8, np.nan, 0.3, np.nan, 0.4],
            "learning_rate": [1e-3, np.nan, 5e-4, np.nan, np.nan],
        }
    )
    drawn = curves(figures.training_loss(log))
    np.testing.assert_array_equal(drawn["training"], [0.9, 0.5])
    np.testing.assert_array_equal(drawn["validation"], [0.8, 0.3, 0.4])
    np.testing.assert_array_equal(drawn["best: epoch 1"], [0.3])
    rate = figures.learning_rate(log).axes[0].get_lines()[0]
    np.testing.assert_array_equal(rate.get_xdata(), [9, 19])
    np.testing.assert_array_equal(rate.get_ydata(), [1e-3, 5e-4])
    assert len(figures.logged(log, "absent")[0]) == 0


def plane(values: np.ndarray, **attrs: str) -> xr.DataArray:
    coords = {"y": np.linspace(0, 1, values.shape[0]), "x": np.linspace(0, 2, values.shape[1])}
    return xr.DataArray(values, dims=("y", "x"), coords=coords, name="u", attrs={"units": "K", **attrs})


def test_comparison_shares_limits_between_truth_and_prediction():
    truth = plane(np.linspace(-2, 4, 12).reshape(3, 4))
    figure = pictures.comparison([pictures.Row("u", truth, truth * 3)])
    meshes = [axes.collections[0] for axes in figure.axes[:3]]
    assert meshes[0].get_clim() == meshes[1].get_clim() == (-4, 4)
    assert meshes[2].get_clim()[0] == -meshes[2].get_clim()[1]
    np.testing.assert_allclose(np.asarray(meshes[2].get_array()).reshape(3, 4), 2 * truth.values)
    assert figure.axes[0].get_aspect() == 1.0


def test_a_prediction_that_is_not_finite_is_grey_and_says_why():
    truth = plane(np.ones((3, 4)))
    figure = pictures.comparison([pictures.Row("u", truth, truth * np.nan, "stopped at step 2")])
    assert [text.get_text() for text in figure.axes[1].texts] == ["stopped at step 2"]
    assert mpl.colors.to_hex(figure.axes[1].collections[0].get_cmap().get_bad()) == style.MISSING


def test_lines_space_time_and_series_draw_their_fields():
    lead = xr.DataArray([1.0, 2.0], dims="lead_time", attrs={"units": "s"})
    field = xr.DataArray(np.arange(8.0).reshape(2, 4), dims=("lead_time", "x"), coords={"lead_time": lead}, name="u")
    figure = pictures.lines(field[1], field[1] + 1)
    np.testing.assert_array_equal(curves(figure)["truth"], [4, 5, 6, 7])
    np.testing.assert_array_equal(figure.axes[1].get_lines()[1].get_ydata(), np.ones(4))
    along = pictures.space_time(field, field)
    assert along.axes[0].get_ylabel() == "lead time (s)" and along.axes[0].get_xlabel() == "x (index)"
    np.testing.assert_array_equal(curves(pictures.series(field[:, 0], field[:, 1]))["prediction"], [1, 5])


def test_figures_are_the_callers_and_leave_settings_alone(scores):
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    figures.error_growth(scores, "rmse", "pressure")
    assert plt.get_fignums() == [] and dict(mpl.rcParams) == before


def test_the_same_data_gives_the_same_svg(scores):
    first, second = (to_svg(figures.error_growth(scores, "rmse", "pressure")) for _ in range(2))
    assert first == second


def test_text_with_dollars_is_not_mathematics(scores):
    scores = scores.assign_coords(variable=["$\\frac{$", "a_$b$"])
    svg = to_svg(figures.error_growth(scores, "rmse", "$\\frac{$"))
    assert "rmse of $\\frac{$" in svg


def test_gallery_gives_every_figure_its_own_name(tmp_path, scores):
    gallery = Gallery(tmp_path)
    for name in ("A b", "a/b", "<>"):
        gallery.add(name, Figure(figsize=(1, 1)), alt="nothing")
    assert sorted(p.name for p in tmp_path.glob("*.svg")) == ["a_b.svg", "a_b_2.svg", "figure.svg"]


def test_inline_svg_follows_the_page_and_keeps_to_itself(scores):
    svg = to_svg(figures.error_growth(scores, "rmse", "pressure", stopped=[2]))
    inlined = inline(svg, "one", 'a "quoted" <alt>')
    assert inlined.startswith('<svg viewBox="0 0 324 223.2" role="img" aria-label="a &quot;quoted&quot; &lt;alt&gt;">')
    assert "xlink" not in inlined and "<style" not in inlined and "<metadata" not in inlined
    for colour, name in ((style.MODEL, "--model"), (style.BASELINES[0], "--baseline-0"), (style.INK, "--ink")):
        assert colour in svg and colour not in inlined and f"var({name})" in inlined


def test_every_colour_has_a_dark_counterpart_and_a_variable():
    assert set(style.DARK) == set(style.CSS_NAMES)
    variables = style.css_variables()
    for light, dark in style.DARK.items():
        assert f"{style.CSS_NAMES[light]}:{light};" in variables and f"{style.CSS_NAMES[light]}:{dark};" in variables


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(colour: str) -> float:
        channels = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [style.INK, style.MUTED])
def test_text_has_enough_contrast(colour):
    assert contrast(colour, style.PAPER) >= 4.5
    assert contrast(style.DARK[colour], style.DARK[style.PAPER]) >= 4.5


@pytest.mark.parametrize("colour", [style.MODEL, *style.BASELINES])
def test_lines_have_enough_contrast(colour):
    assert contrast(colour, style.PAPER) >= 3
    assert contrast(style.DARK[colour], style.DARK[style.PAPER]) >= 3


def test_no_two_forecasts_look_alike():
    looks = [style.line_style("truth", 0), style.line_style("model", 0), *(style.line_style("b", k) for k in range(5))]
    assert len({look.color for look in looks}) == len(looks)
    assert len({str(look.linestyle) for look in looks[1:]}) == len(looks) - 1
