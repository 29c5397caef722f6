import pytest
import torch

from workbench.models.convlstm import march, replayed
from workbench.models.cuda_graphs import Graphs
from workbench.models.deepfea import DeepFEA

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")

FED = [None, [False] * 6, [False, True, False, True, True, False]]


def case(space=(5, 4)):
    torch.manual_seed(0)
    model = DeepFEA(len(space) + 2, (len(space), 1), space, (8, 12), peephole="channel").cuda()
    x = torch.randn(3, 6, len(space), *space, device="cuda")
    forcing, static = torch.randn(3, 6, 1, *space, device="cuda"), torch.randn(3, 1, *space, device="cuda")
    fixed = torch.zeros(3, 1, *space, dtype=torch.bool, device="cuda")
    fixed[:, :, 0] = True
    return model, x, forcing, static, fixed


def results(model, x, forcing, static, fixed, fed):
    model.zero_grad()
    found = model(x, forcing, static, fixed=fixed, fed=fed)
    (found.nodes.square().mean() + found.elements.abs().mean()).backward()
    return [found.nodes, found.elements, found.memory, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("space", [(5, 4), (3, 4, 2)])
def test_equal_the_same_kernels_without_graphs(space, monkeypatch):
    model, *tensors = case(space)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.models.convlstm.replayed", march)
        expected = [results(model, *tensors, fed) for fed in FED]
    for _ in range(2):  # captured, then replayed
        for fed, values in zip(FED, expected, strict=True):
            for one, value in zip(results(model, *tensors, fed), values, strict=True):
                torch.testing.assert_close(one, value)
    assert replayed.captured


def test_new_weights_and_inputs_are_seen():
    model, x, *tensors = case()
    with torch.inference_mode():
        before = model(x, *tensors[:2]).nodes
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    with torch.inference_mode():
        after = model(x, *tensors[:2]).nodes
    with torch.no_grad():
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, model.cpu()(x.cpu(), *(one.cpu() for one in tensors[:2])).nodes.cuda())


def test_two_calls_before_their_gradients_do_not_disturb_each_other():
    model, x, *tensors = case()
    expected = [
        torch.autograd.grad(model(scale * x, *tensors[:2]).nodes.sum(), list(model.parameters())[:1])[0]
        for scale in (1.0, 2.0)
    ]
    first, second = (model(scale * x, *tensors[:2]).nodes.sum() for scale in (1.0, 2.0))
    for one, value in zip((first, second), expected, strict=True):
        torch.testing.assert_close(torch.autograd.grad(one, list(model.parameters())[:1])[0], value)


def test_gradients_add_up_over_calls():
    model, *tensors = case()
    once = [gradient.clone() for gradient in results(model, *tensors, None)[3:]]
    found = model(*tensors[:3], fixed=tensors[3])
    (found.nodes.square().mean() + found.elements.abs().mean()).backward()
    for parameter, value in zip([p for p in model.parameters() if p.grad is not None], once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * value)


def test_the_oldest_graph_goes_first():
    double = Graphs(lambda key, x: (2 * x,), limit=2)
    for length in (1, 2, 3):
        torch.testing.assert_close(double("", torch.ones(length, device="cuda"))[0], torch.full((length,), 2.0).cuda())
    assert len(double.captured) == 2
