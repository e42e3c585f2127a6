"""Names of classes, files and folders are data: on a terminal they stay on their line, and are never markup."""

import contextlib
import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hcnn import cli
from hcnn.cli.predict import prediction_lines
from hcnn.cli.terminal import say, status
from hcnn.prediction import Prediction

CLASSES = (
    "[/red]",
    "\x1b[31mred",
    "two\nlines",
    "",
    "carriage\rreturn",
    ':smile:,"quoted"',
    "right\u202eleft",
    "犬",
    "$a$b$",
)
FOLDER = "[/bold] \x1b[1m\nx"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run folder, and what its training printed."""
    root = tmp_path_factory.mktemp("names") / FOLDER
    root.mkdir(parents=True)  # the slash makes two folders of it
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    labels = np.arange(80) % len(CLASSES)
    np.savez(root / "[red]\t.npz", images=images, labels=labels, classes=np.array(CLASSES))
    (root / "pictures").mkdir()
    for number, name in enumerate((*CLASSES[:4], "犬\udcff")):
        Image.fromarray(images[number]).save(root / "pictures" / f"{number}{name.replace('/', '')}.png")
    command = ["train", root / "[red]\t.npz", "--model", "hcnn_digits", "--width", "4", "--epochs", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main([*map(str, command), "--batch-size", "20", "--output", str(root / "run[/red]")]) == 0
    return root / "run[/red]", out.getvalue()


def _is_plain(text: str) -> bool:
    return all(one in " \n" or unicodedata.category(one)[0] not in "CZ" for one in text)


def test_training_shows_names_escaped_and_on_one_line(trained, capsys) -> None:
    run, out = trained
    assert _is_plain(out)
    for part in ("red]: ", "[/bold] \\x1b[1m\\nx/[red]\\t.npz, seed 0", "[/bold] \\x1b[1m\\nx/run[/red]/config.json\n"):
        assert part in out
    assert cli.main(["train", str(run.parents[1] / "[red]\t.npz"), "--output", str(run)]) == 2
    captured = capsys.readouterr()
    assert _is_plain(captured.err)
    assert captured.err.count("\n") == 1


def test_export_and_evaluate_show_names_escaped(trained, capsys) -> None:
    run, _ = trained
    for target in ("c", "safetensors"):
        assert cli.main(["export", str(run), "--to", target]) == 0
        captured = capsys.readouterr()
        assert _is_plain(captured.out + captured.err)
        assert "\\x1b[1m\\nx/run[/red]/" in captured.out
    assert cli.main(["evaluate", str(run), "--data", "digits"]) == 2
    captured = capsys.readouterr()
    assert _is_plain(captured.err)
    assert "[/red]" in captured.err


@pytest.mark.parametrize("form", ["text", "table", "json", "csv"])
def test_predictions_hold_names_on_one_line_or_quoted(trained, form, capsys) -> None:
    run, _ = trained
    pictures = run.parents[1] / "pictures"
    assert cli.main(["predict", str(run), str(pictures), "--top", "9", "--format", form]) == 0
    out = capsys.readouterr().out
    files = sorted(str(path) for path in pictures.iterdir())
    if form == "csv":
        rows = list(csv.reader(io.StringIO(out, newline="")))
        assert [row[0].encode(errors="backslashreplace") for row in rows[1:]] == [
            name.encode(errors="backslashreplace") for name in files
        ]
        assert all({*row[1::2]} == {*CLASSES} for row in rows[1:])
        return
    assert out.count("\n") == len(files) + (form == "table")
    if form == "json":
        for line, name in zip(out.splitlines(), files, strict=True):
            found = json.loads(line)
            assert found["file"] == name
            assert {one["class"] for one in found["top"]} == {*CLASSES}
        return
    assert _is_plain(out)
    for part in (
        "[/red] ",
        "\\x1b[31mred ",
        "two\\nlines ",
        "carriage\\rreturn ",
        "right\\u202eleft ",
        "犬 ",
        "\\udcff.png",
    ):
        assert part in out, part


def test_columns_of_the_table_stand_under_each_other() -> None:
    best = tuple((name, 1 / 8) for name in ("犬犬犬", "cat", "\x1b"))
    lines = [*prediction_lines(iter([Prediction("a", best)]), "table", 3, ("犬犬犬", "cat", "\x1b"))]
    assert lines == [
        "class    prob.  class    prob.  class    prob.  file\n",
        "犬犬犬   12.5%  cat      12.5%  \\x1b     12.5%  a\n",
    ]


def test_what_is_shown_on_a_terminal_is_never_markup() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200, markup=False, emoji=False, highlight=False)
    with status(console, "[/red]") as update:
        update("[/bold]\x1b[31m goes on\n")
        console.print("")  # draws the line
    say(console, "[link=x] :smile: \x1b[2J done", "red")
    shown = screen.getvalue()
    for part in ("[/bold]\\x1b[31m goes on\\n", "[link=x] :smile: \\x1b[2J done"):
        assert part in shown
    assert "\x1b[2J" not in shown


def test_a_list_of_bad_files_has_a_line_for_each(tmp_path, capsys) -> None:
    (tmp_path / "data" / "[red]").mkdir(parents=True)
    for name in ("a\n  hcnn: all is well.png", "b\x1b[2K.png"):
        (tmp_path / "data" / "[red]" / name).write_bytes(b"no image")
    assert cli.main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "run")]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("hcnn: 2 files are not usable images")
    assert [line.split("[red]/")[1].split(": expected")[0] for line in lines] == [
        "a\\n  hcnn: all is well.png",
        "b\\x1b[2K.png",
    ]
