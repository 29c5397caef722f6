import pytest
import torch
from plain_deepfea import PlainDeepFEA
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.errors import InputError
from workbench.models.deepfea import DeepFEA

GRIDS = [(4, 3), (3, 4, 2)]


def network(space, hidden=(3, 4), known=2, **options):
    torch.manual_seed(1)
    model = DeepFEA(len(space) + known, (len(space), 2), space, hidden, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def inputs(space, batch=2, steps=5, states=None):
    """States, forcing, static and supports along one side."""
    torch.manual_seed(2)
    fixed = torch.zeros(batch, 1, *space, dtype=torch.bool)
    fixed[:, :, -1] = True
    x = torch.randn(batch, states or steps, len(space), *space, dtype=torch.float64)
    forcing = torch.randn(batch, steps, 1, *space, dtype=torch.float64)
    return x, forcing, fixed.double(), fixed


def gradients(model, found):
    weight = torch.linspace(-1, 1, found.nodes.numel(), dtype=torch.float64).view_as(found.nodes)
    loss = (found.nodes * weight).sum() + found.elements.square().sum() + found.memory.sin().sum()
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


FED = {"free": None, "taught": [False] * 5, "mixed": [False, True, False, True, True]}


@pytest.mark.parametrize("space", GRIDS)
@pytest.mark.parametrize("fed", FED)
def test_equals_the_usual_formulation_with_its_gradients(space, fed):
    model = network(space, activation="tanh")
    x, forcing, static, fixed = inputs(space)
    plain = PlainDeepFEA(len(space) + 2, len(space), 2, (3, 4), (3, 3), space).double()
    plain.load_state_dict(model.state_dict())
    steps = FED[fed] or [False, *[True] * 4]
    flag = (2 * static - 1)[:, None].expand(-1, 5, *[-1] * (static.ndim - 1))
    nodes, elements = plain(torch.cat([x, forcing, flag], 2), [not f for f in steps])
    found = model(x, forcing, flag[:, 0], fixed=fixed, fed=FED[fed])
    torch.testing.assert_close(found.nodes, nodes)
    torch.testing.assert_close(found.elements, elements)
    expected = torch.autograd.grad(nodes.square().sum() + elements.sum(), list(plain.parameters()))
    ours = dict(model.named_parameters())
    loss = found.nodes.square().sum() + found.elements.sum()
    for (name, _), value in zip(plain.named_parameters(), expected, strict=True):
        torch.testing.assert_close(torch.autograd.grad(loss, ours[name], retain_graph=True)[0], value, msg=name)


@pytest.mark.parametrize("space", [(3, 3), (2, 3, 2)])
@pytest.mark.parametrize("peephole", ["full", "channel", "none"])
@pytest.mark.parametrize("held", [True, False])
def test_gradients_are_those_of_finite_differences(space, peephole, held):
    model = network(space, hidden=(2, 1), peephole=peephole)
    x, forcing, static, fixed = inputs(space, 1, 3, states=1)
    memory = torch.randn(1, model.memory_channels, *space, dtype=torch.float64, requires_grad=True)
    scale = torch.linspace(0.3, 0.6, len(space), dtype=torch.float64) if held else None
    names = [name for name, _ in model.named_parameters()]

    def apply(start, memory, *values):
        arguments = (start, forcing, static if held else static * 0)
        options = {"fixed": fixed if held else None, "scale": scale, "memory": memory}
        found = torch.func.functional_call(model, dict(zip(names, values, strict=True)), arguments, options)
        return tuple(found)

    values = [p.detach().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(apply, (x.requires_grad_(), memory, *values), fast_mode=True)


@pytest.mark.parametrize("space", GRIDS)
def test_memory_carried_over_is_one_long_run(space):
    model = network(space)
    x, forcing, static, fixed = inputs(space, states=1)
    whole = model(x, forcing, static, fixed=fixed)
    state, memory = x, None
    for t in range(5):
        one = model(state, forcing[:, t : t + 1], static, memory=memory)
        state, memory = torch.where(fixed[:, None], x, one.nodes), one.memory
        torch.testing.assert_close(one.nodes[:, 0], whole.nodes[:, t])
        torch.testing.assert_close(one.elements[:, 0], whole.elements[:, t])
    torch.testing.assert_close(memory, whole.memory)


@pytest.mark.parametrize("space", GRIDS)
@pytest.mark.parametrize("states", [1, 5])
@pytest.mark.parametrize("feedback", ["exact", "published"])
def test_segments_computed_again_change_nothing(space, states, feedback):
    model = network(space)
    x, forcing, static, fixed = inputs(space, states=states)
    fed = FED["mixed"] if states == 5 else None
    options = {"fixed": fixed, "fed": fed, "feedback": feedback}
    whole = model(x, forcing, static, **options)
    parts = model(x, forcing, static, segment=2, joint="recompute", **options)
    torch.testing.assert_close(tuple(parts), tuple(whole))
    torch.testing.assert_close(gradients(model, parts), gradients(model, whole))


def test_segments_computed_again_keep_less_memory():
    model, kept = network((8, 8), hidden=(8, 8)), {}
    x, forcing, static, fixed = inputs((8, 8), steps=24, states=1)
    for segment in (0, 4):
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(x, forcing, static, fixed=fixed, segment=segment, joint="recompute")
        kept[segment] = sum(sizes.values())
    assert kept[4] < 0.4 * kept[0]


def test_without_gradients_no_layer_keeps_its_steps():
    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.largest = max(self.largest, found.untyped_storage().nbytes())
            return found

    model, largest = network((8, 8), hidden=(16, 16)), []
    x, forcing, static, fixed = inputs((8, 8), steps=24, states=1)
    for context in (torch.enable_grad, torch.no_grad):
        with context(), Sizes() as sizes:
            model(x, forcing, static, fixed=fixed)
        largest.append(sizes.largest)
    one_step = fixed.numel() * 16 * 8
    assert largest[0] >= 24 * 4 * one_step  # the gates of all steps
    assert largest[1] < 16 * one_step


def test_pushforward_stops_the_gradient_between_segments():
    model = network((4, 3))
    x, forcing, static, fixed = inputs((4, 3), steps=4, states=1)
    first = model(x, forcing[:, :2], static, fixed=fixed)
    start = torch.where(fixed[:, None], x, first.nodes[:, -1:].detach())
    second = model(start, forcing[:, 2:], static, fixed=fixed, memory=first.memory.detach())
    found = model(x, forcing, static, fixed=fixed, segment=2, joint="detach")
    torch.testing.assert_close(found.nodes, torch.cat([first.nodes, second.nodes], 1))
    parameters = list(model.parameters())
    expected = torch.autograd.grad(
        first.nodes.square().sum() + second.nodes.square().sum(), parameters, allow_unused=True
    )
    ours = torch.autograd.grad(found.nodes.square().sum(), parameters, allow_unused=True)
    for one, other in zip(ours, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other)


def test_the_published_gradient_counts_the_feedback_once_for_each_step():
    model = network((4, 3))
    x, forcing, static, fixed = inputs((4, 3), steps=2, states=1)

    def slope(feedback):
        nodes = model(x, forcing, static, fixed=fixed, feedback=feedback).nodes
        return torch.autograd.grad(nodes[:, 1].sum(), model.convlstm.conv2d.bias)[0]

    none, exact, published = (slope(name) for name in ("detach", "exact", "published"))
    assert (exact - none).abs().max() > 1e-3
    torch.testing.assert_close(published - none, 2 * (exact - none))


@pytest.mark.parametrize("space", GRIDS)
def test_samples_do_not_see_each_other(space):
    model = network(space)
    x, forcing, static, fixed = inputs(space, batch=3)
    whole = model(x, forcing, static, fixed=fixed)
    for i in range(3):
        one = model(*(part[i : i + 1] for part in (x, forcing, static)), fixed=fixed[i : i + 1])
        torch.testing.assert_close(tuple(part[0] for part in one), tuple(part[i] for part in whole))


def test_supports_keep_their_place_and_steps_see_their_load():
    model = network((4, 3), peephole="none")
    x, forcing, static, fixed = inputs((4, 3))
    found = model(x, forcing, static, fixed=fixed)
    later = forcing.clone()
    later[:, 3] += 1
    other = model(x, later, static, fixed=fixed)
    same = (found.nodes == other.nodes).flatten(2).all(2)
    assert same[:, :3].all() and not same[:, 3:].any()
    moved = torch.where(fixed[:, None], x, x + 1.0)
    moved[:, 0] = x[:, 0]
    torch.testing.assert_close(tuple(model(moved, forcing, static, fixed=fixed)), tuple(found))
    moved = torch.where(fixed[:, None], x + 1.0, x)
    assert not torch.allclose(model(moved, forcing, static, fixed=fixed).nodes[:, 1:], found.nodes[:, 1:])


def test_without_full_peepholes_any_mesh_will_do():
    model = network((4, 3), peephole="channel")
    x, forcing, static, fixed = inputs((7, 6))
    found = model(x, forcing, static, fixed=fixed)
    assert found.nodes.shape == (2, 5, 2, 7, 6) and found.elements.shape == (2, 5, 2, 6, 5)
    with pytest.raises(InputError, match=r"built for \(4, 3\) nodes, found \(7, 6\)"):
        network((4, 3))(x, forcing, static)


def test_published_sizes_and_initial_values():
    torch.manual_seed(0)
    model = DeepFEA(5, (2, 2), (9, 9))
    assert sum(p.numel() for p in model.parameters()) == 4_697_220 - 3 * (64 + 128 + 256)
    assert sum(p.numel() for p in DeepFEA(7, (3, 2), (9, 5, 5)).parameters()) == 14_070_853
    assert model.convlstm.cell_list[2].W_co.std().item() == pytest.approx(0.75 / 9, rel=0.02)


def test_inference_mode_changes_nothing():
    model = network((4, 3))
    x, forcing, static, fixed = inputs((4, 3))
    found = model(x, forcing, static, fixed=fixed)
    with torch.inference_mode():
        assert torch.equal(model(x, forcing, static, fixed=fixed).nodes, found.nodes)


@pytest.mark.parametrize("space", GRIDS)
def test_autocast_rounds_the_factors_of_convolutions_and_nothing_else(space):
    model = network(space, kernel=3).float()
    x, forcing, static, fixed = inputs(space)
    parts = [part.float() for part in (x, forcing, static)]
    exact = model(*parts, fixed=fixed)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*parts, fixed=fixed)
    assert found.nodes.dtype == found.elements.dtype == found.memory.dtype == torch.float32
    pairs = [(found.nodes, exact.nodes), (found.elements, exact.elements)]
    losses = [(one.nodes.square().sum() + one.elements.sum()) for one in (found, exact)]
    pairs += zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in losses), strict=True)
    for rounded, value in pairs:
        assert rounded.dtype == torch.float32
        assert (rounded - value).norm() < 0.02 * value.norm()
    assert not torch.equal(found.nodes, exact.nodes)
    # the state is a sum of many small changes: were it rounded, it would stand still under these
    with torch.autocast("cpu", torch.bfloat16):
        moved = model(parts[0][:, :1] + 1, *parts[1:], fixed=fixed, scale=torch.full((len(space),), 1e-4))
    assert (moved.nodes - parts[0][:, :1] - 1).abs().max() < 1e-2
    assert moved.nodes.bfloat16().float().ne(moved.nodes).any()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"space": (4,)}, "2 or 3 axes of at least 2 nodes"),
        ({"kernel": 2}, "must be odd.*found 2"),
        ({"hidden": ()}, "one number of channels for each layer"),
        ({"out_channels": (2, 0)}, r"at least one channel.*found \(2, 0\)"),
    ],
)
def test_refuses_sizes_that_do_not_go_together(arguments, message):
    with pytest.raises(InputError, match=message):
        DeepFEA(**({"in_channels": 4, "out_channels": (2, 1), "space": (4, 3), "hidden": (3,)} | arguments))


def test_refuses_fields_that_do_not_fit():
    model = network((4, 3))
    x, forcing, static, _ = inputs((4, 3))
    with pytest.raises(InputError, match="2 channels of the state and 2 that are known, found 2 and 1"):
        model(x, forcing)
    with pytest.raises(InputError, match="5 steps, but there are 2 states"):
        model(x[:, :2], forcing, static)
    with pytest.raises(InputError, match="needs its state"):
        model(x[:, :1], forcing, static, fed=[False] * 5)
