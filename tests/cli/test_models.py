from __future__ import annotations

import json

from xception import list_models
from xception.cli.main import main
from xception.weights.published import published_weights


def test_every_network_is_listed(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == list_models()


def test_parameters_are_counted(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["xception"]["parameters"] == 22_855_952
    assert rows["xception"]["size"] == [299, 299]


def test_published_weights_are_listed_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # addresses and checksums must stay in one piece
    assert main(["models", "--pretrained"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = published_weights()
    table = lines[2 : 2 + len(entries)]
    assert [line.split()[0] for line in table] == [entry.name for entry in entries]
    assert max(map(len, table)) <= 80
    for entry in entries:
        begin = lines.index(entry.name)
        end = lines.index("", begin) if "" in lines[begin:] else len(lines)
        text = "\n".join(lines[begin:end])
        for file in entry.files:
            assert file.address in text
            assert all(f"{checksum}, {checksum.evidence}" in text for checksum in file.checksums)
        assert f"crop {entry.preprocessing.crop_fraction:g}, " in text
        assert entry.top1_source in text and entry.note in text


def test_published_weights_as_json(capsys):
    assert main(["models", "--pretrained", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [entry.name for entry in published_weights()]
    row = rows["legacy_xception.tf_in1k"]
    assert row["licence"] == "Apache-2.0" and row["num_classes"] == 1000 and row["top1"] == 0.7905
    assert row["preprocessing"]["crop_fraction"] == 0.8975
    (file,) = row["files"]
    assert file["sha256"].startswith("43020ad28") and len(file["sha256"]) == 64
    assert file["address"].endswith("xception-43020ad28.pth") and file["file_bytes"] == 91_675_053
    assert rows["xception71.tf_in1k"]["files"][1]["sha256"] is None  # only its beginning is known
