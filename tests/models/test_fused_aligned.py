"""The fused way through the aligned networks' blocks: where it steps aside, taps, checkpointing.

That its numbers are right, test_fused_block.py shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xception import create_model
from xception.models.aligned import AlignedBlock
from xception.models.checkpointing import checkpoint_block
from xception.nn import SeparableConv2d
from xception.ops import set_kernels
from xception.ops.kernels import usable_names

CLOSE = 1e-4  # of the largest value: float32's rounding through a block


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    before = set_kernels("auto")
    yield
    set_kernels(before)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: create_model(name, num_classes=3) for name in ("xception41", "xception41p")}


def block(networks: dict[str, nn.Module], kind: str, path: str = "entry_flow.0") -> AlignedBlock:
    """A fresh block of the network's form, to be changed by the test."""
    found = networks[kind].get_submodule(path)
    made = copy.deepcopy(found)
    assert isinstance(made, AlignedBlock)
    return made.train()


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.namespace == "xception"
        return func(*args, **(kwargs or {}))


def pictures() -> Tensor:
    return torch.randn(2, 64, 9, 8, generator=torch.Generator().manual_seed(3))


def same_as_plain(module: nn.Module, x: Tensor | None = None) -> int:
    """Output and buffers are plain torch's to rounding; how many operators were called."""
    x = pictures() if x is None else x
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with Counting() as counting:
        out = module(x)
    found = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    module.load_state_dict(before)
    set_kernels("off")
    expected = module(x)
    set_kernels("auto")
    atol = CLOSE * expected.abs().max().item()
    torch.testing.assert_close(out, expected, rtol=0, atol=atol)
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=CLOSE, atol=CLOSE, msg=key)
    return counting.count


WHOLE = {"xception41": 8, "xception41p": 4}  # operators of the first block; with the skip's
INSIDE = [
    *(("xception41", f"units.{p}") for p in (
        "act1", "conv1", "conv1.depthwise", "conv2.depthwise_norm", "conv2.depthwise_act",
        "conv3.pointwise", "conv3.pointwise_norm", "conv1.pointwise_act", "act3",
    )),
    *(("xception41p", f"units.{p}") for p in (
        "conv1", "conv1.conv", "conv2.norm", "conv2.act", "conv3.conv.depthwise",
        "conv3.conv.pointwise",
    )),
    ("xception41", "skip"), ("xception41", "skip.conv"), ("xception41", "skip.norm"),
    ("xception41p", "skip"),
]  # fmt: skip


@pytest.mark.parametrize("kind, path", INSIDE)
def test_hooks_fire(networks: dict[str, nn.Module], kind: str, path: str) -> None:
    """Once each call, with the module's own output; until they are removed."""
    module = block(networks, kind)
    outputs: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(
        lambda _, __, out: outputs.append(out.detach().clone())
    )
    assert same_as_plain(module) < WHOLE[kind]
    assert len(outputs) == 2
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)
    handle.remove()
    assert same_as_plain(module) == WHOLE[kind]


@pytest.mark.parametrize("path", ["norm", "act"])
def test_hooks_before_the_units_fire_and_these_stay_fused(
    networks: dict[str, nn.Module], path: str
) -> None:
    module = block(networks, "xception41p")
    seen: list[int] = []
    module.get_submodule(path).register_forward_hook(lambda *_: seen.append(1))
    assert same_as_plain(module) == WHOLE["xception41p"] and len(seen) == 2


REPLACED: list[tuple[str, str, Callable[[], nn.Module]]] = [
    ("xception41", "units.act1", nn.GELU),
    ("xception41", "units.act1", lambda: nn.ReLU(inplace=True)),
    ("xception41", "units.conv1", lambda: nn.Conv2d(64, 128, 1)),
    ("xception41", "units.conv2.depthwise", lambda: nn.Conv2d(128, 128, 3, padding=1, groups=128)),
    ("xception41", "units.conv2.depthwise", lambda: nn.Conv2d(128, 128, 3, padding=1, bias=False)),
    ("xception41", "units.conv2.depthwise_norm", lambda: nn.GroupNorm(4, 128)),
    ("xception41", "units.conv2.depthwise_act", nn.SiLU),
    ("xception41", "units.conv2.pointwise", lambda: nn.Conv2d(128, 128, 1)),
    ("xception41", "units.conv3.pointwise_act", nn.ReLU),
    ("xception41", "skip.conv", lambda: nn.Conv2d(64, 128, 1, 2)),
    ("xception41", "skip.norm", nn.Identity),
    ("xception41p", "units.conv2.norm", lambda: nn.BatchNorm2d(128, affine=False)),
    ("xception41p", "units.conv2.act", nn.ELU),
    ("xception41p", "units.conv1.conv", lambda: SeparableConv2d(64, 128, bias=True)),
    ("xception41p", "units.conv1.norm", lambda: nn.BatchNorm2d(64)),
    ("xception41p", "skip", lambda: nn.Conv2d(64, 128, 1, 2)),
    ("xception41p", "skip", lambda: nn.Sequential(nn.MaxPool2d(1, 2), nn.Conv2d(64, 128, 1))),
]


@pytest.mark.parametrize("kind, path, make", REPLACED)
def test_replaced_modules_are_used(
    networks: dict[str, nn.Module], kind: str, path: str, make: Callable[[], nn.Module]
) -> None:
    module = block(networks, kind)
    module.set_submodule(path, make())
    assert same_as_plain(module) < WHOLE[kind]


@pytest.mark.parametrize("kind, path, make", [
    ("xception41", "units.conv2.depthwise", lambda: nn.Conv2d(
        128, 128, 5, padding=2, groups=128, bias=False)),
    ("xception41", "units.conv2.depthwise_act", nn.ReLU),
    ("xception41", "units.act3", nn.Identity),
    ("xception41p", "units.conv2.act", nn.Identity),
    ("xception41p", "units.conv3.norm", nn.Identity),
])  # fmt: skip
def test_replaced_by_what_is_served_too(
    networks: dict[str, nn.Module], kind: str, path: str, make: Callable[[], nn.Module]
) -> None:
    module = block(networks, kind)
    module.set_submodule(path, make())
    assert same_as_plain(module) == WHOLE[kind]


@pytest.mark.parametrize("paths", [
    ["units.conv1.depthwise_norm", "units.conv3.pointwise_norm"], ["skip.norm"],
])  # fmt: skip
def test_some_normalizations_in_eval_while_the_rest_trains(
    networks: dict[str, nn.Module], paths: list[str]
) -> None:
    module = block(networks, "xception41")
    for path in paths:
        module.get_submodule(path).eval()
    before = {path: module.get_submodule(path).running_mean.clone() for path in paths}
    assert same_as_plain(module) == WHOLE["xception41"]
    for path in paths:
        assert torch.equal(module.get_submodule(path).running_mean, before[path])


def test_parametrized_weights_are_used(networks: dict[str, nn.Module]) -> None:
    module = block(networks, "xception41")
    nn.utils.parametrizations.weight_norm(module.units.conv2.pointwise)
    assert same_as_plain(module) < WHOLE["xception41"]


@pytest.mark.parametrize("kind", WHOLE)
def test_other_dtypes_autocast_and_no_pictures_are_not_touched(
    networks: dict[str, nn.Module], kind: str
) -> None:
    module = block(networks, kind)
    with Counting() as counting:
        module(pictures()[:0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(pictures())
        module.double()(pictures().double())
    assert counting.count == 0


@pytest.mark.parametrize("kind, operators", [("xception41", 9), ("xception41p", 3)])
def test_a_tap_is_what_plain_torch_has_there(
    networks: dict[str, nn.Module], kind: str, operators: int
) -> None:
    """Its value, and the gradient of both outputs."""
    results = []
    for name in ("auto", "off"):
        set_kernels(name)
        module = block(networks, kind)
        x = pictures().requires_grad_()
        with Counting() as counting:
            out, tap = module.forward_with_tap(x)
        assert counting.count == (operators if name == "auto" else 0)
        (out.sin().sum() + tap.cos().sum()).backward()
        results.append((out, tap, x.grad))
    for found, expected in zip(*results):
        atol = CLOSE * expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind, operators", [("xception41", 5), ("xception41p", 2)])
def test_a_block_that_ends_at_its_tap(
    networks: dict[str, nn.Module], kind: str, operators: int
) -> None:
    module = block(networks, kind)
    module.end_at_tap()
    assert same_as_plain(module) == operators


@pytest.mark.parametrize("kind", WHOLE)
def test_checkpointing_counts_a_batch_once(networks: dict[str, nn.Module], kind: str) -> None:
    """Gradients and buffers equal those without it, bit for bit."""
    kept, again = block(networks, kind), block(networks, kind)
    kept(pictures()).square().sum().backward()
    checkpoint_block(again, pictures()).square().sum().backward()
    for (key, tensor), expected in zip(again.state_dict().items(), kept.state_dict().values()):
        assert torch.equal(tensor, expected), key
    for parameter, expected in zip(again.parameters(), kept.parameters()):
        assert torch.equal(parameter.grad, expected.grad)
