"""UNet: any grid size, symmetry under shifts, ends that stay apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.models import UNet


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda axes: st.tuples(
            st.lists(st.integers(1, 11), min_size=axes, max_size=axes),
            st.lists(st.booleans(), min_size=axes, max_size=axes),
        )
    ),
    st.integers(0, 3),
)
def test_any_grid_size(case, depth):
    space, periodic = tuple(case[0]), tuple(case[1])
    model = UNet(2, 3, space, width=16, depth=depth, periodic=periodic)
    assert model(torch.randn(2, 2, *space)).shape == (2, 3, *space)


@pytest.mark.parametrize("space", [(16,), (16, 8), (8, 8, 16)])
def test_shift_by_whole_coarse_cells_shifts_the_output(space):
    torch.manual_seed(0)
    model = UNet(2, 1, space, width=8, depth=2, blocks=2).double()
    x = torch.randn(1, 2, *space, dtype=torch.float64)
    shifts, dims = (4, -4, 8)[: len(space)], tuple(range(2, x.ndim))
    torch.testing.assert_close(model(x.roll(shifts, dims)), model(x).roll(shifts, dims), rtol=1e-10, atol=1e-12)


def test_each_axis_wraps_only_if_it_is_periodic():
    """A convolution reaches across the ends of a periodic axis and of no other."""
    model = UNet(1, 1, (8, 8), width=8, depth=0, blocks=1, periodic=(True, False)).double()
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    influence = torch.autograd.grad(model.stem(x)[0, :, 0, 0].sum(), x)[0][0, 0] != 0
    assert influence[-1, 0] and not influence[0, -1] and influence.sum() == 3 * 2


def test_other_grid_than_in_training():
    model = UNet(1, 1, (16, 16), width=8, depth=2)
    assert model(torch.randn(1, 1, 24, 17)).shape == (1, 1, 24, 17)


def test_parameter_count():
    """Counted by hand for one input and output channel, width 8, one halving, in two dimensions."""
    conv = lambda i, o, k=3: k * k * i * o + o  # noqa: E731
    norm = lambda c: 2 * c  # noqa: E731
    block = lambda i, o: norm(i) + conv(i, o) + norm(o) + conv(o, o) + (conv(i, o, 1) if i != o else 0)  # noqa: E731
    expected = (
        conv(1, 8) + block(8, 8) + conv(8, 16) + block(16, 16) + conv(16, 8) + block(16, 8) + norm(8) + conv(8, 1)
    )
    model = UNet(1, 1, (8, 8), width=8, depth=1)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_bad_options():
    with pytest.raises(InputError, match=r"1 to 3 space axes, found 4"):
        UNet(1, 1, (4, 4, 4, 4))
    with pytest.raises(InputError, match=r"multiple of 8 .* found 20. Set width to 16"):
        UNet(1, 1, (8, 8), width=20)
    with pytest.raises(InputError, match=r"periodic needs one entry"):
        UNet(1, 1, (8, 8), periodic=(True, False, True))
