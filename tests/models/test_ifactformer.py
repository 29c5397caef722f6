"""IFactFormer: the hand-written backward, the plain formulation, symmetries, precision, memory, and what it refuses."""

import itertools

import pytest
import torch
from plain_ifactformer import BOX, PlainIFactFormer

from workbench.errors import InputError
from workbench.models import IFactFormer, ifactformer_mixing
from workbench.models.ifactformer_mixing import Layout, mix

SMALL = {"dim": 12, "heads": 2, "dim_head": 4, "iterations": 2}
LIVELY = SMALL | {"gain": 1.0}
BRANCHES = {"parallel": ((0,), (1,), (2,)), "chained": ((0, 1, 2),)}
KINDS = list(itertools.product(("parallel", "chained"), ("channel", "plane")))


def network(space, channels=3, **options):
    torch.manual_seed(0)
    return IFactFormer(channels, 3, space, **(LIVELY | options)).double()


def mixing_case(attention, norm, batch=2, heads=2, space=(2, 3, 1)):
    torch.manual_seed(0)
    layout = Layout(space, heads, BRANCHES[attention], norm == "plane", torch.float64)
    nodes = torch.Size(space).numel()
    shapes = [(batch, heads, n, n) for n in space]
    shapes = [(batch, nodes, 3), (2 * heads, 3), (3, 2 * heads * len(layout.branches)), *shapes]
    u, values, out, *kernels = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    return layout, u, values, out, kernels


@pytest.mark.parametrize("attention,norm", KINDS)
def test_backward_is_the_derivative_of_forward(attention, norm):
    layout, *tensors, kernels = mixing_case(attention, norm)

    def run(u, values, out, *kernels):
        return mix(u, kernels, values, out, layout)

    assert torch.autograd.gradcheck(run, (*tensors, *kernels))


@pytest.mark.parametrize("attention,norm", KINDS)
def test_parts_change_nothing(attention, norm, monkeypatch):
    layout, *tensors, kernels = mixing_case(attention, norm, batch=3, heads=3)
    found = []
    for limit in (1, 50, 10**6):  # a head of a sample, two samples of a head, everything
        monkeypatch.setattr(ifactformer_mixing, "CPU_PART", limit)
        z = mix(tensors[0], tuple(kernels), *tensors[1:], layout)
        found.append((z, *torch.autograd.grad(z.square().sum(), (*tensors, *kernels))))
    for others in found[1:]:
        torch.testing.assert_close(others, found[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attention,norm", KINDS)
def test_equals_the_plain_formulation(attention, norm):
    extra = attention == "parallel" and norm == "plane"
    ours = network((5, 4, 3), 6, attention=attention, norm=norm, extra_head=extra, history=2, depth=2)
    plain = PlainIFactFormer(
        history=2, dim=12, heads=2, dim_head=4, depth=2, iterations=2,
        chained=attention == "chained", norm=norm, extra_head=extra,
    ).double()  # fmt: skip
    plain.load_state_dict(ours.state_dict())
    for space in ((5, 4, 3), (4, 7, 2)):
        x = torch.randn(2, 6, *space, dtype=torch.float64)
        cotangent = torch.randn(2, 3, *space, dtype=torch.float64)
        y, expected = ours(x), plain(x.view(2, 2, 3, *space).movedim(2, -1)).movedim(-1, 1)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        for model, out in ((ours, y), (plain, expected)):
            model.zero_grad()
            out.backward(cotangent)
        gradients = dict(plain.named_parameters())
        for name, parameter in ours.named_parameters():
            assert parameter.requires_grad == (not name.endswith("_B"))
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("attention,norm", KINDS)
def test_nodes_have_no_order(attention, norm):
    """Nodes of an axis may come in any order if their coordinates come with them: no grid is built in."""
    space = (5, 4, 3)
    model = network(space, attention=attention, norm=norm, coords="true")
    coordinates = [torch.rand(n, dtype=torch.float64) for n in space]
    x = torch.randn(1, 3, *space, dtype=torch.float64)
    model.place(tuple(coordinates))
    y = model(x)
    for axis, n in enumerate(space):
        order = torch.randperm(n)
        coordinates[axis] = coordinates[axis][order]
        x, y = x.index_select(axis + 2, order), y.index_select(axis + 2, order)
    model.place(tuple(coordinates))
    torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)


def test_attention_knows_distances_not_places():
    """Without the position field only differences of coordinates count: rotary positions are relative."""
    model = network((5, 4), coords="true")
    position = model.encoder.layers[0][0][1]
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    coordinates = tuple(torch.rand(n, dtype=torch.float64) for n in (5, 4))
    moved = (coordinates[0] + 0.37, coordinates[1] - 0.21)
    results = []
    for scale in (1.0, 0.0):
        with torch.no_grad():
            position.weight.mul_(scale)
            for places in (coordinates, moved, (2 * coordinates[0], coordinates[1])):
                model.place(places)
                results.append(model(x))
    assert (results[1] - results[0]).abs().max() > 1e-3
    torch.testing.assert_close(results[4], results[3], rtol=1e-10, atol=1e-10)
    assert (results[5] - results[3]).abs().max() > 1e-6


def test_reference_coordinates_are_those_of_the_box():
    space = (6, 5, 4)
    model, x = network(space), torch.randn(1, 3, *space, dtype=torch.float64)
    y = model(x)
    model.coords = "true"
    model.place(tuple(torch.linspace(0, length, n) for length, n in zip(BOX, space, strict=True)))
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("space", [(7,), (5, 4), (3, 4, 5)])
def test_samples_do_not_see_each_other_and_any_grid_will_do(space):
    model = network(space)
    x = torch.randn(3, 3, *(n + 2 for n in space), dtype=torch.float64)
    y = model(x)
    assert y.shape == x.shape
    for sample in range(3):
        torch.testing.assert_close(model(x[sample : sample + 1]), y[sample : sample + 1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm", ["channel", "plane"])
def test_autocast_keeps_kernels_and_statistics_in_single_precision(norm):
    # the published gain: attention of 1e-5, squares below what half precision could tell from the norm's 1e-5
    model = network((8, 9, 6), norm=norm, gain=0.02).float()
    x = torch.randn(2, 3, 8, 9, 6)
    y = model(x)
    loss = y.square().mean()
    expected = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
        loss = half.square().mean()
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    assert half.dtype == torch.float32 and 0 < (half - y).norm() < 1e-3 * y.norm()
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32 and (ours - exact).norm() < 0.03 * exact.norm()


def test_chained_attention_wakes_with_the_gain():
    slopes = []
    for gain in (0.02, 1.0):
        model = network((4, 5, 3), attention="chained", gain=gain)
        model(torch.ones(1, 3, 4, 5, 3).double().cumsum(2)).square().sum().backward()
        slopes.append(model.encoder.layers[0][1].to_v.weight.grad.norm())
    assert slopes[1] > 1e4 * slopes[0]


def saved_bytes(model, x):
    """What a forward pass leaves in memory for the backward pass."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x)
    return sum(storage.nbytes() for storage in storages.values())


def test_memory_of_an_iteration_is_a_few_fields():
    space = (16, 12, 8)
    field = 16 * 12 * 8 * 12 * 8  # nodes, channels, bytes
    x = torch.randn(1, 3, *space, dtype=torch.float64)
    few, many = (saved_bytes(network(space, iterations=n, heads=6), x) for n in (2, 6))
    assert many - few < 4 * 6 * field  # a plain block keeps more than 6 heads times 3 axes times 3 fields


def test_frozen_parts_inference_mode_and_second_derivatives():
    model, x = network((4, 3, 2)), torch.randn(1, 3, 4, 3, 2, dtype=torch.float64)
    with torch.inference_mode():
        y = model(x)
    model.encoder.layers[0][1].requires_grad_(False)
    trained = model(x)
    trained.sum().backward()
    assert torch.equal(trained, y) and model.to_in[0].weight.grad.abs().sum() > 0
    x.requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"space": (2, 2, 2, 2)}, "1 to 3 space axes, found 4"),
        ({"box": (1.0, 2.0)}, "one length for each of the 3 space axes.*found 2"),
        ({"history": 2}, "history must divide the 3 input channels, found 2"),
        ({"history": 0}, "history must divide"),
        ({"dim": 16}, "multiple of the 3 channels of one step, found dim 16. Set dim to a multiple of 6"),
        ({"dim": 9}, "found dim 9"),
        ({"dim_head": 5}, "dim_head must be even .*found 5"),
        ({"attention": "chained", "extra_head": True}, "extra_head belongs to attention: parallel"),
    ],
)
def test_refuses_sizes_that_do_not_go_together(arguments, message):
    space = arguments.pop("space", (4, 4, 4))
    with pytest.raises(InputError, match=message):
        IFactFormer(3, 3, space, **(SMALL | arguments))


def test_refuses_fields_that_do_not_fit():
    model = network((4, 5, 3))
    with pytest.raises(InputError, match=r"built for 3 space axes \(4, 5, 3\), found a field on \(4, 5\)"):
        model(torch.zeros(1, 3, 4, 5).double())
    with pytest.raises(InputError, match="holds 3 channels, found 4"):
        model(torch.zeros(1, 4, 4, 5, 3).double())
    placed = network((4, 5, 3), coords="true")
    with pytest.raises(InputError, match="needs the coordinates of the record"):
        placed(torch.zeros(1, 3, 4, 5, 3).double())
    placed.place(tuple(torch.arange(float(n)) for n in (4, 5, 3)))
    with pytest.raises(InputError, match=r"grid of \(4, 5, 3\) nodes.*found a field on \(4, 5, 4\)"):
        placed(torch.zeros(1, 3, 4, 5, 4).double())
    with pytest.raises(InputError, match="cannot run in float16"), torch.autocast("cpu", torch.float16):
        model.float()(torch.zeros(1, 3, 4, 5, 3))


def test_published_initial_values():
    torch.manual_seed(0)
    block = IFactFormer(3, 3, (4, 4, 4)).encoder.layers[0]
    bound = 0.02 * (6 / (96 + 1440)) ** 0.5
    for name in "xyz":
        kernel = getattr(block[1], f"low_rank_kernel_{name}")
        for matrix in (kernel.to_q.weight, kernel.to_k.weight):
            assert bound * 0.99 < matrix.abs().max() <= bound
        torch.testing.assert_close(kernel.pos_emb.inv_freq[72], torch.tensor(0.01))
    assert 6 < block[0][0]._B.std() < 10
