"""Broken files of the paper's network get one line, which names the tensor."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xception.weights.dialects.torch_legacy import recognise
from xception.weights.files.contents import FileContents

State = dict[str, Tensor]


def refusal(tensors: State) -> str:
    with pytest.raises(ValueError) as error:
        recognise(FileContents(kind="torch state dict", tensors=tensors))
    assert "\n" not in str(error.value)
    return str(error.value)


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: t for name, t in state.items() if name not in names}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        without("block3.rep.1.pointwise.weight", "block12.skip.weight"),
        r"lacks tensors that timm's legacy_xception needs: block3\.rep\.1\.pointwise\.weight, "
        r"block12\.skip\.weight; give a whole state dict",
    ),
    "cut short": (
        lambda s: dict(list(s.items())[:100]),
        r"lacks tensors that timm's legacy_xception needs: .* and \d+ more",
    ),
    "one count missing": (
        without("bn1.num_batches_tracked"),
        r"lacks tensors .*: bn1\.num_batches_tracked;",
    ),
    "no bias": (without("fc.bias"), r"lacks tensors .*: fc\.bias;"),
    "left over": (
        lambda s: {**s, "FAD_head.layer1.weight": torch.zeros(2, 2)},
        r"holds tensors that timm's legacy_xception does not have: FAD_head\.layer1\.weight;",
    ),
    "another network's block": (
        lambda s: {**s, "block13.rep.1.conv1.weight": torch.zeros(728, 1, 3, 3)},
        r"does not have: block13\.rep\.1\.conv1\.weight;",
    ),
    "swapped axes of the stem": (
        changed("conv1.weight", lambda t: t.transpose(0, 1)),
        r"conv1\.weight is 3x32x3x3, not 32x3x3x3;",
    ),
    "swapped axes of the last layer": (
        changed("fc.weight", lambda t: t.T),
        r"fc\.weight is 2048x5, not 5x2048;",
    ),
    "swapped tensors": (
        lambda s: {**s, "bn3.weight": s["bn4.weight"], "bn4.weight": s["bn3.weight"]},
        r"bn3\.weight is 2048, not 1536;",
    ),
    "no classes": (
        lambda s: {**s, "fc.weight": torch.zeros(0, 2048), "fc.bias": torch.zeros(0)},
        r"fc\.weight is 0x2048, not 1x2048;",
    ),
    "no channels": (
        changed("conv1.weight", lambda t: t[:, :0]),
        r"conv1\.weight is 32x0x3x3, not 32x1x3x3;",
    ),
    "a single number": (
        changed("conv1.weight", lambda _: torch.tensor(1.0)),
        r"conv1\.weight is a single number, not 32x3x3x3;",
    ),
    "NaN": (
        changed("bn2.weight", lambda t: t * float("nan")),
        r"holds NaN or infinite weights in bn2\.weight; take an earlier state",
    ),
    "infinite": (
        changed("block5.rep.1.conv1.weight", lambda t: t / 0),
        r"holds NaN or infinite weights in block5\.rep\.1\.conv1\.weight;",
    ),
    "negative variance": (
        changed("bn2.running_var", lambda t: -t),
        r"holds variances below zero in bn2\.running_var;",
    ),
    "two precisions": (
        changed("fc.weight", lambda t: t.half()),
        r"mixes precisions: float32 \(conv1\.weight\) and float16 \(fc\.weight\);",
    ),
    "whole numbers": (
        changed("conv2.weight", lambda t: t.to(torch.int8)),
        r"holds conv2\.weight as int8, which cannot be used; save the weights as 16, 32 or 64-bit",
    ),
    "sparse": (
        changed("conv2.weight", lambda t: t.to_sparse()),
        r"holds conv2\.weight as sparse_coo, which cannot be used",
    ),
    "two last layers": (
        lambda s: {**s, "last_linear.weight": s["fc.weight"]},
        r"has several layers after the pooling \(fc, last_linear\)",
    ),
    "two networks": (
        lambda s: {**{f"ema.{n}": t for n, t in s.items()}, **s},
        r"holds 2 networks like timm's legacy_xception, under 'ema\.', '';",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line(legacy_state: State, case: str) -> None:
    breaks, expected = BROKEN[case]
    message = refusal(breaks(legacy_state))
    assert re.search(expected, message), message


def test_names_from_the_file_are_printable(legacy_state: State) -> None:
    message = refusal({**legacy_state, "a\nb\x1b[31m" + "x" * 1000: torch.zeros(1)})
    assert "\x1b" not in message and len(message) < 400
