from __future__ import annotations

import json

from xception import list_models
from xception.cli.main import main


def test_every_network_is_listed(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == list_models()


def test_parameters_are_counted(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["xception"]["parameters"] == 22_855_952
    assert rows["xception"]["size"] == [299, 299]
