"""Write the tables of docs/speed.md from the raw results.

python benchmarks/write_speed_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "speed.md"


def training_step(result: dict[str, Any]) -> str:
    machine = result["environment"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, kernels "
        f"{machine['kernels'].partition(' ')[0]}; medians of {result['rounds']} rounds, SGD with "
        "momentum.",
    ]
    for case, measured in result["cases"].items():
        rows = measured["contenders"]
        ours = rows["ours"]["median_s"]
        lines += [
            "",
            f"| {case} | seconds | range | memory beyond the model | peer / ours |",
            "|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            lines.append(
                f"| {name} | {row['median_s']:.3f} | {row['least_s']:.3f}-{row['most_s']:.3f} "
                f"| {row['memory_mb']:,} MB | {row['median_s'] / ours:.2f} |"
            )
    return "\n".join(lines)


def replaced(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    result = json.loads((HERE / "results" / "training_step.json").read_text(encoding="utf-8"))
    page = replaced(page, "training_step", training_step(result))
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {PAGE.name}")


if __name__ == "__main__":
    main()
