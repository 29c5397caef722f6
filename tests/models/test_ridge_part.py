"""The ridge regression beside a network: its optimum, its share, its limits, and what it must not depend on."""

import numpy as np
import pytest
import torch

from workbench.models.ridge_part import PENALTIES, RidgePart


def cells(count=30, points=40):
    torch.manual_seed(0)
    return torch.randn(count, 2, 9, points), torch.randn(count, 2, 9, points), torch.randn(count)


def fitted(raw, change, target):
    part = RidgePart(raw.shape[1], raw.shape[3])
    part.fit(raw, change, target)
    return part


def features(raw, change):
    """Standardised averages in float64, written out."""
    curves = np.concatenate([raw.numpy().mean(2), change.numpy()[:, :, -3:].mean(2)], axis=1).astype(float)
    averages = curves.reshape(len(curves), 4, 20, 2).mean(-1)
    z = (averages - averages.mean(0)) / averages.std(0) / 20**0.5
    z[:, :2] *= 0.1**0.5
    return z.reshape(len(curves), 80)


def solve(z, y, penalty):
    """Weights and intercept from the normal equations over features."""
    center = z.mean(0)
    weight = np.linalg.solve((z - center).T @ (z - center) + penalty * np.eye(80), (z - center).T @ (y - y.mean()))
    return weight, y.mean() - center @ weight


def test_penalty_weights_and_share_are_those_of_leaving_out_each_cell_in_turn():
    raw, change, noise = cells()
    target = change[:, 0, -3:, 8:16].mean((1, 2)) * 5 + 0.3 * noise
    part = fitted(raw, change, target)
    z, y = features(raw, change), target.numpy().astype(float)
    errors = {}
    for penalty in PENALTIES:
        found = []
        for k in range(30):
            others = np.arange(30) != k
            weight, intercept = solve(z[others], y[others], penalty)
            found.append(y[k] - z[k] @ weight - intercept)
        errors[penalty] = np.sqrt(np.mean(np.square(found)))
    best = min(errors, key=errors.get)
    weight, intercept = solve(z, y, best)
    assert 0.1 < part.share.item() == pytest.approx(1 - errors[best] / y.std(), abs=1e-4)
    np.testing.assert_allclose(part.weight.numpy(), weight, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(part(raw, change).numpy(), z @ weight + intercept, rtol=1e-3, atol=1e-3)


def test_a_regression_that_knows_nothing_has_no_share():
    assert fitted(*cells()).share.item() < 0.05


def test_a_linear_law_is_found_and_holds_for_other_cells():
    raw, change, _ = cells(400)
    law = change[:, 0, -3:, 10:20].mean((1, 2)) * 4 + raw[:, 1].mean((1, 2)) + 5
    part = fitted(raw[:300], change[:300], law[:300])
    residual = part(raw[300:], change[300:]) - law[300:]
    assert residual.std() < 0.02 * law.std() and part.share.item() > 0.98


def test_scales_of_the_input_do_not_matter_and_constant_points_have_no_say():
    raw, change, target = cells()
    change[:, :, :, :8] = 0.0
    part, other = fitted(raw, change, target), fitted(1e3 * raw + 7, 1e-2 * change, target)
    torch.testing.assert_close(other(1e3 * raw + 7, 1e-2 * change), part(raw, change), rtol=1e-2, atol=1e-3)
    changed = change.clone()
    changed[:, :, :, :8] = 100.0
    torch.testing.assert_close(part(raw, changed), part(raw, change))


def test_a_cell_unlike_all_others_is_not_extrapolated_without_bound():
    raw, change, target = cells()
    part = fitted(raw, change, target)
    far, farther = (part(raw, factor * change.abs()) for factor in (1e3, 1e6))
    torch.testing.assert_close(far, farther)
