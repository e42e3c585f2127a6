"""The command as schedulers, old terminals and pipes start it: real processes with streams closed or in code pages."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hcnn import cli

_LOOP = """
import json, sys
from pathlib import Path
from hcnn.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    try:
        codes.append(main(words))
    except SystemExit as stop:
        codes.append(stop.code)
Path(sys.argv[2]).write_text(json.dumps(codes))
"""


def _process(
    commands: Sequence[Sequence[object]], codes: Path, redirection: str = "", **environment: str
) -> tuple[list[int], bytes, bytes]:
    """Exit codes, output and errors of several commands in one process, which a shell starts with a redirection."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    program = shlex.join([sys.executable, "-c", _LOOP, words, str(codes)])
    done = subprocess.run(
        ["bash", "-c", f"{program} {redirection}"],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(codes.read_text(encoding="utf-8")), done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "d.npz", images=images, labels=np.arange(40) % 2, classes=np.array(["犬", "Й×"]))
    assert cli.main(_training(folder, folder / "run")) == 0
    Image.fromarray(images[0]).save(folder / "ж.png")
    return folder / "run"


def _training(folder: Path, output: Path) -> list[str]:
    command = ["train", str(folder / "d.npz"), "--model", "hcnn_digits", "--width", "4", "--epochs", "1"]
    return [*command, "--batch-size", "20", "--output", str(output)]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_end_no_command(closed, run, tmp_path) -> None:
    commands = [
        [],
        ["train", "--help"],
        ["summary", "hcnn_digits"],
        ["predict", run, run.parent / "ж.png"],
        ["train", "--epocs", "3"],
        ["evaluate", tmp_path / "none"],
        ["predict", run, "-", *([] if "<" in closed else ["--top", "0"])],
    ]
    expected = [0, 0, 0, 0, 2, 2, 2]
    if closed.count("-") == 3:  # the longest command once
        commands, expected = [*commands, _training(run.parent, tmp_path / "out")], [*expected, 0]
    codes, _, errors = _process(commands, tmp_path / "codes", closed)
    assert codes == expected
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
    if len(codes) == 8:  # no file of the run took the descriptor of a closed stream, so nothing was printed into one
        assert json.loads((tmp_path / "out" / "result.json").read_text())["seed"] == 0
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names >= {"config.json", "weights.safetensors", "curves.png"}


def test_a_full_device_is_an_error_of_one_line(tmp_path) -> None:
    codes, _, errors = _process([["--help"]], tmp_path / "codes", ">/dev/full")
    assert codes == [2]
    assert errors.decode() == "hcnn: No space left on device\n"


def test_output_on_a_full_device_fails_once(run, tmp_path) -> None:
    codes, _, errors = _process([["predict", run, run.parent / "ж.png"]], tmp_path / "codes", ">/dev/full")
    assert codes == [2]
    assert errors.decode() == "hcnn: No space left on device\n"


def test_a_run_goes_on_when_nobody_reads_its_output(run, tmp_path) -> None:
    commands = [["models"], _training(run.parent, tmp_path / "out"), ["evaluate", tmp_path / "none"]]
    codes, _, errors = _process(commands, tmp_path / "codes", ' | true; exit "${PIPESTATUS[0]}"')
    assert codes == [0, 0, 2]
    assert errors.decode().startswith(f"hcnn: {tmp_path / 'none'}: expected a run folder")
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.parametrize("encoding", ["cp1251", "ascii:strict"])
def test_what_an_encoding_lacks_is_escaped(encoding, run, tmp_path) -> None:
    commands = [[*one, "--help"] for one in (["train"], ["predict"], ["explore"])]
    commands += [["train", "--help-all"], ["summary", "hcnn_digits"]]
    if encoding == "ascii:strict":
        commands.append(_training(run.parent, tmp_path / "выход"))
    image = ["predict", run, run.parent / "ж.png", "--top", "2", "--format"]
    commands += [[*image, form] for form in ("text", "table", "csv", "json")]
    codes, out, errors = _process(commands, tmp_path / "codes", PYTHONIOENCODING=encoding)
    assert (codes, errors) == ([0] * len(commands), b"")
    text = out.decode(encoding.split(":")[0])
    *_, as_text, head, row, csv_head, csv_row, as_json = text.splitlines()
    assert ("Й" in text) == (encoding == "cp1251")
    for line in (as_text, row, csv_row, as_json):
        assert "\\u72ac" in line  # 犬, which none of them has
    assert (head.split()[0], csv_head.split(",")[0]) == ("class", "file")
    (tmp_path / "犬").write_text("")
    codes, out, errors = _process(
        [["predict", run, tmp_path / "犬"]], tmp_path / "codes", PYTHONIOENCODING=encoding
    )  # fmt: skip
    assert (codes, out) == ([2], b"")
    assert b"\\u72ac: " in errors


def test_output_to_a_pipe_is_never_wrapped(run, tmp_path) -> None:
    commands = [["summary", "hcnn_cifar10"], ["train", "--help-all"], [], ["train", "--help"]]
    commands += [["predict", run, run.parent / "ж.png"], ["evaluate", tmp_path / ("no such run " * 20)]]
    outputs = [_process(commands, tmp_path / "codes", COLUMNS=columns) for columns in ("10", "500")]
    assert outputs[0] == outputs[1]
    codes, out, errors = outputs[0]
    assert codes == [0, 0, 0, 0, 0, 2]
    assert max(map(len, out.decode().splitlines())) > 150  # an explanation stands on one line
    assert errors.decode().count("\n") == 1


def test_a_run_folder_whose_name_is_no_text_lacks_a_tensorboard_log_only(run, tmp_path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    codes, _, errors = _process(
        [_training(run.parent, folder), ["predict", folder, run.parent / "ж.png"]], tmp_path / "c"
    )
    assert (codes, errors) == ([0, 0], b"")
    assert {path.name for path in run.iterdir()} - {path.name for path in folder.iterdir()} == {"tensorboard"}


def test_a_file_name_that_is_no_text_is_shown_escaped(run, tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\x1b[31m.png"
    Path(os.fsdecode(name)).write_bytes((run.parent / "ж.png").read_bytes())
    codes, out, errors = _process(
        [["predict", run, tmp_path, "--format", form] for form in ("text", "table", "csv")], tmp_path / "codes"
    )
    assert (codes, errors) == ([0, 0, 0], b"")
    assert out.count(b"/\\udcff\\x1b[31m.png") == 2  # text and table
    assert os.fsdecode(name).encode(errors="backslashreplace") in out  # CSV holds the name itself


def test_one_process_of_several_describes_the_images(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main([*_training(run.parent, tmp_path / "run"), "--precision", "float32"]) == 0
    assert "training images of 2 classes" not in capsys.readouterr().out
