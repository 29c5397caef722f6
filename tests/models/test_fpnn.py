"""FPNN: sizes of the specification, the 3D convolution, streams, averaged cycles, gates."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models import FPNN
from workbench.models.fpnn import average_cycles


def videos(batch=3, variables=2, cycles=9, points=40):
    return torch.randn(batch, variables, cycles, points), torch.randn(batch, variables, cycles, points)


@pytest.mark.parametrize(("blocks", "parameters"), [(0, 37_121), (1, 45_889), (2, 52_481), (3, 59_073)])
def test_parameters_of_the_specification(blocks, parameters):
    assert sum(p.numel() for p in FPNN(2, 99, 100, blocks=blocks).parameters()) == parameters


def test_the_stem_is_a_3d_convolution_over_variable_cycle_and_point():
    raw, _ = videos(variables=3)
    stem = FPNN(3, 9, 40).raw.stem[0]
    volume = nn.functional.conv3d(raw[:, None], stem.weight[:, None], stride=(1, 1, 2), padding=(0, 1, 2))
    assert volume.shape[2] == 1
    torch.testing.assert_close(stem(raw), volume[:, :, 0])


def test_no_more_operations_than_the_specification_lists():
    """Written out once more, from the text of the specification, for one stream and two blocks."""
    model = FPNN(2, 20, 100, blocks=2, streams="change").eval()
    _, video = videos(cycles=20, points=100)
    state = model.state_dict()

    def unit(x, name, stride=1, padding=0, rectify=True):
        x = functional.conv2d(x, state[f"change.{name}.0.weight"], stride=stride, padding=padding)
        x = functional.group_norm(x, 4, state[f"change.{name}.1.weight"], state[f"change.{name}.1.bias"])
        return x.relu() if rectify else x

    x = unit(video, "stem", (1, 2), (1, 2))
    x = functional.avg_pool2d(unit(x, "initial.0", 2, 1), (1, 2))
    assert x.shape == (3, 32, 10, 12)
    start = x
    for k in range(2):
        three = unit(unit(x, f"blocks.{k}.three.0"), f"blocks.{k}.three.1", padding=1)
        five = unit(unit(x, f"blocks.{k}.five.0"), f"blocks.{k}.five.1", padding=2)
        largest = unit(functional.max_pool2d(x, 3, 1, 1), f"blocks.{k}.largest.1")
        x = torch.cat([unit(x, f"blocks.{k}.one"), three, five, largest], 1)
    x = (x + unit(start, "bypass", rectify=False)).relu()
    x = functional.linear(functional.adaptive_avg_pool2d(x, (2, 6)).flatten(1), *weights(state, "change.connected"))
    x = functional.linear(x.relu(), *weights(state, "head.1"))
    expected = functional.linear(x.relu(), *weights(state, "head.4"))[:, 0]
    torch.testing.assert_close(model(torch.full_like(video, torch.nan), video), expected)


def weights(state, name):
    return state[f"{name}.weight"], state[f"{name}.bias"]


@pytest.mark.parametrize("normalisation", ["group", "batch"])
@pytest.mark.parametrize(("cycles", "points"), [(2, 8), (9, 50), (99, 100)])
def test_one_class_for_every_number_of_cycles_and_points(cycles, points, normalisation):
    model = FPNN(2, cycles, points, width=8, normalisation=normalisation)
    y = model(*videos(cycles=cycles, points=points))
    assert y.shape == (3,)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_samples_do_not_know_of_each_other():
    model = FPNN(2, 9, 40).eval()
    raw, change = videos()
    torch.testing.assert_close(model(raw, change)[1:2], model(raw[1:2], change[1:2]))


def test_a_stream_that_is_dropped_leaves_the_other():
    torch.manual_seed(0)
    model = FPNN(2, 9, 40, dropout=0.0, stream_dropout=0.5)
    (raw, change), (other, _) = videos(64), videos(64)
    torch.manual_seed(1)
    first = model(raw, change)
    torch.manual_seed(1)
    same = (model(other, change) - first).abs() < 1e-6
    assert 16 < same.sum() < 48  # half of them, within four standard deviations
    model.eval()
    assert not ((model(other, change) - model(raw, change)).abs() < 1e-6).any()


def test_frames_are_means_of_consecutive_cycles():
    video = torch.arange(12.0).reshape(1, 1, 12, 1)
    assert average_cycles(video, 4).flatten().tolist() == [1.0, 4.0, 7.0, 10.0]
    assert average_cycles(video, 0) is video and average_cycles(video, 12) is video
    raw, change = videos(cycles=12)
    model = FPNN(2, 12, 40, frames=4).eval()
    torch.testing.assert_close(model(raw, change), model(average_cycles(raw, 4), average_cycles(change, 4)))


def test_gates_interpolate_between_depths():
    """A closed gate skips its block; the depth says how many blocks count."""
    torch.manual_seed(0)
    gated = FPNN(2, 9, 40, blocks=3, learned_depth=True).double().eval()
    plain = FPNN(2, 9, 40, blocks=1).double().eval()
    plain.load_state_dict({name: x for name, x in gated.state_dict().items() if name in plain.state_dict()})
    inputs = [x.double() for x in videos()]
    assert gated.depth().item() == pytest.approx(1.5) and plain.depth().item() == 1.0
    for stream in (gated.raw, gated.change):
        nn.init.constant_(stream.gates, -50.0)
        with torch.no_grad():
            stream.gates[0] = 50.0
    assert gated.depth().item() == pytest.approx(1.0)
    torch.testing.assert_close(gated(*inputs), plain(*inputs))


def test_bad_options():
    with pytest.raises(InputError, match="multiple of 8 .* found 12"):
        FPNN(2, 9, 40, width=12)
    with pytest.raises(InputError, match="blocks of FPNN must be 0 or more, found -1"):
        FPNN(2, 9, 40, blocks=-1)


def test_the_ridge_part_is_averaged_with_the_convolutions_out_of_training():
    torch.manual_seed(0)
    model = FPNN(2, 9, 40, ridge=True, dropout=0.0)
    raw, change = videos(12)
    target = torch.randn(12)
    before = model(raw, change)
    model.prepare(raw, change, target)
    torch.testing.assert_close(model(raw, change), before)
    model.eval()
    share = 0.4
    torch.nn.init.constant_(model.ridge.share, share)
    expected = (1 - share) * before + share * model.ridge(raw, change)
    torch.testing.assert_close(model(raw, change), expected)


def test_training_leaves_the_ridge_part():
    """Also where weights are stacked, which makes parameters of all of them that ask for gradients."""
    model = FPNN(2, 9, 40, ridge=True)
    raw, change = videos(12)
    model.prepare(raw, change, torch.randn(12))
    fitted = {name: x.clone() for name, x in model.ridge.state_dict().items()}
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for mode in (True, False):
        model.train(mode)
        model(raw, change).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(model.ridge.state_dict(), fitted, rtol=0, atol=0)
