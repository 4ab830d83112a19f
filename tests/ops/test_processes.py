"""The kernels in processes of their own: forked ones, and ones whose environment sets them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

# Each program runs in a new process: torch refuses a backward pass in a forked child whose parent
# has had some kinds of them, and an environment is read but once.
RESULTS = """
import torch
from xception.ops import describe_kernels, kernels, merge, separable_unit, set_kernels

def results(height=30, width=29):
    generator = torch.Generator().manual_seed(0)
    x, depthwise, pointwise = (
        torch.randn(*shape, generator=generator).requires_grad_()
        for shape in ((3, 40, height, width), (40, 1, 3, 3), (33, 40, 1, 1))
    )
    y, mean, var = separable_unit(x, None, None, depthwise, pointwise, padding=1)
    out = merge(y, var.rsqrt(), -mean, pool=(3, 3, 2, 2, 1, 1, 1, 1, 1, 1), activation="relu")
    grads = torch.autograd.grad(out.square().mean(), (x, depthwise, pointwise))
    return [tensor.detach() for tensor in (out, *grads)]
"""

COMPUTE = """
name, found, again = kernels.active_name(), results(), results()
set_kernels("off")
for ours, repeated, torchs in zip(found, again, results()):
    assert torch.equal(ours, repeated)
    assert (ours - torchs).abs().max() <= 1e-4 * torchs.abs().max()
print(name, torch.get_num_threads())
"""

FORK = """
import multiprocessing, sys

count = int(sys.argv[1])

def as_bytes():  # too small for torch's own operators to use threads: they would hang
    return [tensor.numpy().tobytes() for tensor in results(12, 11)]

def answer(to):
    torch.set_num_threads(count)
    to.send((describe_kernels(), as_bytes()))

expected = {}
for threads in (2, 1):
    torch.set_num_threads(threads)
    expected[threads] = as_bytes()
torch.set_num_threads(2)
torch.randn(400_000).exp_()  # torch's own threads have started, too
context = multiprocessing.get_context("fork")
here, there = context.Pipe(duplex=False)
child = context.Process(target=answer, args=(there,), daemon=True)
child.start()
there.close()
try:
    assert here.poll(60), "the child hangs"
    told, found = here.recv()
finally:
    child.kill()
    child.join()
assert told.endswith("threads: none after a fork"), told
assert found == expected[count]
assert "OpenMP" in describe_kernels() or "threads: none" in describe_kernels()
"""


def run(program: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", RESULTS + program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("count", [1, 2])
def test_the_environment_chooses(instruction_sets: list[str], count: int) -> None:
    """Kernels and threads; the results are plain torch's, and the same bits each time."""
    for name in instruction_sets:
        output = run(COMPUTE, OMP_NUM_THREADS=str(count), XCEPTION_KERNELS=name)
        active, used = output.split()
        assert active == name and int(used) <= count  # torch takes no more than there are cores


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_forked_child_computes_alone(instruction_sets: list[str], count: str) -> None:
    """Whatever number of threads it asks for: those of its parent are not there to answer."""
    for name in instruction_sets:
        run(FORK, count, XCEPTION_KERNELS=name)
