"""Which kernels run: by name, by the environment variable, and without any of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from xception.ops import describe_kernels, kernels, separable_unit, set_kernels


@pytest.fixture(autouse=True)
def setting_kept() -> Iterator[None]:
    before = kernels.active_name()
    yield
    set_kernels(before)


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )


def computed_by_kernels() -> bool:
    """Whether a call goes to the registered operator, which only kernels compute."""
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    y, _, _ = separable_unit(x, None, None, torch.zeros(3, 1, 3, 3), None)
    return "xception" in type(y.grad_fn).__name__.lower()


def test_set_kernels_gives_back_the_name_of_those_before(instruction_sets: list[str]) -> None:
    set_kernels("off")
    assert not computed_by_kernels() and kernels.kernels() is None
    for name in instruction_sets:
        before = kernels.active_name()
        assert set_kernels(name) == before
        assert kernels.active_name() == name and computed_by_kernels()
    assert set_kernels("auto") == instruction_sets[-1] == kernels.active_name()
    assert set_kernels("off") == instruction_sets[-1]
    assert set_kernels("off") == "off"


def test_baseline_is_everywhere(instruction_sets: list[str]) -> None:
    assert instruction_sets[0] == "baseline"


@pytest.mark.parametrize("name", ["sse9", "", "AVX2", "none"])
def test_an_unknown_name_changes_nothing(name: str) -> None:
    before = kernels.active_name()
    with pytest.raises(ValueError, match=rf"kernels must be one of off, auto.* got {name!r}"):
        set_kernels(name)
    assert kernels.active_name() == before


def test_describe_kernels(instruction_sets: list[str]) -> None:
    names = ", ".join(instruction_sets)
    assert describe_kernels().startswith(f"{instruction_sets[-1]} (of {names}), threads: ")
    set_kernels("baseline")
    assert describe_kernels().startswith(f"baseline (of {names}), threads: ")
    set_kernels("off")
    assert describe_kernels() == f"off (of {names})"


@pytest.mark.usefixtures("instruction_sets")
def test_threads_are_those_of_torch() -> None:
    """Its OpenMP runtime is found by name, so no second pool of threads fights with it."""
    if "OpenMP" not in torch.__config__.parallel_info().partition("ATen parallel backend:")[2]:
        pytest.skip("torch has no OpenMP here")
    assert describe_kernels().endswith("threads: OpenMP of this process")


@pytest.mark.usefixtures("instruction_sets")
def test_the_operator_itself_says_what_it_computes() -> None:
    """Called by its registered name, where nothing chooses another way."""
    empty = ([1, 1], [0, 0, 0, 0], [1, 1], False)
    x = torch.zeros(1, 3, 4, 4)
    for refused in (x.double(), x):
        with pytest.raises(
            RuntimeError, match="computes float32 on a CPU with the compiled kernels"
        ):
            torch.ops.xception.separable_unit(refused, None, None, "none", None, None, *empty)
        set_kernels("off")


def test_the_environment_variable() -> None:
    """off turns them off at the start; a wrong name is told, and the start goes on."""
    code = "from xception.ops import kernels as k; print(k.active_name(), *k.usable_names())"
    assert python(code, XCEPTION_KERNELS="off").stdout.split()[0] == "off"
    wrong = python(code, XCEPTION_KERNELS="mmx")
    assert "XCEPTION_KERNELS=mmx: kernels must be one of off, auto" in wrong.stderr
    assert "going on with auto" in wrong.stderr
    active, *usable = wrong.stdout.split()
    assert active == (usable[-1] if usable else "off")


def test_without_the_extension_plain_torch_computes_everything() -> None:
    """Not built, or not to be loaded: the reason is told, and no operator of ours is called."""
    code = """
import importlib, sys
sys.modules["xception.ops._cpu"] = None
import torch
from xception.nn import SeparableConv2d
from xception.ops import describe_kernels, kernels, merge, separable_unit, set_kernels
assert kernels.kernels() is None and kernels.usable_names() == []
print(describe_kernels())
x = torch.randn(2, 3, 8, 8, requires_grad=True)
y, mean, var = separable_unit(
    x, torch.ones(3), torch.zeros(3), torch.randn(3, 1, 3, 3), torch.randn(4, 3, 1, 1)
)
out = merge(y, torch.ones(4), mean, pool=(3, 3, 2, 2, 0, 0, 0, 0, 1, 1)).sum() + var.sum()
out = out + SeparableConv2d(3, 5)(x).sum()
nodes = [out.grad_fn]
for node in nodes:
    assert "xception" not in type(node).__name__.lower(), node
    nodes += [n for n, _ in node.next_functions if n is not None]
out.backward()
set_kernels("auto"); set_kernels("off")
try:
    set_kernels("avx2")
except ValueError as error:
    print(error)

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "xception.ops._cpu":
            raise ImportError("libmissing.so: cannot open shared object file, for _cpu")

del sys.modules["xception.ops._cpu"]
sys.meta_path.insert(0, Broken())
print(importlib.reload(kernels).describe_kernels())
"""
    absent, refused, broken = python(code).stdout.strip().splitlines()
    assert absent == "none (not built: install with a C++ compiler at hand to have them)"
    assert refused == "kernels must be one of off, auto on this machine, got 'avx2'"
    assert broken.startswith("none (libmissing.so: cannot open shared object file, for _cpu")
