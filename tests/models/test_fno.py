"""FNO and its spectral layer: the convolution theorem, symmetries, resolution, gradients, published weights."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench.errors import InputError
from workbench.models import FNO, IFNO
from workbench.models.layers import SpectralConv, grid_channels


def spectral(space, modes, channels=(1, 1), padding=None):
    padding = padding or (0.0,) * len(space)
    return SpectralConv(*channels, space, modes, padding).double()


def textbook(layer, x):
    """FFT, multiply the corners, inverse FFT, on the zero-padded field."""
    space = x.shape[2:]
    padded = [n + round(p * n) for n, p in zip(space, layer.padding, strict=True)]
    axes = tuple(range(2, x.ndim))
    full = torch.fft.rfftn(x, s=padded, dim=axes)
    weight = torch.view_as_complex(layer.weight.detach())
    out = full.new_zeros(len(x), weight.shape[-1], *full.shape[2:])
    for index in itertools.product(*(range(n) for n in layer.kept)):
        wavenumber = [
            k if axis == len(space) - 1 or k < m else k - 2 * m
            for axis, (k, m) in enumerate(zip(index, layer.modes, strict=True))
        ]
        out[(..., *wavenumber)] = full[(..., *wavenumber)] @ weight[index]
    return torch.fft.irfftn(out, s=padded, dim=axes)[(..., *(slice(n) for n in space))]


@st.composite
def layers(draw):
    space, modes, padding = [], [], []
    axes = draw(st.integers(1, 3))
    for axis in range(axes):
        space.append(draw(st.integers(2, 9)))
        padding.append(draw(st.sampled_from([0.0, 0.5])))
        padded = space[-1] + round(padding[-1] * space[-1])
        modes.append(draw(st.integers(1, padded // 2 + (axis == axes - 1))))
    return tuple(space), tuple(modes), tuple(padding)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_layer_equals_the_fft_formulation(case):
    space, modes, padding = case
    torch.manual_seed(0)
    layer = spectral(space, modes, (2, 3), padding)
    x = torch.randn(2, 2, *space, dtype=torch.float64)
    torch.testing.assert_close(layer(x), textbook(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [8, 9])
def test_layer_is_the_circular_convolution_with_its_impulse_response(size):
    torch.manual_seed(0)
    layer = spectral((size, size), (3, 3))
    impulse, x = torch.zeros(1, 1, size, size).double(), torch.randn(1, 1, size, size).double()
    impulse[..., 0, 0] = 1
    kernel = layer(impulse)[0, 0]
    direct = sum(kernel[i, j] * x.roll((i, j), dims=(-2, -1)) for i, j in itertools.product(range(size), range(size)))
    torch.testing.assert_close(layer(x), direct, rtol=1e-12, atol=1e-12)


def test_padded_axis_does_not_wrap_around():
    """With as many zeros as nodes the layer is a linear convolution: what leaves one end does not enter the other."""
    torch.manual_seed(0)
    layer = spectral((12,), (13,), padding=(1.0,))
    x = torch.randn(1, 1, 12).double()
    impulse = torch.zeros(1, 1, 24).double()
    impulse[..., 0] = 1
    kernel = spectral((24,), (13,))
    kernel.load_state_dict(layer.state_dict())
    response = kernel(impulse)[0, 0]
    direct = torch.stack([sum(response[(i - j) % 24] * x[0, 0, j] for j in range(12)) for i in range(12)])
    torch.testing.assert_close(layer(x)[0, 0], direct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", [(16,), (15,), (8, 9), (6, 5, 7)])
def test_identity_weights_are_a_low_pass_filter(space):
    modes = tuple(n // 4 + 1 for n in space)
    layer = spectral(space, modes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[..., 0] = 1
        for axis, m in enumerate(modes[:-1]):
            layer.weight.select(axis, m).zero_()  # k = -m, which has no partner +m
    x = torch.randn(1, 1, *space, dtype=torch.float64)
    axes = tuple(range(2, x.ndim))
    spectrum = torch.fft.fftn(x, dim=axes)
    for axis, (n, m) in enumerate(zip(space, modes, strict=True)):
        below = torch.fft.fftfreq(n, 1 / n).abs() < m
        spectrum = spectrum * below.view(-1, *[1] * (len(space) - 1 - axis))
    torch.testing.assert_close(layer(x), torch.fft.ifftn(spectrum, dim=axes).real, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", [FNO, IFNO])
@pytest.mark.parametrize("space", [(16,), (8, 9), (6, 7, 8)])
def test_shifted_input_gives_shifted_output_on_a_periodic_grid(network, space):
    torch.manual_seed(0)
    model = network(2, 1, space, modes=3, width=4, projection=8, grid=None).double()
    x = torch.randn(2, 2, *space, dtype=torch.float64)
    shifts, dims = (1, 3, 5)[: len(space)], tuple(range(2, x.ndim))
    torch.testing.assert_close(model(x.roll(shifts, dims)), model(x).roll(shifts, dims), rtol=1e-10, atol=1e-12)


def test_a_band_limited_field_gives_the_same_at_every_resolution():
    """Layers without activation keep a band-limited field band-limited, so the common nodes agree exactly."""
    torch.manual_seed(0)
    layers = nn.Sequential(spectral((16, 16), (4, 4), (2, 5)), spectral((16, 16), (4, 4), (5, 2)))
    nodes = torch.arange(32).double() / 32
    y, x = torch.meshgrid(nodes, nodes, indexing="ij")
    fine = torch.stack([torch.sin(6.2831853 * (2 * x + y)), torch.cos(6.2831853 * (3 * y - x))])[None]
    torch.testing.assert_close(layers(fine)[..., ::2, ::2], layers(fine[..., ::2, ::2]), rtol=1e-7, atol=1e-7)


def test_a_network_runs_on_a_finer_grid():
    """With activations only the aliased part of the spectrum differs: small for a smooth field."""
    torch.manual_seed(0)
    model = FNO(1, 1, (32, 32), modes=6, width=8, layers=3, projection=16, grid="half-open").double()
    nodes = 2 * torch.pi * torch.arange(64).double() / 64
    field = torch.sin(nodes)[:, None] * torch.cos(2 * nodes)[None]
    fine, coarse = model(field[None, None])[..., ::2, ::2], model(field[None, None, ::2, ::2])
    assert (fine - coarse).norm() < 0.02 * coarse.norm()


@pytest.mark.parametrize("space", [(6,), (4, 5), (4, 3, 4)])
def test_gradients(space):
    torch.manual_seed(0)
    layer = spectral(space, (2,) * (len(space) - 1) + (2,), (2, 1)) if len(space) < 3 else spectral(space, (2, 1, 2))
    x = torch.randn(1, layer.weight.shape[-3], *space, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()

    def run(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, weight))


def test_grid_channels():
    x = torch.zeros(2, 1, 4, 3)
    half_open, closed = grid_channels(x, "half-open"), grid_channels(x, "closed")
    assert half_open.shape == (2, 3, 4, 3) and grid_channels(x, None) is x
    torch.testing.assert_close(half_open[1, 1, :, 2], torch.tensor([0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(closed[0, 2, 1], torch.tensor([0, 0.5, 1]))


def test_spectral_part_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    layer = SpectralConv(4, 4, (16, 16), (4, 4), (0.0, 0.0))
    x = torch.randn(1, 4, 16, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, layer(x.float()).bfloat16(), rtol=0, atol=0)


def test_a_forward_in_inference_mode_first_does_not_spoil_training():
    model = FNO(1, 1, (10, 14), modes=2, width=4, layers=1, projection=4)
    with torch.inference_mode():
        model(torch.zeros(1, 1, 10, 14))
    model(torch.zeros(1, 1, 10, 14)).sum().backward()
    assert model.sp_convs[0].weight.grad is not None


@pytest.mark.parametrize(
    ("space", "modes", "axis", "largest"),
    [((8, 16), (5, 4), 0, 4), ((16, 9), (4, 6), 1, 5), ((7,), 5, 0, 4), ((8, 8, 8), (2, 0, 2), 1, 4)],
)
def test_modes_that_the_grid_cannot_hold(space, modes, axis, largest):
    with pytest.raises(InputError, match=rf"space axis {axis} of .* 1 to {largest} Fourier modes"):
        FNO(1, 1, space, modes=modes)


def test_modes_that_a_later_grid_cannot_hold():
    model = FNO(1, 1, (16, 16), modes=5, width=4, projection=4)
    with pytest.raises(InputError, match=r"space axis 0 of \(8, 16\) has 8 points .* at most 4"):
        model(torch.zeros(1, 1, 8, 16))


def test_an_option_with_the_wrong_number_of_axes():
    with pytest.raises(InputError, match=r"modes needs one entry for each of the 2 space axes"):
        FNO(1, 1, (16, 16), modes=(4, 4, 4))
    with pytest.raises(InputError, match=r"periodic needs one entry"):
        IFNO(1, 1, (16, 16), modes=4, periodic=(True,))


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("space", [(8,), (8, 9), (6, 7, 8)])
def test_published_corners_load(space, real):
    """Complex corners in the order of Li et al.: bit a of the number is the sign of axis a."""
    torch.manual_seed(0)
    modes = (3, 2, 2)[: len(space)]
    corners = [torch.randn(2, 3, *modes, dtype=torch.complex128) for _ in range(2 ** (len(space) - 1))]
    layer = spectral(space, modes, (2, 3))
    layer.load_state_dict({f"weights{i}": torch.view_as_real(c) if real else c for i, c in enumerate(corners, start=1)})
    x = torch.randn(2, 2, *space, dtype=torch.float64)
    axes = tuple(range(2, x.ndim))
    full = torch.fft.rfftn(x, dim=axes)
    out = full.new_zeros(2, 3, *full.shape[2:])
    for number, corner in enumerate(corners):
        region = [slice(-m, None) if number >> a & 1 else slice(0, m) for a, m in enumerate(modes[:-1])]
        region = (slice(None), slice(None), *region, slice(0, modes[-1]))
        out[region] = torch.einsum("bi...,io...->bo...", full[region], corner)
    torch.testing.assert_close(layer(x), torch.fft.irfftn(out, s=space, dim=axes), rtol=1e-12, atol=1e-12)


def test_ifno_has_the_parameters_of_one_layer():
    count = {layers: sum(p.numel() for p in IFNO(1, 1, (8, 8), 2, 4, layers).parameters()) for layers in (2, 9)}
    assert count[2] == count[9] == sum(p.numel() for p in FNO(1, 1, (8, 8), 2, 4, 1).parameters())
