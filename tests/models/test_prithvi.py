"""Prithvi WxC: the plain formulation, what masked tokens cannot do, symmetries, precision, memory, what it refuses."""

import itertools

import pytest
import torch
from plain_prithvi import PlainPrithvi
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.errors import InputError
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_blocks import Block
from workbench.models.prithvi_masking import draw_order, order_of
from workbench.models.prithvi_products import linear_of, linear_of_norm

SPACE = (8, 12)  # 2 by 3 windows of 2 by 2 tokens
CHANNELS, STATIC = 3, 6
LATITUDES, LONGITUDES = torch.linspace(-70, 75, 8).double(), torch.linspace(-180, 150, 12).double()
SMALL = {"embed_dim": 16, "n_heads": 2, "n_blocks_encoder": 2, "n_blocks_decoder": 2, "mask_unit_size_px": (4, 4)}


def network(dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = PrithviWxC(CHANNELS, STATIC, SPACE, **(SMALL | options)).to(dtype)
    model.place((LATITUDES, LONGITUDES))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("_mu", "_sigma", "scalers")):
                buffer += torch.rand_like(buffer)
    return model


def sample(batch=2, dtype=torch.float64):
    torch.manual_seed(1)
    shapes = {"x": (2, CHANNELS), "static": (STATIC,), "climate": (CHANNELS,)}
    fields = {name: torch.randn(batch, *shape, *SPACE, dtype=dtype) for name, shape in shapes.items()}
    times = {"input_time": torch.tensor([3.0, 6.0]), "lead_time": torch.tensor([6.0, -3.0])}
    return fields | {name: value[:batch].to(dtype) for name, value in times.items()}


def plain_of(model, **options):
    """The plain network with the same weights, and a function from our inputs to its output."""
    absolute = model.positional_encoding == "absolute"
    channels = STATIC + (3 if absolute else 0)
    plain = PlainPrithvi(CHANNELS, channels, *SPACE, (2, 2), **(SMALL | options))
    plain.double().load_state_dict(model.state_dict())

    def apply(inputs, indices):
        latitude, longitude = torch.broadcast_tensors(LATITUDES.deg2rad()[:, None], LONGITUDES.deg2rad())
        places = [latitude, longitude]
        if absolute:
            places = [latitude.sin(), longitude.cos(), longitude.sin()]
        places = torch.stack(places).expand(len(inputs["x"]), -1, -1, -1)
        return plain(inputs | {"static": torch.cat([places, inputs["static"]], 1)}, indices)

    return plain, apply


def every_index(order, batch=2):
    windows = torch.arange(6).expand(batch, -1)
    return (windows[:, :0], windows) if order is None else tuple(order)


CASES = {
    "dense": ({"encoder_shifting": True}, None, 0.0),
    "local": ({"residual": "temporal"}, "local", 0.5),
    "global": ({"residual": "none", "positional_encoding": "absolute", "decoder_shifting": False}, "global", 0.5),
}


@pytest.mark.parametrize("options,masking,ratio", CASES.values(), ids=CASES)
def test_equals_the_plain_formulation_with_its_gradients(options, masking, ratio):
    model = network(checkpoint_encoder=(1, 4), **options)
    plain, apply = plain_of(model, **{"decoder_shifting": True} | options)
    order = draw_order(masking, 2, model.tiling.shape, ratio, torch.device("cpu")) if masking else None
    inputs = sample()
    found = {}
    for name, run in (("ours", lambda i: model(**i, order=order)), ("plain", lambda i: apply(i, every_index(order)))):
        x = inputs["x"].clone().requires_grad_()
        y = run(inputs | {"x": x})
        y.square().sum().backward()
        owner = model if name == "ours" else plain
        found[name] = {"y": y, "x": x.grad} | {key: p.grad for key, p in owner.named_parameters()}
    for key, expected in found["plain"].items():
        torch.testing.assert_close(found["ours"][key], expected, rtol=1e-9, atol=1e-10, msg=key)


def test_products_have_the_gradients_of_finite_differences():
    torch.manual_seed(0)
    norm, linear = torch.nn.LayerNorm(3).double(), torch.nn.Linear(3, 4).double()
    z = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    check_gradients(lambda z: linear_of_norm(norm, linear, z, z.dtype), (z,), norm, linear)
    residual = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    for gelu, bias, added in itertools.product((True, False), repeat=3):
        other = torch.nn.Linear(3, 4, bias=bias).double()
        inputs = (z, residual) if added else (z,)
        check_gradients(lambda *z, other=other, gelu=gelu: linear_of(other, *z, gelu=gelu), inputs, other)


def check_gradients(function, inputs, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    assert torch.autograd.gradcheck(lambda *values: function(*values[: len(inputs)]), (*inputs, *parameters))


@pytest.mark.parametrize("frozen", ["encoder", "unembed", "mask_token"])
def test_frozen_parts_change_no_other_gradient(frozen):
    inputs, found = sample(), []
    for freeze in (False, True):
        model = network(mask_ratio_inputs=0.5)
        if freeze:
            getattr(model, frozen).requires_grad_(False)
        torch.manual_seed(2)
        model(**inputs).square().sum().backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
    assert all(found[1][key] is None for key in found[0] if key.startswith(frozen))
    kept = [key for key in found[0] if not key.startswith(frozen)]
    assert kept and all(torch.equal(found[0][key], found[1][key]) for key in kept)


# ---------------------------------------------------------------------------------------------- masking


@pytest.mark.parametrize("masking", ["local", "global"])
def test_what_is_masked_is_not_seen(masking):
    """The states at masked tokens change nothing; those at the others change something everywhere."""
    model, inputs = network(), sample()
    mask = torch.zeros(2, *model.tiling.shape, dtype=torch.bool)
    mask[:, :, :2] = masking == "local"
    mask[:, 1] |= masking == "global"
    order = order_of(mask if masking == "local" else mask[..., 0])
    seen = model.tiling.fields((~mask).double().transpose(0, 1)[..., None].expand(-1, -1, -1, 4))
    y = model(**inputs, order=order)
    noise = torch.randn_like(inputs["x"])
    for part, changes in ((1 - seen, False), (seen, True)):
        other = model(**inputs | {"x": inputs["x"] + part[:, None] * noise}, order=order)
        assert bool(((other - y).abs() > 1e-6).all()) == changes
        assert torch.equal(other, y) != changes


def test_masked_tokens_know_their_climate():
    model, inputs = network(), sample()
    order = order_of(torch.arange(6).expand(2, -1) < 3)
    y = model(**inputs, order=order)
    other = dict(inputs, climate=inputs["climate"].clone())
    other["climate"][:, :, :4, :4] += 1  # in a masked window
    assert (model(**other, order=order) - y)[:, :, 4:].abs().min() > 0


def test_masking_can_be_turned_off_and_changed_at_any_time():
    model, inputs = network(mask_ratio_inputs=0.5), sample()
    dense = network()(**inputs)
    assert not torch.equal(model(**inputs), dense)
    assert torch.equal(model(**inputs, mask_ratio=0.0), dense)  # as from the second step of a rollout
    model.mask_ratio_inputs = 0.0
    assert torch.equal(model(**inputs), dense) and torch.equal(model.eval()(**inputs), dense)
    seen = []
    model.encoder.register_forward_hook(lambda _, tokens, __: seen.append(tuple(tokens[0].shape[:3])))
    for ratio in (0.0, 0.5, 0.75):
        model.mask_ratio_inputs = ratio
        for _ in range(2):
            model(**inputs)
            model.swap_masking()
    assert seen == [(6, 2, 4), (6, 2, 4), (6, 2, 2), (3, 2, 4), (6, 2, 1), (2, 2, 4)]
    fixed = network(masking_mode="global")
    fixed.swap_masking()
    assert fixed.masking == "global"


def test_order_of_dense_tokens_matters_only_within_windows():
    """Windows may come in any order, as attention across them knows no order; tokens of windows may not."""
    inputs = sample()
    dense = network()(**inputs)
    for masking, same in (("global", True), ("local", False)):
        model = network(masking_mode=masking, random_order=True)
        assert torch.allclose(model(**inputs), dense, rtol=1e-10, atol=1e-10) == same
        assert torch.equal(model(**inputs), model(**inputs)) is False


def test_an_explicit_mask_keeps_the_order_of_the_rest():
    mask = torch.tensor([[False, True, False, True, False], [True, False, False, False, True]])
    order = order_of(mask)
    assert order.masked.tolist() == [[1, 3], [0, 4]] and order.kept.tolist() == [[0, 2, 4], [1, 2, 3]]
    with pytest.raises(InputError, match="same number of masked entries, fewer than 5, in every row; found 1 to 2"):
        order_of(mask & torch.tensor([[True] * 5, [True] * 4 + [False]]))
    with pytest.raises(InputError, match="found 5 to 5 in rows of 5"):
        order_of(torch.ones(1, 5, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- symmetries


def test_a_turn_of_the_globe_by_whole_windows_turns_the_forecast():
    """Windows that move across the date line are windows like others, as nothing is masked there."""
    model, inputs = network(encoder_shifting=True), sample()
    y = model(**inputs)
    model.place((LATITUDES, LONGITUDES.roll(4)))
    turned = model(**{key: value.roll(4, -1) if value.ndim > 1 else value for key, value in inputs.items()})
    torch.testing.assert_close(turned, y.roll(4, -1), rtol=1e-10, atol=1e-10)
    still = network()(**inputs)
    assert (still - y).abs().max() > 1e-3


def test_samples_do_not_see_each_other():
    model, inputs = network(encoder_shifting=True), sample()
    y = model(**inputs)
    for n in range(2):
        one = model(**{key: value[n : n + 1] for key, value in inputs.items()})
        torch.testing.assert_close(one, y[n : n + 1], rtol=1e-11, atol=1e-11)


def test_scalers_are_a_change_of_units():
    physical, plain = network(), network()
    torch.manual_seed(3)
    mean, std, scale = (1 + torch.rand(CHANNELS).double() for _ in range(3))
    static_mean, static_std = 1 + torch.rand(STATIC).double(), 1 + torch.rand(STATIC).double()
    physical.standardise(mean, std, static_mean, static_std, scale)
    zero, one = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    plain.standardise(zero, one, torch.zeros(STATIC).double(), torch.ones(STATIC).double(), one)
    m, s, q = (v.view(-1, 1, 1) for v in (mean, std, scale))
    inputs = sample()
    scaled = dict(inputs, x=inputs["x"] * s + m, climate=inputs["climate"] * s + m)
    scaled["static"] = inputs["static"] * static_std.view(-1, 1, 1) + static_mean.view(-1, 1, 1)
    y = (plain(**inputs) - inputs["climate"]) * q + scaled["climate"]
    torch.testing.assert_close(physical(**scaled), y, rtol=1e-10, atol=1e-10)


def test_places_may_be_given_point_by_point():
    model, inputs = network(), sample()
    y = model(**inputs)
    maps = torch.meshgrid(LATITUDES, LONGITUDES, indexing="ij")
    model.place(maps)
    torch.testing.assert_close(model(**inputs), y, rtol=1e-11, atol=1e-11)
    model.place((maps[0] + 5 * torch.rand(SPACE), maps[1]))
    assert not torch.allclose(model(**inputs), y)


def test_encoding_of_a_token_is_that_of_its_centre():
    model = network()
    found = model.grid.tokens(2).view(6, 2, 4, 2, 2, 4)  # window, sample, token, function, coordinate, wavenumber
    window, token, k = 4, 3, 2  # second row and column of both
    latitude, longitude = LATITUDES[6:8].mean().deg2rad(), LONGITUDES[6:8].mean().deg2rad()
    expected = torch.stack([f(k * c) for f in (torch.sin, torch.cos) for c in (latitude, longitude)]).view(2, 2)
    torch.testing.assert_close(found[window, 1, token, ..., k - 1], expected)


# ---------------------------------------------------------------------------------------------- training


def test_a_dropped_branch_leaves_its_sample():
    """Each sample sees attention and MLP at 1 / (1 - p), or not at all; both happen."""
    torch.manual_seed(0)
    block = Block(8, 2, 4, 0.0, 0.4).double().train()
    whole = Block(8, 2, 4, 0.0, 0.0).double()
    whole.load_state_dict(block.state_dict())
    z = torch.randn(3, 40, 2, 8, dtype=torch.float64)
    norm, attention = whole.attention
    heads = attention(linear_of_norm(norm, attention.qkv_layer, z, z.dtype), "tokens")
    attended = attention.w_layer(heads)
    candidates = []
    for first in (0.0, 1 / 0.6):
        middle = z + first * attended
        change = whole.ff[1].net(whole.ff[0](middle))
        candidates += [middle, middle + change / 0.6]
    found = block(z, "tokens")
    matches = torch.stack([torch.isclose(found, c, rtol=1e-10, atol=1e-10).all(-1).all(-1).all(0) for c in candidates])
    assert bool((matches.sum(0) == 1).all()) and bool((matches.sum(1) > 0).all())
    assert torch.equal(block.eval()(z, "tokens"), whole(z, "tokens"))


def test_drop_path_is_that_of_the_encoder_alone():
    model = network(drop_path=0.3)
    rates = {name: {block.drop_path for block in stack.lgl_block.transformers} for name, stack in model.named_children()
             if name in ("encoder", "decoder")}  # fmt: skip
    assert rates == {"encoder": {0.3}, "decoder": {0.0}}


@pytest.mark.parametrize("option", ["dropout", "drop_path", "parameter_dropout"])
def test_chance_acts_in_training_only_and_repeats_in_checkpoints(option):
    inputs, found = sample(), []
    for blocks in ((), range(5)):
        model = network(**{option: 0.4}, checkpoint_encoder=tuple(blocks), checkpoint_decoder=tuple(blocks))
        assert torch.equal(model.eval()(**inputs), network()(**inputs))
        torch.manual_seed(5)
        y = model.train()(**inputs)
        y.square().sum().backward()
        assert not torch.equal(y, model(**inputs))
        found.append([y, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)


def test_autocast_is_for_blocks_only():
    model, inputs = network(torch.float32), sample(dtype=torch.float32)
    target = torch.randn(2, CHANNELS, *SPACE)

    def step():
        y = model(**inputs)
        return y.detach(), torch.autograd.grad((y - target).square().mean(), list(model.parameters()))

    y, exact = step()
    seen = {}
    block = model.encoder.lgl_block.transformers[1]
    block.register_forward_hook(lambda _, z, out: seen.update(stream=(z[0].dtype, out.dtype)))
    block.attention[1].register_forward_hook(lambda _, qkv, out: seen.update(attention=(qkv[0].dtype, out.dtype)))
    model.unembed.register_forward_hook(lambda _, z, out: seen.update(out=(z[0].dtype, out.dtype)))
    kept = set()  # of the hidden channels
    note = torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.add(t.dtype) if t.ndim == 4 and t.shape[-1] == 64 else None, t)[1], lambda t: t
    )
    with torch.autocast("cpu", torch.bfloat16), note:
        half, found = step()
    single, low = (torch.float32,) * 2, (torch.bfloat16,) * 2
    assert seen == {"stream": single, "attention": low, "out": single}
    assert kept == {torch.bfloat16} and half.dtype == torch.float32
    assert 0 < (half - y).norm() < 0.01 * y.norm()
    for ours, expected in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32 and (ours - expected).norm() <= 0.05 * expected.norm()


# ---------------------------------------------------------------------------------------------- memory


class Operations(TorchDispatchMode):
    """Notes the name of every operation."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def saved_bytes(run):
    """What a forward pass leaves in memory for the backward pass, parameters aside."""
    storages = {}

    def note(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and not tensor.is_leaf:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


def test_dense_tokens_are_neither_gathered_nor_masked():
    moves = {"index_select", "gather", "index", "index_copy", "scatter", "sort", "rand"}
    inputs, seen = sample(), []
    for ratio in (0.0, 0.5):
        operations = Operations()
        with operations:
            network(mask_ratio_inputs=ratio)(**inputs)
        seen.append(operations.names & moves)
    assert not seen[0] and {"index_select", "index_copy", "sort", "rand"} <= seen[1]


def test_a_block_keeps_ten_values_a_token_and_channel():
    inputs = sample()
    tokens = 2 * 24 * 16 * 8  # samples, tokens, channels, bytes
    kept = {}
    for pairs, blocks in ((2, ()), (4, ()), (4, range(5, 9))):
        model = network(n_blocks_encoder=pairs, checkpoint_encoder=tuple(blocks))
        kept[pairs, bool(blocks)] = saved_bytes(lambda model=model: model(**inputs))
    a_block = (kept[4, False] - kept[2, False]) / 4 / tokens
    assert 10 <= a_block < 10.6, "and a mean, a deviation and a few sums"
    assert kept[4, True] - kept[2, False] <= 4 * tokens


def test_a_dense_step_takes_three_quarters_of_the_plain_memory():
    """Largest size of all tensors at once, beside parameters and their gradients."""
    inputs = sample()
    model = network(n_blocks_encoder=4)
    plain, apply = plain_of(model, n_blocks_encoder=4, decoder_shifting=True)
    peaks = []
    for owner, run in ((model, lambda: model(**inputs)), (plain, lambda: apply(inputs, every_index(None)))):
        run().sum().backward()
        tracker = MemTracker()
        tracker.track_external(owner, *inputs.values())
        with tracker:
            run().sum().backward()
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
        peaks.append(sum(size for kind, size in peak.items() if getattr(kind, "name", "") in ("ACT", "TEMP")))
    assert peaks[0] < 0.7 * peaks[1]


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"embed_dim": 18}, r"embed_dim must be a multiple of 4 and of n_heads \(2\), found 18"),
        ({"n_heads": 3}, r"n_heads \(3\), found 16"),
        ({"history": 0}, "history of at least 1"),
        ({"static": 3}, "the 4 of the calendar, found history 2 and 3 static channels"),
        ({"checkpoint_decoder": (1, 7)}, r"checkpoint_decoder counts 5 blocks \(2 pairs and one\) from 0, found \[7\]"),
        ({"space": (8, 12, 4)}, r"fields on \(latitude, longitude\)"),
        ({"space": (10, 12)}, "10 points of latitude are no whole number of mask units of 4: crop to 8 or pad to 12"),
        ({"space": (8, 3)}, "3 points of longitude are no whole number of mask units of 4: pad to 4"),
        ({"space": (361, 576), "mask_unit_size_px": (30, 32)}, "crop to 360 or pad to 390 points"),
        ({"space": (8, 18)}, "or set mask_unit_size_px to 2$"),
        ({"mask_unit_size_px": (4, 5)}, "found 5 and 2 along longitude: take 4"),
    ],
)
def test_refuses_sizes_that_do_not_go_together(arguments, message):
    space, static = arguments.pop("space", SPACE), arguments.pop("static", STATIC)
    with pytest.raises(InputError, match=message):
        PrithviWxC(CHANNELS, static, space, **(SMALL | arguments))


@pytest.mark.parametrize("shifting", ["encoder_shifting", "decoder_shifting"])
def test_warns_of_an_output_that_stays_moved(shifting):
    options = {"n_blocks_encoder": 1, "n_blocks_decoder": 1, "decoder_shifting": False, shifting: True}
    with pytest.warns(UserWarning, match=f"with {shifting} and an odd number of pairs"):
        network(**options)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"x": torch.zeros(2, 1, CHANNELS, *SPACE).double()}, r"needs x of shape \(2, 2, 3, 8, 12\).*found \(2, 1, 3"),
        ({"static": torch.zeros(2, 5, *SPACE).double()}, r"needs static of shape \(2, 6, 8, 12\)"),
        ({"lead_time": torch.zeros(3)}, r"needs lead_time of shape \(2,\), found \(3,\)"),
        ({"climate": None}, r"needs climate of shape \(2, 3, 8, 12\), found none"),
        ({"mask_ratio": 1.0}, "at least 0 and below 1, found 1.0"),
        ({"mask_ratio": -0.1}, "found -0.1"),
        ({"order": order_of(torch.arange(6)[None] < 2)}, r"the 6 windows of each of 2 samples.*found \(1, 6\)"),
    ],
)
def test_refuses_tensors_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        network()(**(sample() | changes))


def test_refuses_what_it_cannot_mask_or_place():
    with pytest.raises(InputError, match="encoder_shifting moves whole fields of tokens and takes no masking"):
        network(encoder_shifting=True)(**sample(), mask_ratio=0.5)
    model = PrithviWxC(CHANNELS, STATIC, SPACE, **SMALL).double()
    with pytest.raises(InputError, match=r"call place\(coordinates\)"):
        model(**sample())
    with pytest.raises(InputError, match=r"a latitude for each of 8 points along its axis.*found \(9,\)"):
        model.place((torch.zeros(9), LONGITUDES))
    with pytest.raises(InputError, match="a latitude must be in degrees, within 90 of 0; found -180 to 150"):
        model.place((torch.linspace(-180, 150, 8), LONGITUDES))
    with pytest.raises(InputError, match="longitude must be in degrees"):
        model.place((LATITUDES, LONGITUDES * torch.nan))
    with pytest.raises(InputError, match=r"needs static_input_scalers_mu of shape \(6,\), found \(3,\)"):
        one = torch.ones(CHANNELS)
        model.standardise(one, one, one, one, one)
