"""The fused way steps aside where a module is not what it was built as, and in torch's modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from xception import create_model
from xception.nn import MaxPool2d, SeparableConv2d
from xception.ops import set_kernels
from xception.ops.kernels import usable_names

SHAPE = (4, 3, 28, 31)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    before = set_kernels("auto")
    yield
    set_kernels(before)


def network(name: str = "xception_tiny") -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=5)


def pictures() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def operators_of(out: Tensor) -> list[str]:
    """Which of our operators the graph of `out` holds."""
    found, nodes, seen = [], [out.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "xception" in type(node).__name__.lower():
            found.append(type(node).__name__)
        nodes += [following for following, _ in node.next_functions]
    return found


def copy_of_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def same_as_plain(model: nn.Module) -> int:
    """Outputs and running statistics are plain torch's to rounding; how many operators were used.

    Gradients of a whole network are not compared: rounding may change who wins a pool.
    """
    before = copy_of_state(model)
    out = model(pictures())
    found = copy_of_state(model)
    model.load_state_dict(before)
    set_kernels("off")
    expected = model(pictures())
    set_kernels("auto")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
    return len(operators_of(out))


INSIDE = [  # a path of each kind of module below a block or tail
    "entry_flow.1.units", "entry_flow.1.units.1", "entry_flow.1.units.1.act",
    "entry_flow.1.units.1.conv", "entry_flow.1.units.1.conv.depthwise",
    "entry_flow.1.units.1.conv.pointwise", "entry_flow.1.units.1.conv.intermediate_activation",
    "entry_flow.1.units.1.norm", "entry_flow.1.pool", "entry_flow.1.skip", "entry_flow.1.skip.conv",
    "entry_flow.1.skip.norm", "middle_flow.0.skip", "tail.0", "tail.0.act", "tail.0.conv",
    "tail.0.conv.depthwise", "tail.0.norm", "tail.1",
]  # fmt: skip


@pytest.mark.parametrize("path", INSIDE)
def test_hooks_inside_a_block_fire(path: str) -> None:
    """Once each call, with the module's own output; until they are removed."""
    model = network("xception_small").train()
    untouched = same_as_plain(model)
    outputs: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _, __, out: outputs.append(out))
    assert same_as_plain(model) < untouched
    assert len(outputs) == 2  # with the kernels, and without them
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)
    handle.remove()
    assert same_as_plain(model) == untouched


@pytest.mark.parametrize("path", ["entry_flow.1", "tail", "middle_flow.0"])
def test_hooks_around_a_block_fire_and_it_stays_fused(path: str) -> None:
    model = network("xception_small").train()
    untouched = same_as_plain(model)
    outputs: list[Tensor] = []
    model.get_submodule(path).register_forward_hook(lambda _, __, out: outputs.append(out))
    assert same_as_plain(model) == untouched and len(outputs) == 2


def test_a_hook_may_change_what_it_sees() -> None:
    model = network().train()
    model.middle_flow[0].units[1].norm.register_forward_hook(lambda _, __, out: out * 0 + 1)
    same_as_plain(model)


def biased_skip() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(64, 128, 1, stride=2), nn.BatchNorm2d(128))


class Doubled(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


REPLACED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "activation": ("entry_flow.1.units.1.act", nn.GELU),
    "activation's subclass": ("entry_flow.1.units.1.act", Doubled),
    "activation in place": ("middle_flow.0.units.0.act", lambda: nn.ReLU(inplace=True)),
    "depth multiplier": (
        "entry_flow.1.units.1.conv",
        lambda: SeparableConv2d(128, 128, depth_multiplier=2),
    ),
    "pointwise first": (
        "entry_flow.1.units.1.conv",
        lambda: SeparableConv2d(128, 128, order="pointwise_first"),
    ),
    "regular convolution": (
        "entry_flow.1.units.1.conv",
        lambda: nn.Conv2d(128, 128, 3, padding=1, bias=False),
    ),
    "bias": ("entry_flow.1.units.1.conv", lambda: SeparableConv2d(128, 128, bias=True)),
    "group norm": ("entry_flow.1.units.1.norm", lambda: nn.GroupNorm(8, 128)),
    "norm without weights": (
        "entry_flow.1.units.1.norm",
        lambda: nn.BatchNorm2d(128, affine=False),
    ),
    "norm without statistics": (
        "entry_flow.1.units.1.norm",
        lambda: nn.BatchNorm2d(128, track_running_stats=False),
    ),
    "average pool": ("entry_flow.1.pool", lambda: nn.AvgPool2d(3, 2, 1)),
    "torch's max pool": ("entry_flow.1.pool", lambda: nn.MaxPool2d(3, 2, 1)),
    "skip with a bias": ("entry_flow.1.skip", biased_skip),
    "skip of one": ("entry_flow.1.skip", lambda: nn.Conv2d(64, 128, 1, stride=2, bias=False)),
    "no units": ("middle_flow.0.units", nn.Sequential),
    "a unit gone": ("middle_flow.0.units.1", nn.Identity),
}


@pytest.mark.parametrize("what", REPLACED)
def test_replaced_modules_are_used(what: str) -> None:
    model = network().train()
    untouched = same_as_plain(model)
    path, make = REPLACED[what]
    model.set_submodule(path, make())
    assert same_as_plain(model) < untouched


@pytest.mark.parametrize("what, path, make", [
    ("another stride", "entry_flow.1.pool", lambda: MaxPool2d(2, "torch")),
    ("5x5", "entry_flow.1.units.1.conv", lambda: SeparableConv2d(128, 128, 5)),
    ("no activation", "entry_flow.1.units.1.act", nn.Identity),
    ("no momentum", "entry_flow.1.units.1.norm", lambda: nn.BatchNorm2d(128, momentum=None)),
])  # fmt: skip
def test_replaced_by_what_is_served_too(what: str, path: str, make: Callable[[], Any]) -> None:
    model = network().train()
    untouched = same_as_plain(model)
    model.set_submodule(path, make())
    assert same_as_plain(model) == untouched


@pytest.mark.parametrize("change", [
    parametrizations.weight_norm, parametrizations.orthogonal,
    lambda m: prune.l1_unstructured(m, "weight", 0.5),
], ids=["weight_norm", "orthogonal", "pruning"])  # fmt: skip
@pytest.mark.parametrize("path", ["entry_flow.1.units.1.conv.pointwise", "entry_flow.1.skip.conv"])
def test_parametrized_weights_are_used(path: str, change: Callable[[nn.Module], Any]) -> None:
    model = network().train()
    untouched = same_as_plain(model)
    change(model.get_submodule(path))
    assert same_as_plain(model) < untouched


@pytest.mark.parametrize("paths", [
    ["entry_flow.1.units.0.norm"], ["middle_flow.0.units.1.norm", "entry_flow.1.skip.norm"],
    ["stem"],
    ["entry_flow.0.units.1", "tail"],
])  # fmt: skip
def test_some_normalizations_in_eval_while_the_rest_trains(paths: list[str]) -> None:
    """As in fine-tuning with statistics kept: these use them, and leave them as they are."""
    model = network("xception_small").train()
    for path in paths:
        model.get_submodule(path).eval().requires_grad_(False)
    before = copy_of_state(model)
    same_as_plain(model)
    for path in paths:
        for key, tensor in model.get_submodule(path).state_dict().items():
            assert torch.equal(tensor, before[f"{path}.{key}"])


def test_frozen_weights_take_no_gradient_and_change_no_other() -> None:
    full, frozen = network().train(), network().train()
    frozen.entry_flow.requires_grad_(False)
    for model in (full, frozen):
        model(pictures()).square().sum().backward()
    theirs = dict(full.named_parameters())
    for name, parameter in frozen.named_parameters():
        if name.startswith("entry_flow"):
            assert parameter.grad is None
        elif not name.startswith("stem"):
            assert torch.equal(parameter.grad, theirs[name].grad), name


def test_the_state_dict_is_the_same() -> None:
    model = network().train()
    before = list(model.state_dict())
    model(pictures()).sum().backward()
    set_kernels("off")
    assert list(model.state_dict()) == before == list(network().state_dict())


def test_one_value_a_channel_is_torch_s_own_error() -> None:
    block = network().middle_flow[0].train()
    messages = []
    for name in ("auto", "off"):
        set_kernels(name)
        with pytest.raises(ValueError, match="more than 1 value per channel") as error:
            block(torch.ones(1, 128, 1, 1))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_checkpointing_counts_a_batch_once() -> None:
    """Gradients and buffers equal those without it, bit for bit."""
    kept, again = network("xception_small").train(), network("xception_small").train()
    again.set_grad_checkpointing()
    for model in (kept, again):
        out = model(pictures())
        out.square().sum().backward()
    expected = kept.state_dict()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert expected["tail.0.norm.num_batches_tracked"] == 1
    theirs = dict(kept.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter.grad, theirs[name].grad), name


def test_compiles_into_one_graph_with_the_operators_in_it() -> None:
    """A training step: loss, buffers and gradients, as without compiling."""
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    eager, compiled = network().train(), network().train()
    step = torch.compile(compiled, fullgraph=True, backend=backend)
    for model in (eager, step):
        model(pictures()).square().sum().backward()
    assert sum("xception.merge" in target for target in seen) == 5
    for (key, ours), theirs in zip(compiled.state_dict().items(), eager.state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=key)
    theirs = dict(eager.named_parameters())
    for name, parameter in compiled.named_parameters():
        expected = theirs[name].grad
        allowed = 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=allowed, msg=name)


def test_an_exported_network_holds_no_operator_of_ours() -> None:
    model = network().eval()
    exported = torch.export.export(model, (pictures(),))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets and not any("xception" in target for target in targets)
    torch.testing.assert_close(
        exported.module()(pictures()), model(pictures()), rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_a_traced_network_holds_no_operator_of_ours() -> None:
    with torch.no_grad():
        traced = torch.jit.trace(network().eval(), pictures(), check_trace=False)
    assert "xception::" not in str(traced.inlined_graph)


def test_inference_mode() -> None:
    model = network().eval()
    with torch.inference_mode():
        out = model(pictures())
    torch.testing.assert_close(out, model(pictures()).detach(), rtol=0, atol=0)


def test_second_derivatives_of_a_block_are_those_of_plain_torch() -> None:
    """A gradient penalty, through the statistics of each normalization."""
    block = network().middle_flow[0].train()
    shape = (4, block.units[0].conv.depthwise.in_channels, 7, 6)

    def second() -> list[Tensor]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = block(x)
        (grad,) = torch.autograd.grad(out.square().mean(), x, create_graph=True)
        return [out, *torch.autograd.grad(grad.square().sum(), [x, *block.parameters()])]

    found = second()
    assert operators_of(found[0])
    set_kernels("off")
    for ours, theirs in zip(found, second(), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.detach().abs().max())
        )
