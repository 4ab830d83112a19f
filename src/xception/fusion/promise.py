"""What several deferred tensors may share: what is to be computed, and the result once it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from xception.fusion.pending import Affine, Filtered

Work: TypeAlias = Affine | Filtered


class Promise:
    """`work` until somebody has it computed, `computed` from then on.

    The tensors of `work` are read late, so their versions are kept as autograd keeps those of what
    it saves: what has been written into since would give other numbers.
    """

    __slots__ = ("_versions", "_work", "computed")

    def __init__(self, work: Work, versions: Sequence[int | None] | None = None) -> None:
        self._work = work
        self._versions = (
            [version_of(t) for t in work.tensors()] if versions is None else list(versions)
        )
        self.computed: Tensor | None = None

    @property
    def work(self) -> Work:
        """Raises RuntimeError when a tensor of it was modified in place."""
        for tensor, version in zip(self._work.tensors(), self._versions, strict=True):
            if tensor is not None and version is not None and tensor._version != version:
                raise RuntimeError(
                    "a tensor of which `xception.fuse` has put off the normalization, activation "
                    "or convolution has been modified by an inplace operation: shape "
                    f"{tuple(tensor.shape)}, at version {tensor._version}, expected version "
                    f"{version}; give that operation a copy (x.clone()), or call "
                    "xception.unfuse(model)"
                )
        return self._work

    def detached(self) -> Promise:
        """The same without the graph; writing into the tensors is noticed all the same."""
        tensors = [t if t is None else t.detach() for t in self._work.tensors()]
        return Promise(self._work.with_tensors(tensors), self._versions)

    def take(self, other: Promise) -> None:
        """For all who hold this one it is `other` from now on."""
        self._work, self._versions, self.computed = other._work, other._versions, other.computed


def evaluated(work: Work, has_graph: bool) -> Tensor:
    """`work.compute()` as where it was promised, whatever modes whoever asks for it is in.

    has_graph: gradients go through it, where the tensors of `work` have any
    """
    is_inference = any(t is not None and t.is_inference() for t in work.tensors())
    with (
        torch.inference_mode(is_inference),
        torch.set_grad_enabled(has_graph and not is_inference),
        torch.autocast("cpu", enabled=False),
    ):
        return work.compute()


def version_of(tensor: Tensor | None) -> int | None:
    """None where there is none: torch does not count the changes of inference tensors."""
    return None if tensor is None or tensor.is_inference() else tensor._version
