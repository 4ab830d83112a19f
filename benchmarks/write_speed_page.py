"""Write the tables and figures of docs/speed.md from the raw results.

    python benchmarks/write_speed_page.py [--results FOLDER] [--page PATH]

Each result that exists fills the place of its name in the page, between the comments "NAME: begin"
and "NAME: end"; what was not measured leaves its place as it is. Figures go to images/ beside the
page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from record import FOLDER, read

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
Result = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown has it."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def ms(row: dict[str, float], divisor: float = 1) -> str:
    """A median with its quartiles, in milliseconds."""
    values = [1000 * row[f"{name}_s"] / divisor for name in ("median", "first_quartile")]
    values.append(1000 * row["third_quartile_s"] / divisor)
    digits = 0 if values[0] >= 100 else 1 if values[0] >= 10 else 2
    median, low, high = (f"{value:,.{digits}f}" for value in values)
    return f"{median} ({low}-{high})"


def machine(result: Result, rounds: str = "medians and quartiles of {}") -> str:
    """One line: on what, and how often."""
    found = result["environment"]
    line = (
        f"{found['cpu']}, {counted(int(found['threads']), 'thread')}, torch {found['torch']}, "
        f"kernels {found['kernels'].partition(' ')[0]}"
    )
    if "rounds" in result:
        line += f"; {rounds.format(counted(result['rounds'], 'round'))}"
    if "fma_peak" in result:
        line += f"; {peak(result['fma_peak'])}"
    return f"{line}."


def counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def peak(found: dict[str, Any]) -> str:
    return (
        f"float32 peak meanwhile {found['gflops']:.0f} GFLOP/s "
        f"({found['least']:.0f}-{found['most']:.0f}, {found['how']})"
    )


def training_step(result: Result) -> str:
    parts = [machine(result, "medians of {}, SGD with momentum")]
    for case, measured in result["cases"].items():
        rows, ours = measured["contenders"], measured["contenders"]["ours"]["median_s"]
        with_peak = "fma_peak" in measured
        body = []
        for name, row in rows.items():
            body.append([
                name, f"{row['median_s']:.3f}", f"{row['least_s']:.3f}-{row['most_s']:.3f}",
                f"{row['memory_mb']:,} MB", f"{row['median_s'] / ours:.2f}",
            ])  # fmt: skip
            if with_peak:
                share = measured["gflop"] / row["median_s"] / measured["fma_peak"]["gflops"]
                body[-1].append(f"{100 * share:.0f}%")
        head = [case, "seconds", "range", "memory beyond the model", "peer / ours"]
        parts.append(table([*head, "of the peak"] if with_peak else head, body))
        if with_peak:
            text = f"A step is {measured['gflop']:.1f} GFLOP; the {peak(measured['fma_peak'])}."
            parts.append(text)
    return "\n\n".join(parts)


def layers(result: Result) -> str:
    rows = result["layers"]
    parts = [machine(result)]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        body = [
            [
                f"{row['inputs']} -> {row['outputs']}", f"{row['height']}x{row['width']}",
                "yes" if row["relu"] else "no", str(len(row["layers"])), ms(row["fused"]),
                ms(row["plain"]), f"{row['gflops_fused']:.0f}",
                f"{100 * row['share_of_peak_fused']:.0f}%",
                f"{100 * row['share_of_peak_plain']:.0f}%", f"{row['plain_to_fused']:.2f}",
            ]
            for row in own
        ]  # fmt: skip
        head = [
            f"{network}, batch {own[0]['batch']}", "map", "ReLU", "layers", "fused, ms",
            "plain, ms", "GFLOP/s", "of the peak", "plain's", "plain / fused",
        ]  # fmt: skip
        parts.append(table(head, body))
    worst = min(rows, key=lambda row: row["plain_to_fused"])
    parts.append(
        f"The least gain of all {len(rows)} shapes is {worst['plain_to_fused']:.2f} "
        f"({worst['inputs']} -> {worst['outputs']} at {worst['height']}x{worst['width']}, "
        f"{worst['network']})."
    )
    return "\n\n".join(parts)


def growth(result: Result) -> str:
    lines = [
        "![Time of a training step against batch, picture size, width, segments and threads]"
        "(images/growth.svg)",
        machine(result),
    ]
    ratios = result["two_threads_speed_up"]
    if ratios:
        figures = ", ".join(f"{name} {ratio:.2f} times" for name, ratio in ratios.items())
        lines.append(f"Two threads against one, in training: {figures}.")
    return "\n\n".join(lines)


def other_networks(result: Result) -> str:
    batch, top = result["batch"], result["fma_peak"]["gflops"]
    body = [
        [
            name, f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f}",
            ms(row["inference"], batch), ms(row["training"], batch),
            f"{row['training_gflops']:.0f}", f"{100 * row['training_gflops'] / top:.0f}%",
        ]
        for name, row in result["networks"].items()
    ]  # fmt: skip
    head = [
        f"batch {batch}, {result['size']}x{result['size']}", "parameters", "GMAC a picture",
        "inference, ms a picture", "training, ms a picture", "GFLOP/s in training", "of the peak",
    ]  # fmt: skip
    return f"{machine(result)}\n\n{table(head, body)}"


def fused_networks(result: Result) -> str:
    parts = [f"{machine(result)} Batch {result['batch']}, {result['size']}x{result['size']}."]
    names = list(dict.fromkeys(n for case in result["cases"].values() for n in case["contenders"]))
    body = []
    for case, measured in result["cases"].items():
        rows, (swapped, modules) = measured["contenders"], measured["modules_swapped"]
        ratios = measured["best_peer_to_fused"]
        body.append([
            f"{case} ({swapped} of {modules})",
            *(ms(rows[name]) if name in rows else "-" for name in names),
            *(f"{ratios[how]:.2f}" if how in ratios else "-" for how in ("as is", "tuned")),
        ])  # fmt: skip
    head = ["a step, ms (modules swapped)", *names, "best as is / fused", "best tuned / fused"]
    return "\n\n".join([*parts, table(head, body)])


def inference(result: Result) -> str:
    found = result["environment"]
    versions = ", ".join(
        f"{name} {found[name]}" for name in ("onnxruntime", "openvino", "nncf") if name in found
    )
    parts = [f"{machine(result)} {versions}."]
    for measured in result["results"]:
        head = [
            f"{result['model']}, {result['size']}x{result['size']}, batch {measured['batch']}",
            "ms",
        ]
        parts.append(table(head, [[name, ms(row)] for name, row in measured["seconds"].items()]))
        ratios = "; ".join(f"{name} {value:.2f}" for name, value in measured["ratios"].items())
        roads = "; ".join(
            f"{name}: {road.partition(' (')[0]}" for name, road in measured["roads"].items()
        )
        parts.append(f"{ratios}. Chosen: {roads}. The {peak(measured['fma_peak'])}.")
    return "\n\n".join(parts)


def keras_backends(result: Result) -> str:
    found, rows = result["environment"], result["contenders"]
    versions = ", ".join(
        f"{name} {found[name]}" for name in ("keras", "jax", "tensorflow") if name in found
    )
    works = list(rows["ours"])
    body = []
    for name, row in rows.items():
        ratio = row["training step"]["median_s"] / rows["ours"]["training step"]["median_s"]
        body.append([name, *(ms(row[work]) for work in works), f"{ratio:.2f}"])
    size, batch = result["size"], result["batch"]
    head = [f"xception, {size}x{size}", *(f"{work}, ms" for work in works), "training, / ours"]
    head = [title.replace("the batch", f"{batch}") for title in head]
    head = [title.replace("training step", f"training step of {batch}") for title in head]
    return f"{machine(result)} {versions}.\n\n{table(head, body)}"


def training_curves(result: Result) -> str:
    def name(run: Result) -> str:
        kind = "with the kernels" if run["kernels"] != "off" else "plain torch"
        kept = "" if run["kept"] == "float32" else f", maps kept in {run['kept']}"
        return f"{kind}, {counted(run['threads'], 'thread')}{kept}"

    kinds = list(dict.fromkeys(map(name, result["runs"])))
    seeds = sorted({run["seed"] for run in result["runs"]})
    found = {(name(run), run["seed"]): run for run in result["runs"]}
    body = [
        [
            kind,
            *(
                f"{run['epochs'][-1]['train_loss']:.4f}, {run['test_accuracy']:.3f} +- "
                f"{run['test_accuracy_standard_error']:.3f}"
                for run in (found[kind, seed] for seed in seeds)
            ),
        ]
        for kind in kinds
    ]
    head = ["last epoch's loss, test accuracy", *(f"seed {seed}" for seed in seeds)]
    epochs = len(result["runs"][0]["epochs"])
    return "\n\n".join((
        "![Loss and accuracy with the kernels and without, and their differences]"
        "(images/training_curves.svg)",
        f"`xception_tiny` on {result['data']}, preset {result['preset']} with {epochs} epochs and "
        f"learning rate {result['lr']:g}. {machine(result)}",
        table(head, body),
    ))  # fmt: skip


def saved_activations(result: Result) -> str:
    first = table(
        [f"xception, {result['size']}x{result['size']}, batch {result['batch']}",
         "after the forward pass", "most in backward"],
        [
            [way, f"{row['after_forward_mb']:,} MB", f"{row['peak_in_backward_mb']:,} MB"]
            for way, row in result["memory"].items()
        ],
    )  # fmt: skip
    errors = result["gradient_errors"]
    ways = list(dict.fromkeys(way for row in errors.values() for way in row))
    second = table(
        [f"distance from float64's gradients, mean of {result['seeds']} seeds", *ways],
        [
            [title, *(f"{100 * row[way]:.1f}%" if way in row else "" for way in ways)]
            for title, row in errors.items()
        ],
    )
    return f"{machine(result)}\n\n{first}\n\n{second}"


def int8_accuracy(result: Result) -> str:
    body = [
        [
            f"{row['model']}, {row['data']}", f"{row['pictures']:,}",
            f"{row['float32']:.4f} +- {row['standard_error']:.4f}",
            *(
                f"{found['top1']:.4f} ({100 * (found['top1'] - row['float32']):+.2f} points)"
                for found in row["int8"].values()
            ),
        ]
        for row in result["networks"]
    ]  # fmt: skip
    runtimes = list(result["networks"][0]["int8"])
    head = ["accuracy", "test pictures", "float32", *(f"int8, {name}" for name in runtimes)]
    return f"{machine(result)}\n\n{table(head, body)}"


SECTIONS: dict[str, Callable[[Result], str]] = {
    "training_step": training_step,
    "layers": layers,
    "growth": growth,
    "other_networks": other_networks,
    "fused_networks": fused_networks,
    "inference": inference,
    "inference-xception_tiny": inference,
    "int8_accuracy": int8_accuracy,
    "keras_backends": keras_backends,
    "saved_activations": saved_activations,
    "training_curves": training_curves,
}
FIGURES = ("growth", "training_curves")


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` in the place of that name; raises ValueError where there is none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place {begin} ... {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def written(page: str, results: Path) -> str:
    """The page with all results of that folder."""
    for name, section in SECTIONS.items():
        result = read(name, results)
        if result is not None:
            page = replaced(page, name, section(result))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    page = written(arguments.page.read_text(encoding="utf-8"), arguments.results)
    arguments.page.write_text(page, encoding="utf-8")
    import plots

    for name in FIGURES:
        result = read(name, arguments.results)
        if result is not None:
            path = arguments.page.parent / "images" / f"{name}.svg"
            plots.save(getattr(plots, name)(result), path)
    print(f"written: {arguments.page.name}")


if __name__ == "__main__":
    main()
