"""Names are data: classes, runs and controls called like formulas, markup or terminal codes, from files to pictures."""

import asyncio
import csv
import html
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image

import hcnn
from hcnn import cli
from hcnn.data import datasets
from hcnn.explore import open_explorer
from hcnn.explore.page import server, views
from hcnn.plotting import literal, pyplot, save
from hcnn.runs.train import RunSettings, train_run
from hcnn.training.recipes import get_recipe

NAMES = (
    "$x^{$ y$", "_under_score^", "\\frac{1}{", "100% & {braces} #1", "<img src=x onerror=alert(1)>", "a | b\r- c",
    "[bold][nonsense=]", "\x1b[31mred\x1b[0m", "犬\u202e犬", "x" * 120, "$", "\\$a\\$",
)  # fmt: skip
RUN = "$a$ <b>[bold]_"
CONTROL = "_$c$\r<script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of images, one folder per name, and two runs on it with names of the same kind."""
    home = tmp_path_factory.mktemp("names")
    random = np.random.default_rng(0)
    for name in NAMES:
        (home / "photos" / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "photos" / name / f"{number}.png")
    data = datasets.load(home / "photos")
    network = hcnn.model_config("hcnn_digits", classes=len(NAMES))
    for name in (RUN, CONTROL):
        settings = RunSettings(network, get_recipe("digits", epochs=1, batch_size=10), str(home / "photos"))
        train_run(home / name, settings, data)
    return home


@pytest.mark.parametrize("name", [*NAMES, RUN, CONTROL, "broken \udc80 bytes"])
def test_pictures_show_names_letter_by_letter(name, tmp_path) -> None:
    shown = literal(name, 500)
    assert not cbook.is_math_text(shown)
    assert shown.replace(r"\$", "$") == hcnn.text.printable(name)
    with matplotlib.rc_context({"text.usetex": True}):  # a user's own setting
        figure, axes = pyplot().subplots()
        axes.set(title=shown, xlabel=shown)
        axes.set_yticks([0.5], [shown])
        save(figure, tmp_path / "names.png")
    with Image.open(tmp_path / "names.png") as picture:
        assert picture.width > 100


def test_explore_takes_any_names(runs, capsys) -> None:
    command = ["explore", str(runs / RUN), "--queries", "6", "--changed", "2", "--flat", "4", "--orders", "1"]
    assert cli.main([*command, "--control", str(runs / CONTROL), "--output", str(runs / "out")]) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    pictures = sorted(path.name for path in (runs / "out").glob("*.png"))
    assert pictures == [f"{name}.png" for name in (
        "consistency", "figure-3", "figure-4", "flatness", "properties", "smoothness")]  # fmt: skip
    study = json.loads((runs / "out" / "study.json").read_text())
    assert study["info"]["controls"] == ["untrained", CONTROL]
    for name in ("rows", "contrasts", "properties"):
        with (runs / "out" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(study[name])
        assert [row["network"] for row in rows] == [row["network"] for row in study[name]]
    text = (runs / "out" / "report.html").read_text()
    assert "<img src=x" not in text
    assert text.count("<script") == 2  # the data and the program
    assert html.escape(RUN) in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["classes"] == [hcnn.text.printable(name) for name in sorted(NAMES)]


def ask(app: Any, path: str, query: str) -> Any:
    """What an ASGI application answers to one request, from JSON."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    body = b"".join(one.get("body", b"") for one in sent)
    return json.loads(body) if b"application/json" in dict(sent[0]["headers"])[b"content-type"] else body


def test_the_live_page_takes_any_names(runs) -> None:
    explorer = open_explorer(runs / RUN)
    app = server.make_app(explorer)
    about = ask(app, "/api/about", "")
    assert about["run"] == RUN
    assert about["classes"] == [hcnn.text.printable(name) for name in sorted(NAMES)]
    for path in ("/api/view.png", "/api/walk.gif"):
        assert ask(app, path, "image=3&depth=5")[:4] in (b"\x89PNG", b"GIF8")


def test_class_names_of_broken_bytes_can_be_sent(runs) -> None:
    explorer = open_explorer(runs / RUN)
    object.__setattr__(explorer.base, "classes", tuple(f"\udc80{n}" for n in range(len(NAMES))))
    assert ask(server.make_app(explorer), "/api/about", "")["classes"][0] == r"\udc800"
    torch.manual_seed(0)
    json.dumps(views.view(explorer, 0, 5, {}, "v4")).encode()
