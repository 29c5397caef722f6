import numpy as np

from workbench.metrics.battery import METRICS, mae, mape, rmse, within_15

TRUE = np.array([100.0, 200.0, 400.0, 800.0])
PREDICTED = np.array([110.0, 170.0, 461.0, 800.0])  # off by 10, 15, 15.25 and 0 %


def test_values_by_hand():
    np.testing.assert_allclose(mape(PREDICTED, TRUE), (10 + 15 + 15.25) / 4)
    np.testing.assert_allclose(rmse(PREDICTED, TRUE), np.sqrt((10**2 + 30**2 + 61**2) / 4))
    np.testing.assert_allclose(mae(PREDICTED, TRUE), (10 + 30 + 61) / 4)
    np.testing.assert_allclose(within_15(PREDICTED, TRUE), 75)


def test_resamples_are_scored_row_by_row():
    rows = np.array([[0, 1, 2, 3], [3, 3, 3, 3], [0, 0, 1, 1]])
    for metric, _ in METRICS.values():
        found = metric(PREDICTED[rows], TRUE[rows])
        np.testing.assert_allclose(found, [metric(PREDICTED[row], TRUE[row]) for row in rows])
