"""`hcnn figure` and `hcnn explore` as a user types them, and the explorer that they open."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hcnn import cli
from hcnn.cli.outputs import STUDY, check_head
from hcnn.explore import open_explorer


def _arrays(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return (random.integers(0, 128, (n, 8, 8)) + 100 * labels[:, None, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    images, labels = _arrays(0, 120)
    np.savez(folder / "data.npz", images=images, labels=labels, classes=np.array(["dark", "light"]))
    command = ["train", folder / "data.npz", "--model", "hcnn_digits", "--epochs", "2", "--batch-size", "20",
               "--validation", "0"]  # fmt: skip
    assert cli.main([*map(str, command), "--boundary", "circular", "--output", str(folder / "run")]) == 0
    return folder / "run"


def _error(capsys, *arguments: object) -> str:
    assert cli.main([str(one) for one in arguments]) == 2
    captured = capsys.readouterr()
    assert "wrote" not in captured.out
    assert "Traceback" not in captured.err
    return captured.err.replace("\n", " ")


def test_figures_3_and_4(run, tmp_path, capsys) -> None:
    for number, options in (("3", ["--depth", "5", "--attribute", "v5", "--query", "0", "7"]), ("4", ["--query", "3"])):
        path = tmp_path / f"{number}.png"
        assert cli.main(["figure", number, str(run), "--output", str(path), *options]) == 0
        assert f"wrote {path}" in capsys.readouterr().out
        with Image.open(path) as image:
            assert min(image.size) > 300
    assert cli.main(["figure", "3", str(run)]) == 0
    assert (run / "figure-3.png").exists()


def test_the_figures_of_pretrained_networks_have_their_names(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)  # where one network's picture would else replace another's
    assert cli.main(["figure", "3", "hcnn_digits"]) == 0
    assert "wrote hcnn_digits-figure-3.png" in capsys.readouterr().out


def test_bad_requests_for_figures_are_explained(run, tmp_path, capsys) -> None:
    assert "depth: expected one of 3, 4, 5, 6; got 9" in _error(capsys, "figure", 3, run, "--depth", 9)
    assert "expected one of v5 at depth 6; got 'v6'" in _error(capsys, "figure", 3, run, "--attribute", "v6")
    assert "image: expected a number from 0 to 119; got 500" in _error(capsys, "figure", 3, run, "--query", 500)
    assert "figure 4: expected one --query; got 2" in _error(capsys, "figure", 4, run, "--query", 1, 2)
    assert "are for figure 3" in _error(capsys, "figure", 4, run, "--depth", 3)
    assert "expected config.json in it" in _error(capsys, "figure", 3, tmp_path)
    assert "expected config.json in it" in _error(capsys, "explore", tmp_path)
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "large.npz", images=np.zeros((4, 16, 16), np.uint8), labels=np.arange(4) % 2)
    message = _error(capsys, "explore", run, "--data", tmp_path / "large.npz")
    assert "expected images (c, *u) = (1, 8, 8), as the run's; got (1, 16, 16)" in message
    images, labels = _arrays(1, 60)
    np.savez(tmp_path / "other.npz", images=images, labels=labels)
    assert (
        cli.main(["figure", "3", str(run), "--data", str(tmp_path / "other.npz"), "--output", str(tmp_path / "x.png")])
        == 0
    )
    assert (run / "arrays-centre-other").is_dir()  # beside those of the run's own images
    capsys.readouterr()
    message = _error(capsys, "explore", run, "--data", tmp_path / "other.npz", "--arrays", run / "arrays-centre")
    assert "holds arrays of another origin: data_sha256" in message
    assert "queries: expected 2 images or more; got 1" in _error(capsys, "explore", run, "--queries", 1)
    with pytest.raises(SystemExit) as stop:
        cli.main(["figure", "5", str(run)])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("command", "output", "message"),
    [
        (("figure", 3, "RUN"), "script.py", "--output: expected a PNG file, such as figure.png; got"),
        (("figure", 3, "RUN"), "figure.jpg", "--output: expected a PNG file, such as figure.png; got"),
        (
            ("figure", 4, "RUN"),
            "mine.png",
            "mine.png: the file exists and hcnn did not write it; give another --output",
        ),
        (("figure", 4, "RUN"), "folder.png", "folder.png: expected a file or a free name; it is a folder"),
        (("figure", 3, "RUN", "--depth", 9), "new/new/figure.png", "depth: expected one of"),
        (("figure", 3, "RUN"), "script.py/figure.png", "script.py: Not a directory"),
        (("explore", "RUN"), "other", "rows.csv: the file exists and hcnn did not write it; give another --output"),
        (("explore", "RUN", "--seed", -1), "new", "seed: expected 0 or more; got -1"),
        (("explore", "RUN", "--seed", 2**63), "new", "seed: expected a whole number from 0 to 2**63 - 1; got 9223"),
        (("explore", "RUN", "--control", "nowhere"), "new", "nowhere is not a finished run"),
        (("explore", "RUN", "--arrays", "script.py"), "new/new", "script.py: Not a directory"),
    ],
)
def test_outputs_that_cannot_be_are_refused_and_nothing_is_left(
    run, tmp_path, monkeypatch, capsys, command, output, message
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("script.py", "mine.png", "other/rows.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"mine")
    Path("folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert message in _error(capsys, *(run if word == "RUN" else word for word in command), "--output", output)
    assert sorted(tmp_path.rglob("*")) == before


def test_explore_leaves_tables_figures_and_sentences(run, tmp_path, capsys) -> None:
    command = ["explore", run, "--output", tmp_path, "--queries", 20, "--changed", 10, "--flat", 10, "--orders", 2]
    assert cli.main([str(one) for one in command]) == 0
    out = capsys.readouterr().out
    study = json.loads((tmp_path / "study.json").read_text())
    assert study["info"]["queries"].endswith("data.npz: images, themselves excluded")
    assert study["info"]["boundary"] == "circular"
    assert study["info"]["controls"] == ["untrained"]
    for name in ("rows", "contrasts", "properties"):
        table = list(csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text())))
        assert len(table) == len(study[name]) > 0
        assert float(table[0]["low"]) <= float(table[0]["value"]) <= float(table[0]["high"])
    assert {row["verdict"] for row in study["properties"]} <= {"found", "as a control", "nothing"}
    for name in ("consistency", "smoothness", "flatness", "properties", "figure-3", "figure-4"):
        assert f"{name}.png" in out
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200
    assert {row["statistic"] for row in study["orders"]} == {"class consistency, τ ≠ 0", "roughness", "logit change"}
    assert len(list(csv.reader(io.StringIO((tmp_path / "orders.csv").read_text())))) == len(study["orders"]) + 1
    assert {path.name for path in tmp_path.iterdir()} == {*STUDY}  # which a second study may replace, and others not
    for name, head in STUDY.items():
        check_head(tmp_path / name, head)
    for word in ("Brightness:", "near enough", "Roughness"):
        assert word in out
    assert "Saturation" not in out  # grey images have none


def test_the_explorer_answers_for_images_of_its_own_and_for_others(run) -> None:
    explorer = open_explorer(run)
    assert explorer.periodic
    assert explorer.attributes(5) == {"v4": 4, "v5": 8}
    assert explorer.attributes(6) == {"v5": 4}  # v6 are the classes
    moves = [{}, {"v4": 1}, {"v4": 0.5, "v5": -2}]
    own = explorer.neighbours(7, 5, moves, k=3)
    assert own.indices.shape == (3, 3)
    assert 7 not in own.indices
    assert explorer.neighbours(explorer.image(7), 5, moves).indices[0].item() == 7
    torch.testing.assert_close(
        explorer.array(7, 5, {"v4": 1}, smooth=["v4"]), explorer.array(7, 5, smooth=["v4"]).roll(1, 0)
    )
    scores = explorer.scores(7, 5, [{"v4": tau} for tau in range(4)])
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    step = explorer.run.model.invariant_shift(5, "v4")
    torch.testing.assert_close(scores[step], scores[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        scores[0], torch.from_numpy(np.array(explorer.arrays.logits[7])).softmax(0), atol=1e-5, rtol=1e-4
    )
    with Image.open(io.BytesIO(explorer.thumbnail(7, side=50))) as image:
        assert image.size == (56, 56)  # 8 pixels enlarged by 7
        np.testing.assert_array_equal(np.asarray(image)[::7, ::7], explorer.image(7)[0].numpy())
    with pytest.raises(ValueError, match="image: expected a number from 0 to 119; got -1"):
        explorer.neighbours(-1, 5, moves)
    with pytest.raises(ValueError, match="expected uint8 images"):
        explorer.neighbours(torch.zeros(1, 9, 9, dtype=torch.uint8), 5, moves)
    with pytest.raises(ValueError, match=r"expected uint8 images .* as a tensor; got a ndarray, uint8 of shape"):
        explorer.arrays_of(explorer.base.images.numpy())  # type: ignore[arg-type]
    for wrong, says in (
        ({"moves": None}, r"moves: expected a list of translations, such as .*; got None"),
        ({"moves": [{5: 1}]}, "expected an attribute of x_5, one of v3, v4, v5; got 5"),
        ({"k": 2.0}, "expected 1 ≤ k ≤ 119 neighbours; got 2.0"),
        ({"j": "5"}, "depth: expected one of 3, 4, 5, 6; got '5'"),
    ):
        with pytest.raises(ValueError, match=says):
            explorer.neighbours(**{"query": 7, "j": 5, "moves": moves, **wrong})
    with pytest.raises(ValueError, match=r"image: expected a number, .*; got 'a'"):
        explorer.label("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device: expected one of cpu"):
        open_explorer(run, device="gpu")
