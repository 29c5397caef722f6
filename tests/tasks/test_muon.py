"""Muon: orthogonal steps of matrices, AdamW's of all else, and going on from a state."""

import pytest
import torch
from torch import nn

from workbench.tasks.muon import SCALE, Muon, orthogonal

OPTIONS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.999)}


def take(optimiser, grads):
    for grad in grads:
        optimiser.param_groups[0]["params"][0].grad = grad.clone()
        optimiser.step()


@pytest.mark.parametrize("shape", [(8, 8), (6, 30), (40, 7)])
def test_iteration_comes_near_the_polar_factor(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = orthogonal(x)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.25
    rotated = u.T @ found @ v.T  # same singular vectors: diagonal
    torch.testing.assert_close(rotated, torch.diag(rotated.diag()), atol=1e-10, rtol=0)
    torch.testing.assert_close(orthogonal(1e3 * x), found)


def test_kernels_move_as_matrices_of_outputs_by_all_else():
    torch.manual_seed(1)
    kernel = nn.Parameter(torch.randn(6, 5, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    grads = torch.randn(4, 6, 5, 3, 3)
    take(Muon([kernel], **OPTIONS), grads)
    take(Muon([matrix], **OPTIONS), grads.flatten(2))
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_a_step_is_as_large_as_one_of_adam():
    torch.manual_seed(2)
    weight = nn.Parameter(torch.zeros(64, 200))
    take(Muon([weight], **OPTIONS), torch.randn(1, 64, 200))
    assert weight.square().mean().sqrt().item() == pytest.approx(SCALE * OPTIONS["lr"], rel=0.2)


def test_vectors_are_those_of_adamw():
    torch.manual_seed(3)
    start, grads = torch.randn(7), torch.randn(5, 7)
    found = []
    for method in (Muon, torch.optim.AdamW):
        weight = nn.Parameter(start.clone())
        take(method([weight], **OPTIONS), grads)
        found.append(weight.detach())
    torch.testing.assert_close(*found)


def test_goes_on_from_a_state_to_the_bit():
    torch.manual_seed(4)
    data, target = torch.randn(32, 5), torch.randn(32, 3)

    def run(model, optimiser, steps):
        for _ in range(steps):
            optimiser.zero_grad()
            (model(data) - target).square().mean().backward()
            optimiser.step()

    models = [nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    whole, first = (Muon(model.parameters(), **OPTIONS) for model in models)
    run(models[0], whole, 6)
    run(models[1], first, 3)
    rest = Muon(models[1].parameters(), **OPTIONS)
    rest.load_state_dict(first.state_dict())
    run(models[1], rest, 3)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
