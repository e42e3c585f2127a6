"""`hcnn tune`: the table, and a command that trains the same network."""

import json
import shlex
from pathlib import Path

import pytest

from hcnn import cli

SMALL = ["--width=4", "--rank=4", "--depth=4", "--downsample", "3", "--threads", "1", "--train-images", "100"]


def test_the_printed_command_trains_the_same_network(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tune", "digits", *SMALL, "--trials", "2", "--epochs", "3", "--output", "search"]) == 0
    out = capsys.readouterr().out
    assert "20 training images are held out for validation" in out
    assert "round 1 of 2, trial 0, 1 epoch: lr 0.1" in out
    command = shlex.split(out.split("to train with these settings: ")[1])
    assert command[:3] == ["hcnn", "train", "digits"]
    assert not {"--trials", "--output"} & {*command}
    assert cli.main([*command[1:], "--no-test", "--output", "run"]) == 0
    record = json.loads(Path("search/tune.json").read_text(encoding="utf-8"))
    best = record["best"]
    assert shlex.split(record["command"]) == command
    weights = Path("search", f"rung-{best['rung']}", f"trial-{best['trial']}", "weights.safetensors").read_bytes()
    assert Path("run/weights.safetensors").read_bytes() == weights
    assert "width" not in best["settings"]  # it was given
    assert cli.main(["tune", "digits", *SMALL, "--trials", "2", "--epochs", "3", "--output", "search", "--resume"]) == 0
    assert f"lr {best['settings']['lr']:g}" in capsys.readouterr().out.replace("--lr", "lr")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "2"], "--seeds: a search compares its trials with one seed, --seed"),
        (["--trials", "1"], "trials: expected 2 to 10,000; got 1"),
        (["--trials", str(10**9)], "trials: expected 2 to 10,000; got 1000000000"),
        (["--trials", "many"], "--trials: expected a whole number; got 'many'"),
        (["--lr", "0.1", "--weight-decay", "0", "--batch-size", "9"], "expected something to search among lr"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, capsys, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(cli.main(["tune", "digits", *SMALL, *words]))
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
