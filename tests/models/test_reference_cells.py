"""Cells compared with cells of known life: which references, which differences, what is learnt."""

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from workbench.errors import InputError
from workbench.models import FPNN
from workbench.models.reference_cells import ReferenceCells

SHAPE = (2, 9, 40)


def cells(count=12):
    torch.manual_seed(0)
    return torch.randn(count, *SHAPE), torch.randn(count, *SHAPE), torch.randn(count)


def test_references_are_spread_over_the_lives():
    raw, change, target = cells()
    references = ReferenceCells(3, SHAPE)
    references.take(raw, change, target)
    order = target.argsort()
    chosen = order[torch.tensor([0, 6, 11])]
    torch.testing.assert_close(references.target.data, target[chosen])
    torch.testing.assert_close(references.change.data, change[chosen])


def test_the_estimate_is_the_mean_over_references():
    raw, change, target = cells()
    model = FPNN(*SHAPE, references=5, frames=4).eval()
    model.prepare(raw, change, target)
    chosen = target.argsort()[torch.linspace(0, 11, 5).round().long()]
    alone = FPNN(*SHAPE, frames=4).eval()
    alone.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("references")})
    expected = torch.stack([alone(raw - raw[j], change - change[j]) + target[j] for j in chosen]).mean(0)
    torch.testing.assert_close(model(raw, change), expected, rtol=1e-4, atol=1e-5)


def test_training_draws_one_reference_a_cell_another_for_every_network():
    raw, change, target = cells()
    model = FPNN(*SHAPE, references=5, dropout=0.0)
    model.prepare(raw, change, target)
    for parameter in model.head[4].parameters():
        torch.nn.init.zeros_(parameter)  # nothing is known of the differences, so what is left is the reference
    weights, _ = stack_module_state([model, model])
    call = vmap(lambda w: functional_call(model, w, (raw, change)), randomness="different")
    drawn = torch.stack([call(weights).detach() for _ in range(20)])
    assert (drawn[..., None] == model.references.target).any(-1).all()
    assert (drawn[:, 0] != drawn[:, 1]).any()
    assert len(drawn.unique()) == 5


def test_differences_of_life_are_learnt():
    """Life follows the last change: a few steps on pairs explain most of it for cells not seen."""
    raw, change, _ = cells(64)
    change = 0.3 * change + torch.randn(64, 1, 1, 1)
    target = change.mean((1, 2, 3))
    model = FPNN(*SHAPE, width=8, blocks=0, references=10, streams="change", dropout=0.0)
    model.prepare(raw[:48], change[:48], target[:48])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        (model(raw[:48], change[:48]) - target[:48]).square().mean().backward()
        optimiser.step()
    error = model.eval()(raw[48:], change[48:]) - target[48:]
    assert error.square().mean() < 0.1 * target[48:].var()


def test_more_references_than_cells():
    model = FPNN(*SHAPE, references=20)
    with pytest.raises(InputError, match="references is 20, but only 12 cells .* set it to at most 12"):
        model.prepare(*cells())
