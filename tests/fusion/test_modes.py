"""A fused network in torch's modes and under other tools: it steps aside, and comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint_sequential

import xception
from xception.ops import set_kernels


@pytest.fixture
def assert_equal(pictures):
    def check(fused: nn.Module, plain: nn.Module, **tolerance: float) -> Tensor:
        out = fused(pictures())
        torch.testing.assert_close(out, plain(pictures()), **tolerance)
        return out

    return check


def test_kernels_turned_off(pair, operators, pictures):
    fused, _ = pair
    set_kernels("off")
    assert operators(fused(pictures())) == 0
    set_kernels("auto")
    assert operators(fused(pictures())) > 0


def test_double_precision(pair, step, pictures, assert_near):
    fused, plain = (network.double() for network in pair)
    x = pictures().double()
    assert_near(step(fused, x), step(plain, x), bound=1e-13)


def test_autocast(pair, assert_equal, operators):
    with torch.autocast("cpu", torch.bfloat16):
        assert operators(assert_equal(*pair, rtol=0, atol=0)) == 0


def test_functional_transforms(pair, pictures):
    fused, plain = (network.eval() for network in pair)
    found, expected = (
        torch.func.jvp(network, (pictures(),), (torch.ones_like(pictures()),))
        for network in (fused, plain)
    )
    torch.testing.assert_close(found, expected)
    found, expected = (
        torch.func.vmap(network, randomness="error")(pictures()[:, None])
        for network in (fused, plain)
    )
    torch.testing.assert_close(found, expected)


def test_exported_graphs_hold_torchs_own_operators(pair, pictures):
    fused, plain = (network.eval() for network in pair)
    program = torch.export.export(fused, (pictures(),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names and all(name.startswith("aten.") for name in names)
    torch.testing.assert_close(program.module()(pictures()), plain(pictures()))


def test_traced_graphs_hold_torchs_own_operators(pair, pictures):
    fused, plain = (network.eval() for network in pair)
    traced = torch.jit.trace(fused, pictures())
    assert "xception::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(pictures()), plain(pictures()))


def test_compiled(pair, pictures):
    fused, plain = pair
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pictures()), plain(pictures()))


def test_symbolic_traces_keep_the_layers_whole(pair, assert_same, operators, pictures):
    fused, plain = pair
    graph = torch.fx.symbolic_trace(fused)
    assert_same(graph, plain)
    assert operators(graph(pictures())) > 0


def test_feature_extraction(pair, pictures):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    paths = ["5.layers.1", "5.layers.4", "6.layers.2", "5"]
    found, expected = (
        extraction.create_feature_extractor(network, paths)(pictures()) for network in pair
    )
    for path in paths:
        torch.testing.assert_close(found[path] * 1, expected[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["1", "2", "3", "4", "5", "5.layers.0", "5.layers.1", "5.layers.2",
                                  "5.layers.3", "5.layers.7", "5.layers"])  # fmt: skip
def test_forward_hooks_see_tensors_and_may_change_them(path, pair, assert_same):
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        seen.append(out.detach().clone())
        return out * 0.5

    def look(module: nn.Module, args: Any) -> None:
        assert isinstance(args[0], Tensor)
        seen.append(args[0].detach().clone())

    plain = pair[1].double()
    for network in (pair[0], plain):
        network.get_submodule(path).register_forward_pre_hook(look)
        network.get_submodule(path).register_forward_hook(hook)
    assert_same(*pair)
    assert len(seen) == 4
    for found, expected in zip(seen[:2], seen[2:]):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["1", "3", "4", "5.layers.0", "5.layers.1", "5.layers.3",
                                  "5.layers"])  # fmt: skip
def test_backward_hooks_see_gradients(path, small_network, assert_same):
    plain = small_network(lambda: nn.ReLU6()).train()  # torch forbids them around work in place
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    seen: list[Tensor] = []

    def hook(module: nn.Module, grad_in: Any, grad_out: Any) -> None:
        seen.extend(g.detach().clone() for g in (*grad_in, *grad_out))

    for network in (fused, plain):
        network.get_submodule(path).register_full_backward_hook(hook)
    assert_same(fused, plain)
    half = len(seen) // 2
    assert half >= 2
    for found, expected in zip(seen[:half], seen[half:]):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("path", ["3", "5.layers.0", "5.layers.3", "5.layers.6"])
def test_parametrizations_and_pruning(path, pair, assert_same):
    fused, plain = pair[0], pair[1].double()
    for network in (fused, plain):
        parametrizations.weight_norm(network.get_submodule(path))
    assert_same(fused, plain)
    for network in (fused, plain):
        prune.random_unstructured(network[6].layers[0], "weight", amount=0.0)
    assert_same(fused, plain)
    xception.unfuse(fused)
    assert_same(fused, plain)


REPLACED = {
    "convolution": ("5.layers.3", lambda: nn.Conv2d(48, 48, 3, padding=1, groups=3)),
    "pointwise": ("5.layers.6", lambda: nn.Conv2d(48, 16, 1, bias=True)),
    "normalization": ("5.layers.1", lambda: nn.GroupNorm(4, 48)),
    "activation": ("5.layers.2", nn.GELU),
}


@pytest.mark.parametrize("path, build", REPLACED.values(), ids=REPLACED)
def test_replaced_layers(path, build, pair, assert_same):
    layer = build()
    for network in pair:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, copy.deepcopy(layer))
    assert_same(*pair)


def test_a_layer_left_out_is_noticed_by_fusing_again(pair, assert_same):
    for network in pair:
        network[5].layers[4] = nn.Identity()
    xception.fuse(pair[0])
    assert_same(*pair)


@pytest.mark.parametrize("reentrant, inplace", [(True, False), (False, False), (False, True)])
def test_checkpointing(reentrant, inplace, small_network, assert_same):
    """Running statistics move twice, as they do in torch's own layers."""
    plain = small_network(lambda: nn.ReLU6(inplace=inplace)).train()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)

    class Checkpointed(nn.Module):
        def __init__(self, network: nn.Sequential) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint_sequential(self.network, 2, x, use_reentrant=reentrant)

    assert_same(Checkpointed(fused), Checkpointed(plain))


def test_without_gradients(pair, assert_equal):
    for network in pair:
        network.eval()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert type(assert_equal(*pair)) is Tensor


def test_training_mode_in_inference_mode(pair, assert_equal):
    with torch.inference_mode():
        assert_equal(*pair)
    for (name, a), b in zip(pair[0].named_buffers(), pair[1].buffers()):
        torch.testing.assert_close(a, b, msg=name)


class Logging(nn.Module):
    """Reads what goes from one part to the next in another mode than the rest runs in."""

    def __init__(self, network: nn.Sequential, mode: Any) -> None:
        super().__init__()
        self.first, self.second, self.mode = network[:5], network[5:], mode

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        with self.mode():
            self.mean = x.mean()
        return self.second(x)


MODES = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_reading_in_another_mode_changes_nothing(mode, pair, assert_same):
    fused, plain = (Logging(network, mode) for network in pair)
    assert_same(fused, plain)
    assert fused.mean.dtype == torch.float32


def test_what_inference_mode_has_made_can_be_trained_on(assert_same):
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)).train()

    plain, fused = build(), build()
    xception.fuse(fused)
    with torch.inference_mode():
        x = torch.randn(2, 3, 8, 8)
    for network in (plain, fused):
        network(x).square().sum().backward()
    torch.testing.assert_close(fused[1].weight.grad, plain[1].weight.grad, rtol=1e-3, atol=1e-3)


def test_parts_of_a_network_by_themselves(pair, pictures):
    """What a part gives may be deferred, and is a tensor all the same."""
    fused, plain = pair
    parts = [(network[:4], network[4:6], network[6:]) for network in (fused, plain)]
    found, expected = (last(middle(first(pictures()))) for first, middle, last in parts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found, expected = (first(pictures()).numpy(force=True) for first, _, _ in parts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_sizes_than_the_example(pair, assert_same, pictures):
    for side in (2, 5, 40):
        assert_same(*copy.deepcopy(pair), pictures(side, 4))


def test_a_single_value_a_channel_is_refused_as_torch_does(small_network):
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).train()
    xception.fuse(network)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.zeros(1, 3, 1, 1))


def test_no_pictures(pair, pictures):
    fused, plain = (network[:7].eval() for network in pair)
    x = pictures()[:0]
    assert fused(x).shape == plain(x).shape == (0, 16, 9, 9)


def test_layouts_in_memory(pair, assert_same, pictures):
    x = pictures()
    assert_same(*copy.deepcopy(pair), x.contiguous(memory_format=torch.channels_last))
    assert_same(*pair, x[:, :, ::2].flip(3))


def test_distributed_data_parallel(pair, pictures, tmp_path):
    if not dist.is_available():
        pytest.skip("torch is built without torch.distributed")
    place = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        networks = [nn.parallel.DistributedDataParallel(network) for network in pair]
        for network in networks:
            network(pictures()).square().mean().backward()
    finally:
        dist.destroy_process_group()
    for (name, a), b in zip(pair[0].named_parameters(), pair[1].parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)
