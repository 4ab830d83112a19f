"""How fast a network answers: `xception.optimize` against ONNX Runtime and OpenVINO by themselves.

    python benchmarks/inference.py [--size 299] [--batches 1 8] [--repeats 15] [--threads 2]

A tensor goes in and logits come out. The peers are run as their users run them: the plain network
exported by torch.onnx.export for that batch, default sessions; their int8 files are those of their
own tools. OpenVINO would take bfloat16 where the processor has it, which is no float32: it is asked
for float32, and measured as it comes beside. Candidates are called in turns, with a pause between,
in which the threads of the one before come to rest; reported are medians and quartiles, the ratio
of the best peer's median to ours, and of our float32 to our int8. The machine's float32 peak is
measured in every turn. Weights are random: int8 is taken whatever it loses.

Needs `pip install "xception[export]"`. Prints a table and writes benchmarks/results/inference.json;
another network goes to another file, inference-NAME.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports ONNX Runtime

import torch
from fma_peak import FmaPeak
from record import FOLDER, write
from torch import Tensor, nn
from turns import in_turns, summary

import xception
from xception.export import quantize_onnx, quantize_openvino, to_onnx
from xception.inference.runtimes import version_of
from xception.models import summarize, totals

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
PAUSE = 0.05  # seconds between two calls
CALIBRATION = 16  # pictures at least; any will do where only time is measured

Run = Callable[[Tensor], Any]


def make_network(name: str) -> nn.Module:
    """Random weights and statistics that neither vanish nor grow: tiny numbers would be slow."""
    torch.manual_seed(0)
    network = xception.create_model(name, num_classes=1000)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def export_plainly(network: nn.Module, x: Tensor, path: Path) -> None:
    """As torch's documentation shows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (x,),
            path,
            dynamo=True,
            input_names=["pictures"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )


def onnxruntime_session(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"pictures": x.numpy()})[0])


def openvino_model(path: Path, threads: int, **settings: Any) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_NUM_THREADS": threads, **settings}
    )
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


def candidates(
    network: nn.Module, x: Tensor, calibration: list[Tensor], threads: int, folder: Path
) -> tuple[dict[str, Run], dict[str, Any]]:
    """What is measured on batches like `x`, and our models, which know their roads."""
    size = (x.shape[2], x.shape[3])
    shared = {"size": size, "cache": folder / "cache"}
    ours = {
        "ours fp32": xception.optimize(network, **shared),
        "ours int8": xception.optimize(
            network, "auto", "int8", calibration=calibration, max_loss=1.0, **shared
        ),
    }
    plain = folder / f"plain-{len(x)}.onnx"
    export_plainly(network, x, plain)
    qdq, ir = folder / f"int8-{len(x)}.onnx", folder / f"int8-{len(x)}.xml"
    batches = [batch for batch in torch.cat(calibration).split(len(x)) if len(batch) == len(x)]
    quantize_onnx(plain, qdq, batches)
    dynamic = folder / "dynamic.onnx"  # NNCF takes pictures one by one
    to_onnx(network, dynamic, size=size)
    quantize_openvino(dynamic, ir, calibration)
    kept = network.to(memory_format=torch.channels_last)

    def eager(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return kept(x.to(memory_format=torch.channels_last))

    def plain_eager(x: Tensor) -> Tensor:
        before = xception.set_kernels("off")
        logits = eager(x)
        xception.set_kernels(before)
        return logits

    return {
        **ours,
        "onnxruntime fp32": onnxruntime_session(plain, threads),
        "openvino fp32": openvino_model(plain, threads, INFERENCE_PRECISION_HINT="f32"),
        "openvino as it comes": openvino_model(plain, threads),
        "torch channels_last fp32": plain_eager,
        "torch with our kernels fp32": eager,
        "onnxruntime int8": onnxruntime_session(qdq, threads),
        "openvino int8": openvino_model(ir, threads),
    }, ours


def compare(network: nn.Module, size: int, batch: int, arguments: Any) -> dict[str, Any]:
    """All figures of one batch size."""
    torch.manual_seed(1)
    x = torch.randn(batch, network.in_channels, size, size)
    calibration = list(torch.randn(max(CALIBRATION, batch), *x.shape[1:]).split(8))
    with tempfile.TemporaryDirectory() as folder:
        runs, ours = candidates(network, x, calibration, arguments.threads, Path(folder))
        for name, run in ours.items():
            run(x)  # measures, and settles its road
            print(f"batch {batch}, {name}: {run.road}", flush=True)
        peak = FmaPeak(arguments.threads)
        calls = {name: partial(run, x) for name, run in runs.items()}
        seconds = in_turns({**calls, "peak": peak.measure}, arguments.repeats, pause=PAUSE)
        roads = {name: str(run.road) for name, run in ours.items()}
    figures = {name: summary(seconds[name]) for name in runs}
    median = {name: row["median_s"] for name, row in figures.items()}
    ratios = {
        "best peer fp32 / ours fp32": min(median["onnxruntime fp32"], median["openvino fp32"])
        / median["ours fp32"],
        "best peer int8 / ours int8": min(median["onnxruntime int8"], median["openvino int8"])
        / median["ours int8"],
        "torch channels_last / ours fp32": median["torch channels_last fp32"] / median["ours fp32"],
        "ours fp32 / ours int8": median["ours fp32"] / median["ours int8"],
    }
    return {
        "batch": batch,
        "seconds": figures,
        "roads": roads,
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        "fma_peak": peak.summary(),
    }


def show(result: dict[str, Any]) -> None:
    print(f"\nbatch {result['batch']}{'median ms':>38}{'quartiles':>20}")
    for name, row in result["seconds"].items():
        quartiles = f"{1000 * row['first_quartile_s']:.1f}-{1000 * row['third_quartile_s']:.1f}"
        print(f"{name:<30}{1000 * row['median_s']:>16.1f}{quartiles:>20}")
    for name, value in result["ratios"].items():
        print(f"{name:<36}{value:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="xception")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = make_network(arguments.model)
    results = []
    for batch in arguments.batches:
        results.append(compare(network, arguments.size, batch, arguments))
        show(results[-1])
    name = "inference" if arguments.model == "xception" else f"inference-{arguments.model}"
    content = {
        "rounds": arguments.repeats,
        "model": arguments.model,
        "size": arguments.size,
        "gflop": round(2 * totals(summarize(network, arguments.size)).macs * 1e-9, 4),  # a picture
        "results": results,
    }
    versions = {package: version_of(package) for package in PACKAGES}
    write(arguments.out or FOLDER / f"{name}.json", content, versions)


if __name__ == "__main__":
    main()
