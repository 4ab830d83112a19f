"""The paper's network: every size of Fig. 5, the cost it states, and every knob."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xception.models import Xception, create_model
from xception.nn import MaxPool2d, SegmentedConv2d, SeparableConv2d


def meta(name: str = "xception", **arguments: Any) -> Xception:
    with torch.device("meta"):
        return create_model(name, **arguments)  # type: ignore[return-value]


def shapes_at(model: Xception, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Output shape (without batch) of every stage and stem layer, by forward hooks."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _, __, out: found.__setitem__(name, tuple(out.shape[1:]))

    wanted = {name for name, _ in model.stages()} | {"stem.act1", "stem.act2", "tail.1", "tail.3"}
    for name, module in model.named_modules():
        if name in wanted or name.endswith("pool"):
            module.register_forward_hook(note(name))
    with torch.device("meta"):
        model.eval()(torch.empty(1, model.in_channels, height, width))
    return found


def test_every_feature_map_of_figure_5() -> None:
    found = shapes_at(meta(), 299, 299)
    assert found["stem.act1"] == (32, 149, 149)
    assert found["stem.act2"] == (64, 147, 147)
    assert found["entry_flow.0"] == (128, 74, 74)
    assert found["entry_flow.1"] == (256, 37, 37)
    assert found["entry_flow.2"] == (728, 19, 19)
    assert [found[f"middle_flow.{i}"] for i in range(8)] == [(728, 19, 19)] * 8
    assert found["exit_flow.0"] == (1024, 10, 10)
    assert found["tail.1"] == (1536, 10, 10)
    assert found["tail.3"] == found["tail"] == (2048, 10, 10)
    assert found["head.pool"] == (2048, 1, 1)


def test_36_convolutional_layers_in_14_modules() -> None:
    model = meta()
    separable = [m for m in model.modules() if isinstance(m, SeparableConv2d)]
    stem = [m for m in model.stem if isinstance(m, nn.Conv2d)]
    assert len(separable) + len(stem) == 36
    # Stem and tail are the first and the last module, and alone have no residual connection.
    blocks = [stage for name, stage in model.stages() if "flow" in name]
    assert len(blocks) + 2 == 14 and all(block.skip is not None for block in blocks)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 36 + 4  # and one after each of the four strided skips
    assert all(m.eps == 1e-3 and m.momentum == 0.01 for m in norms)
    assert not any(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_it_costs_8_36_gmac() -> None:
    model = meta().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 299, 299, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(8.36e9, rel=1e-3)


def test_activations_stand_where_figure_5_has_them() -> None:
    """ReLU before every separable convolution but the first module's first and the tail's."""
    model = meta()
    before = [
        type(unit.act) is nn.ReLU
        for name, stage in model.stages()
        if "flow" in name
        for unit in stage.units
    ]
    assert before == [False] + [True] * (len(before) - 1)
    assert [type(m).__name__ for m in model.tail] == ["SeparableUnit", "ReLU"] * 2
    assert all(type(model.tail[i].act) is nn.Identity for i in (0, 2))


def test_the_residual_connection_starts_before_the_activation() -> None:
    torch.manual_seed(0)
    model = create_model("xception_tiny").double().eval()
    block = model.middle_flow[0]
    x = torch.randn(1, 128, 8, 8, dtype=torch.float64)
    kept = x.clone()
    out = block(x)
    assert torch.equal(x, kept)  # nothing wrote into what the skip reads
    torch.testing.assert_close(out - x, block.units(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("height, width", [(71, 71), (72, 73), (71, 500), (128, 90), (299, 150)])
def test_sizes_from_71_up_and_any_aspect(height: int, width: int) -> None:
    found = shapes_at(meta(num_classes=3), height, width)
    sides = []
    for side in (height, width):
        side = ((side - 3) // 2 + 1) - 2  # the two convolutions without padding
        for _ in range(4):
            side = -(-side // 2)
        sides.append(side)
    assert found["tail"] == (2048, *sides)


@pytest.mark.parametrize("height, width", [(70, 71), (71, 70), (1, 1)])
def test_below_71_is_an_error(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"at least 71x71 pixels .* got {height}x{width}"):
        meta()(torch.empty(1, 3, height, width, device="meta"))


@pytest.mark.parametrize("segments", [1, 3, 4, 10, 32, "channels"])
def test_segments(segments: int | str) -> None:
    model = meta("xception_tiny", num_classes=3, segments=segments)
    kind = SeparableConv2d if segments == "channels" else SegmentedConv2d
    convs = [u.conv for u in model.modules() if hasattr(u, "conv") and hasattr(u, "act")]
    assert convs and all(type(conv) is kind for conv in convs)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 3)


def test_the_spectrum_costs_less_the_more_segments() -> None:
    counts = [sum(p.numel() for p in meta(segments=s).parameters()) for s in (1, 4, 64, "channels")]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 22_855_952


def test_all_segments_is_the_separable_network() -> None:
    torch.manual_seed(0)
    separable = create_model("xception_tiny", num_classes=3).double().eval()
    segmented = create_model("xception_tiny", num_classes=3, segments=32)
    assert segmented.entry_flow[0].units[0].conv.segments == 32  # the least channels divided
    block = separable.middle_flow[0].units[0].conv
    twin = SegmentedConv2d(128, 128, segments="channels", order="depthwise_first").double()
    twin.spatial.runs[0].load_state_dict(block.depthwise.state_dict())
    twin.pointwise.load_state_dict(block.pointwise.state_dict())
    x = torch.randn(1, 128, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(twin(x), block(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("segments", [65, 729, 0, -3, 2.5, "all"])
def test_segments_that_do_not_fit(segments: object) -> None:
    with pytest.raises(ValueError, match="segments"):
        meta(segments=segments)


@pytest.mark.parametrize("name, kind", [("none", nn.Identity), ("relu", nn.ReLU), ("elu", nn.ELU)])
@pytest.mark.parametrize("segments", ["channels", 4])
def test_intermediate_activation(name: str, kind: type[nn.Module], segments: Any) -> None:
    model = meta("xception_tiny", intermediate_activation=name, segments=segments)
    found = [m for n, m in model.named_modules() if n.endswith("intermediate_activation")]
    assert len(found) == 12 and all(type(m) is kind for m in found)
    model.train()(torch.empty(2, 3, 32, 32, device="meta")).sum().backward()


def test_without_residual_connections() -> None:
    model = meta(residual=False)
    assert all(stage.skip is None for name, stage in model.stages() if "flow" in name)
    skips = 64 * 128 + 128 * 256 + 256 * 728 + 728 * 1024 + 2 * (128 + 256 + 728 + 1024)
    assert sum(p.numel() for p in model.parameters()) == 22_855_952 - skips
    assert shapes_at(model, 299, 299)["tail"] == (2048, 10, 10)


def test_fc_units() -> None:
    model = meta(num_classes=17_000, fc_units=(4096, 4096))
    assert [type(m) for m in model.head.fc_layers] == [nn.Linear, nn.ReLU] * 2
    assert model.head.fc.in_features == 4096 and model.num_features == 2048
    assert model(torch.empty(1, 3, 71, 71, device="meta")).shape == (1, 17_000)


def test_dropout_drops_in_training_only() -> None:
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=3, dropout=0.5)
    features = torch.rand(64, 256, 2, 2) + 1
    dropped = model.train().forward_head(features, pre_logits=True)
    pooled = features.mean((2, 3))
    zero = dropped == 0
    assert 0.45 < zero.float().mean() < 0.55
    torch.testing.assert_close(dropped[~zero], 2 * pooled[~zero])
    assert not torch.equal(model.forward_head(features), model.forward_head(features))
    model.eval()
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
    assert torch.equal(model.forward_head(features), model.forward_head(features))


@pytest.mark.parametrize("output_stride, side", [(2, 147), (4, 74), (8, 37), (16, 19), (32, 10)])
def test_output_stride(output_stride: int, side: int) -> None:
    model = meta(output_stride=output_stride)
    assert shapes_at(model, 299, 299)["tail"] == (2048, side, side)
    assert sum(p.numel() for p in model.parameters()) == 22_855_952
    assert [i["reduction"] for i in model.feature_info] == [
        min(r, output_stride) for r in (2, 4, 8, 16, 32)
    ]


def test_dilation_begins_after_the_stride_that_is_left_out() -> None:
    model = meta(output_stride=8)
    dilations = {
        name: {
            module.depthwise.dilation[0]
            for module in stage.modules()
            if isinstance(module, SeparableConv2d)
        }
        for name, stage in model.stages()
        if name != "stem"
    }
    assert dilations["entry_flow.2"] == {1} and model.entry_flow[2].pool.dilation == 1
    assert dilations["middle_flow.0"] == dilations["exit_flow.0"] == {2}
    assert model.exit_flow[0].pool.dilation == 2
    assert dilations["tail"] == {4}


@pytest.mark.parametrize("padding", ["keras", "torch"])
@pytest.mark.parametrize("output_stride, every", [(16, 2), (8, 4)])
def test_a_dilated_network_sees_what_the_strided_one_sees(
    output_stride: int, every: int, padding: Any
) -> None:
    """Where both have a value it is the same: the meaning of dilation in a stride's place."""
    torch.manual_seed(0)
    strided = create_model("xception", num_classes=3, padding=padding).double()
    x = torch.randn(1, 3, 71, 135, dtype=torch.float64)  # odd sides at the pools in question
    with torch.no_grad():
        strided(torch.randn(2, 3, 71, 71, dtype=torch.float64))  # moves the statistics
        strided.eval()
        dilated = create_model("xception", output_stride=output_stride, padding=padding)
        dilated.reset_classifier(3)
        dilated.double().load_state_dict(strided.state_dict())
        coarse = strided.forward_features(x)
        fine = dilated.eval().forward_features(x)
    scale = coarse.abs().max().item()
    torch.testing.assert_close(fine[..., ::every, ::every], coarse, atol=1e-10 * scale, rtol=0)


@pytest.mark.parametrize("output_stride", [1, 6, 64, 0, "16"])
def test_output_strides_that_there_are_not(output_stride: object) -> None:
    with pytest.raises(ValueError, match=r"output_stride must be one of \[2, 4, 8, 16, 32\]"):
        meta(output_stride=output_stride)


@pytest.mark.parametrize("name, reached", [("xception_tiny", [1, 2, 4, 8])])
def test_output_strides_of_the_small_networks(name: str, reached: list[int]) -> None:
    """Every reduction that the network reaches, its own among them."""
    for output_stride in reached:
        found = shapes_at(meta(name, output_stride=output_stride), 32, 32)
        assert found["tail"][1:] == (32 // output_stride, 32 // output_stride)
    assert shapes_at(meta(name), 32, 32)["tail"] == found["tail"]
    with pytest.raises(ValueError, match=r"output_stride must be one of .* for this network"):
        meta(name, output_stride=16)


def test_padding_changes_numbers_not_shapes() -> None:
    torch.manual_seed(0)
    keras = create_model("xception", num_classes=3).eval()
    symmetric = create_model("xception", num_classes=3, padding="torch").eval()
    symmetric.load_state_dict(keras.state_dict())
    pools = [m for m in symmetric.modules() if isinstance(m, MaxPool2d)]
    assert len(pools) == 4 and all(p.padding == "torch" for p in pools)
    # 73 -> 36 -> 34: even before the first pool.
    x = torch.randn(1, 3, 73, 73)
    with torch.no_grad():
        a, b = keras.forward_features(x), symmetric.forward_features(x)
    assert a.shape == b.shape and not torch.allclose(a, b)


def test_normalization_arguments() -> None:
    model = meta(bn_eps=1e-5, bn_momentum=0.1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.eps == 1e-5 and m.momentum == 0.1 for m in norms)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"padding": "same"}, "padding must be one of"),
        ({"intermediate_activation": "gelu"}, "intermediate_activation must be one of"),
        ({"dropout": 1.5}, "dropout must be at least 0 and below 1, got 1.5"),
        ({"fc_units": (4096, 0)}, r"fc_units must be positive, got \(4096, 0\)"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
        ({"num_classes": -1}, "num_classes must not be negative, got -1"),
        ({"bn_eps": -1.0}, r"bn_eps must be above 0, got -1\.0"),
        ({"bn_eps": 0.0}, r"bn_eps must be above 0, got 0\.0"),
        ({"bn_eps": float("nan")}, "bn_eps must be above 0, got nan"),
        ({"bn_momentum": 0.0}, r"bn_momentum must be above 0 and at most 1, got 0\.0"),
        ({"bn_momentum": 1.5}, r"bn_momentum must be above 0 and at most 1, got 1\.5"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta(**arguments)


def test_one_training_step_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=3)
    x, y = torch.randn(8, 3, 28, 28), torch.arange(8) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    before = loss()
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < before
