"""The paper's network under the names of timm, Cadene and FaceForensics++, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier, Preprocessing, create_model
from xception.weights.dialects import torch_legacy
from xception.weights.dialects.torch_legacy import recognise, timm_tensors, to_cadene, to_timm
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

State = dict[str, Tensor]
LAST = ("fc.weight", "fc.bias")


def randomize(model: nn.Module) -> None:
    """Weights and statistics under which no layer is the identity and logits see the picture."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(17)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def theirs(**arguments: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    model = timm.create_model("legacy_xception", **{"num_classes": 5, **arguments})
    randomize(model)
    return model.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return theirs()


@pytest.fixture
def state(network: nn.Module) -> State:
    return dict(network.float().state_dict())


def imported(tensors: State, **fields: Any) -> Imported:
    contents = FileContents(**{"kind": "torch state dict", "tensors": tensors, **fields})
    found = recognise(contents)
    assert found is not None
    return found


def refusal(tensors: State) -> str:
    with pytest.raises(ValueError) as error:
        recognise(FileContents(kind="torch state dict", tensors=tensors))
    assert "\n" not in str(error.value)
    return str(error.value)


def outputs(model: nn.Module, stages: dict[str, nn.Module], x: Tensor) -> State:
    """What comes out of each stage, and the logits."""
    found: State = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: found.__setitem__(name, output.detach().clone())

    hooks = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
    with torch.no_grad():
        found["logits"] = model(x)
    for hook in hooks:
        hook.remove()
    return found


def assert_same_numbers(ours: Classifier, other: nn.Module, x: Tensor, tolerance: float) -> None:
    """At the stem, every block, the tail and the logits, relative to each one's largest value."""
    mine = dict(ours.stages())
    their_names = ["act2", *(f"block{i}" for i in range(1, 13)), "act4"]
    found = outputs(ours, mine, x)
    expected = outputs(other, {n: other.get_submodule(n) for n in their_names}, x)
    for name, their_name in [*zip(mine, their_names, strict=True), ("logits", "logits")]:
        a, b = found[name], expected[their_name]
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max(), name
    assert (found["logits"][0] - found["logits"][1]).abs().max() > 0.01  # they see the picture


@pytest.mark.parametrize("size", [(71, 71), (96, 131)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_block_and_the_logits_are_timms(
    network: nn.Module, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    network.to(dtype)
    model = imported(dict(network.state_dict())).model
    assert not model.training
    assert_same_numbers(model, network, torch.randn(2, 3, *size, dtype=dtype), tolerance)


def test_at_299(network: nn.Module) -> None:
    model = imported(dict(network.double().state_dict())).model
    assert_same_numbers(model, network, torch.randn(2, 3, 299, 299, dtype=torch.float64), 1e-10)


def test_numerics_are_pytorchs(state: State) -> None:
    arguments = imported(state).model.architecture["args"]
    assert (arguments["padding"], arguments["bn_eps"], arguments["bn_momentum"]) == (
        "torch",
        1e-5,
        0.1,
    )


def test_the_way_back_is_bit_identical(state: State) -> None:
    result = imported(state)
    back = to_timm(result.model)
    assert set(back) == set(state)
    assert all(back[name].dtype == state[name].dtype for name in state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert {there for there, _ in result.report.mapped} == set(state)
    assert {here for _, here in result.report.mapped} == set(result.model.state_dict())
    assert not result.report.left_out


@pytest.mark.parametrize("num_classes, in_channels", [(5, 3), (0, 1)])
def test_timm_loads_what_is_written_for_it(num_classes: int, in_channels: int) -> None:
    timm = pytest.importorskip("timm")
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    ours = create_model("xception", padding="torch", bn_eps=1e-5, dropout=0.5, **sizes)
    assert isinstance(ours, Classifier)
    randomize(ours)
    ours.double().eval()
    other = timm.create_model("legacy_xception", num_classes=num_classes, in_chans=in_channels)
    other.double().eval().load_state_dict(to_timm(ours), strict=True)
    x = torch.randn(2, in_channels, 80, 97, dtype=torch.float64)
    assert_same_numbers(ours, other, x, 1e-10)


def test_cadenes_names_differ_in_the_last_layer_alone(state: State) -> None:
    cadene = to_cadene(imported(state).model)
    renamed = {name.replace("fc.", "last_linear."): tensor for name, tensor in state.items()}
    assert set(cadene) == set(renamed)
    assert all(torch.equal(cadene[name], tensor) for name, tensor in renamed.items())


def in_place_of_fc(state: State, last_layer: str, prefix: str = "") -> State:
    return {
        prefix + (name.replace("fc", last_layer) if name in LAST else name): tensor
        for name, tensor in state.items()
    }


def with_matrices(state: State) -> State:
    return {
        name: tensor[:, :, 0, 0] if name.endswith("pointwise.weight") else tensor
        for name, tensor in state.items()
    }


TIMM = Preprocessing(crop_fraction=0.8975, interpolation="bicubic")
CADENE = Preprocessing(crop_fraction=0.8975, interpolation="bilinear")
FACES = Preprocessing(resize="squash", interpolation="bilinear")
VARIANTS: dict[str, tuple[Callable[[State], State], str, Preprocessing]] = {
    "timm": (lambda s: s, "timm legacy_xception", TIMM),
    "timm, compiled": (lambda s: in_place_of_fc(s, "fc", "_orig_mod."), "timm legacy_xcep", TIMM),
    "head.fc": (lambda s: in_place_of_fc(s, "head.fc"), "timm legacy_xception", TIMM),
    "classifier": (lambda s: in_place_of_fc(s, "classifier", "net."), "timm legacy_xcep", TIMM),
    "Cadene": (lambda s: in_place_of_fc(s, "last_linear"), "Cadene xception", CADENE),
    "Cadene, matrices": (
        lambda s: with_matrices(in_place_of_fc(s, "last_linear")),
        "Cadene xception",
        CADENE,
    ),
    "Cadene's first file": (with_matrices, "Cadene xception", CADENE),
    "Cadene, parallel": (lambda s: in_place_of_fc(s, "last_linear", "module."), "Cadene", CADENE),
    "faces": (lambda s: in_place_of_fc(s, "last_linear", "model."), "FaceForensics++", FACES),
    "faces, in sequence": (
        lambda s: in_place_of_fc(s, "last_linear.1", "model."),
        "FaceForensics++",
        FACES,
    ),
    "faces, parallel": (
        lambda s: in_place_of_fc(s, "last_linear.1", "module.model."),
        "FaceForensics++",
        FACES,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_names_gives_the_same_network(state: State, variant: str) -> None:
    rename, dialect, preprocessing = VARIANTS[variant]
    found = imported(rename(state))
    plain = imported(state).model.state_dict()
    assert all(torch.equal(tensor, plain[n]) for n, tensor in found.model.state_dict().items())
    assert found.report.dialect.startswith(dialect)
    assert found.report.dialect.endswith(", torch state dict")
    assert found.model.preprocessing == preprocessing


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_loads_every_variant_by_renaming_alone(state: State, variant: str) -> None:
    """What parity is measured on does not go through our map."""
    timm = pytest.importorskip("timm")
    tensors = VARIANTS[variant][0](state)
    renamed = timm_tensors(FileContents(kind="torch state dict", tensors=tensors))
    with torch.device("meta"):
        other = timm.create_model("legacy_xception", num_classes=5)
    other.load_state_dict(renamed, strict=True, assign=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


def test_timms_own_preprocessing() -> None:
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg("legacy_xception")
    assert (cfg.input_size[1:], cfg.crop_pct, cfg.interpolation, cfg.mean, cfg.std) == (
        TIMM.size,
        TIMM.crop_fraction,
        TIMM.interpolation,
        TIMM.mean,
        TIMM.std,
    )


def of_two_classes(state: State) -> State:
    return {name: t[:2] if name in LAST else t for name, t in state.items()}


@pytest.mark.parametrize(
    "last_layer, origin, names, dropout",
    [
        ("last_linear", "", None, 0.0),
        ("last_linear", "network.models.TransferModel", ["real", "fake"], 0.0),
        ("last_linear.1", "", ["real", "fake"], 0.5),
    ],
)
def test_faceforensics_classes_are_named_where_the_file_is_surely_its(
    state: State, last_layer: str, origin: str, names: list[str] | None, dropout: float
) -> None:
    tensors = in_place_of_fc(of_two_classes(state), last_layer, "model.")
    found = imported(tensors, origin=origin)
    assert found.model.num_classes == 2
    assert found.model.class_names == names
    assert found.model.architecture["args"]["dropout"] == dropout
    said = " ".join(found.report.choices)
    assert "1.3 times the face's box" in said
    assert ("real and fake, as FaceForensics++'s" if names else "0 real, 1 fake") in said
    assert ("a dropout of 0.5" in said) == bool(dropout)


def test_imagenets_classes_under_a_wrapper_are_not_faces(state: State) -> None:
    of_1000 = {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    found = imported(in_place_of_fc(of_1000, "last_linear", "model."))
    assert found.report.dialect.startswith("Cadene")


def test_everything_that_the_file_does_not_say_is_told(state: State) -> None:
    choices = imported(state).report.choices
    for told in (
        "epsilon 1e-05, momentum 0.1",
        "padding='torch'",
        "by their average",
        "dropout before the last layer: none",
        "centre crop (0.8975) of 299x299 pixels, bicubic, (x - 0.5) / 0.5",
        "does not name its 5 classes",
    ):
        assert any(told in choice for choice in choices), told
    assert not any("\n" in choice for choice in choices)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_channels_of_the_stem(state: State, in_channels: int) -> None:
    stem = torch.randn(32, in_channels, 3, 3)
    found = imported({**state, "conv1.weight": stem})
    assert found.model.in_channels == in_channels
    assert found.model.preprocessing.channels == (1 if in_channels == 1 else 3)
    assert len(found.model.preprocessing.mean) == found.model.preprocessing.channels
    told = "made grey" if in_channels == 1 else "takes 4 channels"
    assert any(told in choice for choice in found.report.choices)
    assert found.model(torch.randn(1, in_channels, 71, 71)).shape == (1, 5)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_classes_are_as_many_as_the_last_layer_has_rows(state: State, num_classes: int) -> None:
    few = {name: t[:num_classes] if name in LAST else t for name, t in state.items()}
    assert imported(few).model.num_classes == num_classes


def test_without_a_last_layer_features_come_out(state: State) -> None:
    found = imported({name: tensor for name, tensor in state.items() if name not in LAST})
    assert found.model.num_classes == 0
    assert found.model(torch.randn(1, 3, 71, 71)).shape == (1, 2048)
    assert any("pooled features come out" in choice for choice in found.report.choices)


def test_counts_of_batches_may_be_absent(state: State) -> None:
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    found = imported(old)
    counts = [t for n, t in found.model.state_dict().items() if n.endswith("num_batches_tracked")]
    assert len(counts) == 40 and all(t.dtype == torch.int64 and t == 0 for t in counts)
    assert any("does not count the batches" in choice for choice in found.report.choices)
    assert {there for there, _ in found.report.mapped} == set(old)


def test_counts_of_batches_that_were_cast_with_the_weights_are_left_out(state: State) -> None:
    found = imported({name: tensor.half() for name, tensor in state.items()})
    assert found.model.head.fc.weight.dtype == torch.float16
    left = dict(found.report.left_out)
    assert len(left) == 40
    assert left["bn1.num_batches_tracked"] == "a count of batches as float16; 0 is taken"
    assert found.model.state_dict()["stem.norm1.num_batches_tracked"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_stays_and_tensors_are_not_copied(state: State, dtype: torch.dtype) -> None:
    cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    model = imported(cast).model
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.requires_grad for p in model.parameters())
    conv1 = model.get_submodule("stem.conv1")
    assert isinstance(conv1, nn.Conv2d)
    assert conv1.weight.data_ptr() == cast["conv1.weight"].data_ptr()


def test_parameters_of_a_whole_module_are_taken(network: nn.Module) -> None:
    parameters = {**network.state_dict(), **dict(network.named_parameters())}
    assert isinstance(parameters["conv1.weight"], nn.Parameter)
    assert imported(parameters).model.num_classes == 5


def test_other_names_are_not_this_dialect() -> None:
    tensors = {
        "layer1.0.conv1.weight": torch.zeros(1),
        "xblock1.rep.0.conv1.weight": torch.zeros(1),
    }
    assert recognise(FileContents(kind="safetensors", tensors=tensors)) is None
    assert recognise(FileContents(kind="safetensors", tensors={})) is None


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
def test_a_broken_file_is_refused_in_one_line(state: State, case: str) -> None:
    breaks, expected = BROKEN[case]
    message = refusal(breaks(state))
    assert re.search(expected, message), message


def test_names_from_the_file_are_printable(state: State) -> None:
    message = refusal({**state, "a\nb\x1b[31m" + "x" * 1000: torch.zeros(1)})
    assert "\x1b" not in message and len(message) < 400


def exportable(**arguments: Any) -> Classifier:
    with torch.device("meta"):
        model = create_model(
            "xception", **{"num_classes": 3, "padding": "torch", "bn_eps": 1e-5, **arguments}
        )
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"padding": "keras", "bn_eps": 1e-3},
            r"has padding='keras', bn_eps=0\.001; timm's legacy_xception has padding='torch', "
            r"bn_eps=1e-05 and would compute other numbers; keep it as a model file of xception, "
            r"or convert it to keras",
        ),
        ({"segments": 4}, r"has segments=4; .* has segments='channels'"),
        ({"intermediate_activation": "elu"}, r"has intermediate_activation='elu';"),
        ({"residual": False}, r"has residual=False;"),
        ({"fc_units": (10,)}, r"has fc_units=\[10\]; .* has fc_units=\[\]"),
        ({"output_stride": 16}, r"has output_stride=16;"),
    ],
)
@pytest.mark.parametrize("export", [to_timm, to_cadene])
def test_what_timm_would_compute_otherwise_is_not_written_for_it(
    arguments: dict[str, Any], message: str, export: Callable[[Classifier], State]
) -> None:
    if export is to_cadene:
        message = message.replace("timm's legacy_xception", "Cadene's xception")
    with pytest.raises(ValueError, match=message):
        export(exportable(**arguments))


@pytest.mark.parametrize("arguments", [{"output_stride": 32}, {"dropout": 0.5, "bn_momentum": 0.3}])
def test_what_changes_no_output_does_not_hinder(arguments: dict[str, Any]) -> None:
    assert len(to_timm(exportable(**arguments))) == 276


def test_other_networks_and_changed_ones_are_not_written() -> None:
    with torch.device("meta"):
        aligned, tiny = create_model("xception41"), create_model("xception_tiny")
    for model in (aligned, tiny):
        assert isinstance(model, Classifier)
        with pytest.raises(ValueError, match=r"is xception\w+, not timm's legacy_xception; keep"):
            to_timm(model)
    model = exportable()
    model.head.fc = nn.Linear(2048, 4, device="meta")
    with pytest.raises(ValueError, match=r"head\.fc\.weight is 4x2048"):
        to_timm(model)
    model.architecture = {}
    with pytest.raises(ValueError, match="does not know its architecture"):
        to_timm(model)


def test_the_map_is_one_to_one() -> None:
    model = exportable()
    names = torch_legacy._port().names(model)
    assert len(set(names.values())) == len(names) == len(model.state_dict())
