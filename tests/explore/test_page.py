"""The report and the live page, over real HTTP and in a real browser."""

import http.client
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

import hcnn
from hcnn import cli
from hcnn.data import datasets
from hcnn.data.image_set import ImageSet, Splits
from hcnn.explore import explore_images
from hcnn.explore.explorer import Explorer
from hcnn.explore.page import server, views
from hcnn.explore.page.rate_limit import RateLimit
from hcnn.explore.page.report import write_report
from hcnn.explore.study import StudySettings, run_study
from hcnn.export.html_file import network_page
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
browser_test = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
WICKED = '</script><img src=x onerror=alert(1)> & "7"'


@pytest.fixture(scope="module")
def explorer(tmp_path_factory) -> Explorer:
    """Digits, after two epochs, with a class name that wants to be HTML."""
    folder = tmp_path_factory.mktemp("page") / "digits"
    data = datasets.load("digits")
    settings = RunSettings(hcnn.model_config("hcnn_digits"), get_recipe("digits", epochs=2), "digits")
    train_run(folder, settings, data)
    base = data.train.subset(range(400))
    object.__setattr__(base, "classes", tuple(WICKED if name == "7" else name for name in base.classes))
    return explore_images(load_run(folder), base)


def test_a_database_of_few_images_shows_all_of_them(explorer) -> None:
    few = explore_images(explorer.run, explorer.base.subset(range(4)))
    for query in (0, few.image(0)):
        assert {len(row["found"]) for row in views.view(few, query, 5, {"v4": 1}, "v4")["rows"]} == {3}


class Site:
    """The application in a thread of this process, on a port of its own."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, port=0, log_level="warning", ws="none", lifespan="off")
        self.server, self.socket = uvicorn.Server(config), config.bind_socket()
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(content) if content and kind == "application/json" else content, answer.headers

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="module")
def site(explorer) -> Iterator[Site]:
    made = Site(server.make_app(explorer, hosts=["pictures.example"], uploads=RateLimit(1000, 1000)))
    yield made
    made.close()


def picture(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------- views


def test_a_view_has_what_the_library_finds(explorer) -> None:
    one = views.view(explorer, 3, 5, {"v4": 1, "v5": 2}, "v4", k=4)
    assert [row["kind"] for row in one["rows"]] == ["now", *["shift"] * 4, "shuffled"]
    found = explorer.neighbours(3, 5, [{"v4": 1, "v5": 2}, {"v4": 3, "v5": 2}], k=4)
    for row, expected in ((one["rows"][0], found.indices[0]), (one["rows"][4], found.indices[1])):
        assert [entry[0] for entry in row["found"]] == expected.tolist()
    assert one["rows"][0]["found"] == one["rows"][2]["found"]  # now is τ = 1
    assert all(3 not in [entry[0] for entry in row["found"]] for row in one["rows"])
    assert all(abs(sum(row["scores"]) - 1) < 1e-2 for row in one["rows"][:-1])
    scores = explorer.scores(3, 5, [{"v4": tau, "v5": 2} for tau in (1, 0, 1, 2, 3)])  # as the arrays of the rows are
    for row, expected in zip(one["rows"], scores.tolist(), strict=False):
        assert row["scores"] == [round(value, 4) for value in expected]


@pytest.mark.parametrize("axis", ["v4", "v5"])
def test_a_shuffled_order_is_a_fair_control(explorer, axis) -> None:
    noise = np.random.default_rng(0).normal(size=(400, 4, 8)).astype(np.float32)  # whose values have no order
    arrays = replace(explorer.arrays, depths={5: noise})
    plain = replace(explorer, arrays=arrays, _spaces=OrderedDict())
    nearest = {"now": 0.0, "shuffled": 0.0}
    for query in range(60):
        for row in views.view(plain, query, 5, {axis: 1}, axis, k=1)["rows"]:
            if row["kind"] in nearest:
                nearest[row["kind"]] += row["found"][0][2] / 60
    assert nearest["shuffled"] == pytest.approx(nearest["now"], rel=0.03)


def test_an_uploaded_image_is_reordered_as_the_database_is(explorer) -> None:
    row = views.view(explorer, explorer.image(3), 5, {"v4": 0}, "v4", k=1)["rows"][-1]
    assert row["kind"] == "shuffled"
    assert row["found"][0][:3] == (3, explorer.label(3), pytest.approx(0, abs=1e-3))


def test_an_image_from_outside_is_found_itself(explorer) -> None:
    one = views.view(explorer, explorer.base.images[7], 4, {}, "v3", k=1)
    assert one["rows"][0]["found"][0][0] == 7
    assert one["rows"][0]["found"][0][2] < 1e-3
    assert one["image"] is None


def test_a_grid_is_every_pair_of_shifts(explorer) -> None:
    cells = views.grid(explorer, 3, 5)["cells"]
    assert (len(cells), len(cells[0])) == tuple(explorer.attributes(5).values())
    found = explorer.neighbours(3, 5, [{"v4": 2, "v5": 3}], smooth=["v4", "v5"])
    assert cells[2][3][0] == int(found.indices[0, 0])
    with pytest.raises(ValueError, match="depth 6 has one attribute"):
        views.grid(explorer, 3, 6)


# ----------------------------------------------------------------------------------------------------------- HTTP


def test_pages_headers_and_views(site, explorer) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/style.css", "text/css")):
        status, _, headers = site.ask("GET", path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    status, answer, _ = site.ask("GET", "/api/view?image=3&depth=5&move=v4:1,v5:0.5&axis=v5&k=2")
    assert status == 200
    assert answer == json.loads(json.dumps(views.view(explorer, 3, 5, {"v4": 1, "v5": 0.5}, "v5", k=2)))
    status, answer, headers = site.ask("GET", "/image/3.png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer))), explorer.base.images[3, 0].numpy())
    # Browsers keep it: what the page asks for names the images, so that another run at this address is not shown them.
    assert "max-age" in headers["Cache-Control"]
    assert site.ask("GET", "/api/about")[1]["digest"] == explorer.base.digest()[:12]
    assert site.ask("GET", f"/image/3.png?{explorer.base.digest()[:12]}")[1] == answer


def test_view_as_png_and_walk_as_gif(site) -> None:
    assert Image.open(io.BytesIO(site.ask("GET", "/api/view.png?image=3&depth=5")[1])).width > 300
    walk: Any = Image.open(io.BytesIO(site.ask("GET", "/api/walk.gif?image=3&depth=5&axis=v5")[1]))
    assert walk.n_frames == 8


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/view?image=400&depth=5", "expected a number from 0 to 399; got 400"),
        ("/api/view?image=0&depth=99", "depth: expected one of 3, 4, 5, 6; got 99"),
        ("/api/view?image=0&depth=5&axis=v9", "expected one of v4, v5 at depth 5; got 'v9'"),
        ("/api/view?image=0&depth=5&move=v4:x", "such as v6:1,v7:-0.5; got 'v4:x'"),
        ("/api/view?image=0&depth=5&k=99", "k: expected 1 to 20 neighbours; got 99"),
        ("/api/view?image=-1&depth=5", "expected a number from 0 to 399; got -1"),
        ("/api/view?image=1.5&depth=5", "image: expected a number from 0 to 399 or an upload; got '1.5'"),
        ("/api/view?image=1234567890&depth=5", "expected a number from 0 to 399 or an upload; got '1234567890'"),
        ("/api/view?image=longagoaaaaa&depth=5", "no longer stored"),
        ("/image/..%2f..%2fetc%2fpasswd.png", None),
        ("/../../etc/passwd", None),
        ("/static/index.html", None),
    ],
)
def test_wrong_questions_get_4xx_and_a_reason(site, path, says) -> None:
    status, answer, _ = site.ask("GET", path)
    assert 400 <= status < 500
    assert says is None or says in answer["error"]
    assert b"root:" not in (answer if isinstance(answer, bytes) else json.dumps(answer).encode())


def test_uploads_good_and_bad(site) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        status, answer, _ = site.ask("POST", "/api/upload", picture(kind=kind))
        assert status == 200
        assert site.ask("GET", f"/api/view?image={answer['image']}&depth=5")[0] == 200
        assert site.ask("GET", f"/image/{answer['image']}.png")[0] == 200
    bomb = io.BytesIO()
    Image.new("1", (6000, 6000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    bad = {
        "no image": (b"hello", 400, "expected a PNG, JPEG, WebP, GIF, BMP or TIFF image"),
        "truncated": (picture()[:900], 400, ""),
        "empty": (b"", 400, "expected a PNG"),
        "bomb": (bomb.getvalue(), 400, "expected at most 25,000,000 pixels; got 36,000,000"),
        "huge": (bytes(server.MAX_BYTES + 1), 413, "at most 8 MB"),
    }
    for name, (body, expected, says) in bad.items():
        status, answer, _ = site.ask("POST", "/api/upload", body)
        assert status == expected, name
        assert says in answer["error"], name
    random.seed(0)
    for _ in range(20):  # whatever comes, the server lives
        assert site.ask("POST", "/api/upload", random.randbytes(500))[0] == 400
    assert site.ask("GET", "/api/about")[0] == 200


def test_a_client_that_asks_too_often_must_wait(explorer) -> None:
    site = Site(server.make_app(explorer, requests=RateLimit(0.001, 5), uploads=RateLimit(0.001, 1)))
    try:
        statuses = [site.ask("POST", "/api/upload", picture())[0] for _ in range(2)]
        statuses += [site.ask("GET", "/api/about")[0] for _ in range(5)]
        assert statuses == [200, 429, 200, 200, 200, 429, 429]
    finally:
        site.close()


def test_the_command_serves_and_says_where(tmp_path, explorer) -> None:
    command = [sys.executable, "-m", "hcnn.cli", "serve", str(explorer.run.folder), "--port", "0"]
    command += ["--allow-host", "pictures.example"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line.startswith("http"))
        match = re.match(r"http://127\.0\.0\.1:(\d+)/", address)
        assert match is not None
        port = int(match[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/about", headers={"Host": "pictures.example"})
        assert json.loads(connection.getresponse().read())["run"] == "digits"
        connection.close()
        assert cli.main(["serve", str(explorer.run.folder), "--port", match[1]]) == 2
        half = "POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
        talk(port, half, read=False)  # a client that leaves in the middle
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("127.0.0.1", port)) as slow,
        ):
            silent.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            slow.sendall(half.encode())
            time.sleep(0.3)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            slow.settimeout(60)
            while slow.recv(65536):
                pass
            assert time.monotonic() - start < 10  # the end of the process depends on how busy the machine is
            _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors


def test_the_server_is_announced_when_a_signal_ends_it(explorer) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script, where one would be lost
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            app = server.make_app(explorer)
            server.run_app(app, listening, started=lambda: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_names_with_a_port_are_refused_as_names(explorer, capsys) -> None:
    assert cli.main(["serve", str(explorer.run.folder), "--allow-host", "example.org:80"]) == 2
    assert "--allow-host: expected names without a port" in capsys.readouterr().err


def test_an_empty_host_is_not_every_address(explorer, capsys) -> None:
    with socket.create_server(("", 0)) as taken:  # so that it cannot listen, whatever it understands
        assert cli.main(["serve", str(explorer.run.folder), "--host", "", "--port", str(taken.getsockname()[1])]) == 2
    assert "--host: expected a name or an address; got ''" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["no such name", "ü..", "a" * 70])
def test_a_host_that_no_address_can_have_is_refused(explorer, host, capsys) -> None:
    assert cli.main(["serve", str(explorer.run.folder), "--host", host, "--port", "0"]) == 2
    assert f"--host {host} --port 0: cannot listen there" in capsys.readouterr().err


def test_runs_on_signals_are_refused_before_anything_is_computed(tmp_path, capsys) -> None:
    signals = torch.randint(0, 256, (30, 1, 12), generator=torch.Generator().manual_seed(0)).byte()
    data = Splits(ImageSet(signals, torch.arange(30) % 10, tuple("0123456789"), "signals"))
    config = hcnn.model_config("hcnn_digits", spatial_axes=1)
    train_run(tmp_path / "run", RunSettings(config, get_recipe("digits", epochs=1, batch_size=10), "nowhere.npz"), data)
    for words in (["serve", str(tmp_path / "run"), "--port", "0"], ["figure", "3", str(tmp_path / "run")]):
        assert cli.main(words) == 2
        assert "expected a run on grey or RGB images, to show them" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ who may ask


def talk(port: int, request: str, *, read: bool = True) -> bytes:
    """Send bytes to the server as they are, and return what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while read and (part := connection.recv(65536)):
            answer += part
        return answer


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:{port}", True),
        ("LOCALHOST", True),
        ("127.0.0.1:{port}", True),
        ("[::1]:{port}", True),
        ("pictures.example", True),  # given to make_app
        ("evil.example", False),
        ("evil.example:{port}", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("192.0.2.7:{port}", False),
        ("[::ffff:127.0.0.1]", False),
        ("", False),
        ("localhost\r\nHost: evil.example", False),
    ],
)
def test_only_its_own_names_are_answered(site, host, allowed) -> None:
    for path in ("/", "/api/about", "/image/3.png"):
        answer = talk(
            site.port, f"GET {path} HTTP/1.1\r\nHost: {host.format(port=site.port)}\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200") == allowed, answer[:200]
        assert allowed or answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))
    if not allowed and "\r" not in host:
        assert b"this server answers for 127.0.0.1, ::1, localhost, pictures.example; got" in answer
        assert b"--allow-host" in answer


def test_a_request_without_a_host_is_refused(site) -> None:
    assert talk(site.port, "GET /api/about HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[bad"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_cannot_make_it_work(site, headers) -> None:
    refused = "expected a request from a page of this server; got one from another site"
    status, answer, _ = site.ask("POST", "/api/upload", picture(), headers)
    assert (status, answer["error"]) == (403, refused)
    for path in ("/api/about", "/api/view?image=3&depth=5", "/api/grid?image=3&depth=5", "/image/3.png"):
        assert site.ask("GET", path, headers=headers)[0] == 403
    assert site.ask("GET", "/", headers=headers)[0] == 200  # a link to the page may stand anywhere


def test_its_own_pages_and_programs_may_ask(site) -> None:
    own = {"Origin": f"http://127.0.0.1:{site.port}", "Sec-Fetch-Site": "same-origin"}
    assert site.ask("POST", "/api/upload", picture(), own)[0] == 200
    assert site.ask("GET", "/api/view?image=3&depth=5", headers={"Sec-Fetch-Site": "none"})[0] == 200
    assert site.ask("GET", "/api/about")[0] == 200


def test_head_answers_as_get_does_without_a_body(site) -> None:
    for path in (
        "/",
        "/style.css",
        "/api/about",
        "/api/view?image=3&depth=5",
        "/image/3.png",
        "/api/view?image=x&depth=5",
    ):
        status, body, headers = site.ask("HEAD", path)
        expected, content, same = site.ask("GET", path)
        raw = (
            content
            if isinstance(content, bytes)
            else json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        )
        assert (status, body) == (expected, b"")
        assert headers["Content-Length"] == same["Content-Length"] == str(len(raw))
        assert headers["Content-Security-Policy"] == same["Content-Security-Policy"]
    assert site.ask("HEAD", "/api/upload")[0] == 405


def test_errors_say_what_was_wrong_in_one_shape(site) -> None:
    for path in ("/api/view?depth=5", "/api/view?image=1&depth=deep", "/nowhere", "/api/upload"):
        status, answer, _ = site.ask("GET", path)
        assert 400 <= status < 500
        assert isinstance(answer["error"], str)
    for body in (b"hello", picture()[:900], b""):
        assert "bytes>" not in site.ask("POST", "/api/upload", body)[1]["error"]


def test_a_slow_upload_is_given_up(explorer) -> None:
    site = Site(server.make_app(explorer, upload_seconds=0.3))
    try:
        start = time.monotonic()
        answer = talk(
            site.port,
            "POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nhalf",
        )
        assert time.monotonic() - start < 20
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"expected the whole image within 0.3 seconds; 4 bytes came" in answer
    finally:
        site.close()


# -------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that notes every request and everything that goes wrong."""

    def __init__(self, browser: Any, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.settled()

    def settled(self) -> None:
        """Wait until what is drawn is what the address says."""
        self.page.wait_for_function(
            "() => location.hash && document.getElementById('strip').dataset.drawn === location.hash"
        )

    def first(self) -> str:
        return self.page.locator(".row.now .tile").first.get_attribute("title")

    def close(self, host: str) -> None:
        elsewhere = [url for url in self.requests if not url.startswith((host, "data:", "blob:"))]
        assert not elsewhere
        assert not self.wrong
        self.page.close()


@browser_test
@pytest.mark.parametrize("width", [1280, 400])
def test_sliders_clicks_back_and_links(site, chromium, width) -> None:
    host = f"http://127.0.0.1:{site.port}"
    visit = Visit(chromium, width)
    page = visit.page
    visit.open(host)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width  # nothing sticks out
    before = visit.first()
    page.focus("#sliders input")
    with page.expect_response("**/api/view?*move=v4%3A2*"):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    visit.settled()
    assert page.input_value("#sliders input") == "2"
    assert "v4=2" in page.url
    assert page.locator(".row.now .name").inner_text() == "now, τ = 2"
    assert visit.first() != before
    shared, shown = page.url, visit.first()

    page.locator(".row.now .tile").first.click()
    page.wait_for_url("**image=*")
    visit.settled()
    number = shown.split()[1].rstrip(":")
    assert f"image={number}" in page.url
    assert page.input_value("#image") == number
    page.go_back()
    page.wait_for_url(shared)
    visit.settled()
    assert visit.first() == shown

    page.locator(".depths button[data-depth='6']").click()
    page.wait_for_selector(".depths button[data-depth='6'][aria-pressed=true]")
    visit.settled()
    assert page.locator("#sliders input").count() == 1
    assert page.locator("#pairs").is_hidden()
    page.wait_for_function("() => document.querySelector('.depths button img').naturalWidth === 8")

    other = Visit(chromium, width)
    other.page.goto(shared)
    other.settled()
    assert other.first() == shown
    assert other.page.input_value("#sliders input") == "2"
    other.close(host)
    visit.close(host)


@browser_test
def test_uploads_in_the_browser(site, chromium, tmp_path) -> None:
    host = f"http://127.0.0.1:{site.port}"
    visit = Visit(chromium)
    page = visit.page
    visit.open(host)
    (tmp_path / "good.png").write_bytes(picture())
    page.set_input_files("#file", tmp_path / "good.png")
    page.wait_for_function("() => document.querySelector('.query .note').textContent.startsWith('query: your image')")
    visit.settled()
    with page.expect_download() as saved:
        page.click("#png")
    assert Image.open(io.BytesIO(Path(saved.value.path()).read_bytes())).width > 300
    visit.wrong.clear()
    for name, body in {"text.png": b"hello", "cut.png": picture()[:900], "huge.png": bytes(9 << 20)}.items():
        (tmp_path / name).write_bytes(body)
        page.set_input_files("#file", tmp_path / name)
        page.wait_for_function("() => document.getElementById('message').textContent.length > 10")
        page.evaluate("() => { document.getElementById('message').textContent = ''; }")
    # The browser itself notes each 4xx on its console, and may see the connection close on what is too large.
    visit.wrong = [line for line in visit.wrong if "Failed to load resource" not in line]
    visit.close(host)


def ask_for(page: Any, image: str) -> None:
    page.fill("#image", image)
    page.press("#image", "Enter")


@browser_test
def test_what_was_said_of_an_image_that_is_not_there_goes_with_it(site, chromium) -> None:
    visit = Visit(chromium)
    page = visit.page
    visit.open(f"http://127.0.0.1:{site.port}")
    drawn = "() => [...document.querySelectorAll('#depths img')].every((one) => one.src.includes('/image/'))"
    page.wait_for_function(drawn)
    ask_for(page, "400")
    page.wait_for_function("() => document.getElementById('message').textContent.endsWith('got 400')")
    page.wait_for_function("() => [...document.querySelectorAll('#depths img')].every((one) => one.src === 'data:,')")
    page.go_back()
    visit.settled()
    page.wait_for_function(drawn)
    assert page.text_content("#message") == ""
    page.close()


@browser_test
def test_an_upload_that_arrives_late_does_not_replace_a_newer_one(site, chromium) -> None:
    visit = Visit(chromium)
    page = visit.page
    visit.open(f"http://127.0.0.1:{site.port}")
    answers: list[tuple[Any, Any]] = []
    page.route("**/api/upload", lambda route: answers.append((route, route.fetch())))
    for number in (1, 2):
        page.set_input_files("#file", {"name": f"{number}.png", "mimeType": "image/png", "buffer": picture(number)})
        while len(answers) < number:
            page.wait_for_timeout(20)
    for route, answer in reversed(answers):
        with page.expect_event("requestfinished", lambda request: request.url.endswith("/api/upload")):
            route.fulfill(response=answer)
        page.wait_for_url(f"**image={answers[1][1].json()['image']}*")
    visit.settled()
    page.wait_for_timeout(100)  # in which the page of before would have gone to the first
    assert answers[1][1].json()["image"] in page.url
    visit.close(f"http://127.0.0.1:{site.port}")


@browser_test
@pytest.mark.parametrize("place", ["#strip", "#grid"])
def test_the_keyboard_stays_where_it_was(site, chromium, place) -> None:
    visit = Visit(chromium)
    page = visit.page
    page.goto(f"http://127.0.0.1:{site.port}")
    third = page.locator(f"{place} .tile").nth(2)
    third.focus()
    number = str(third.get_attribute("title")).split()[1].rstrip(":")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**image={number}*")
    visit.settled()
    page.wait_for_function(
        "(place) => [...document.querySelectorAll(`${place} .tile`)].indexOf(document.activeElement) === 2", arg=place
    )
    visit.close(f"http://127.0.0.1:{site.port}")


@pytest.fixture(scope="module")
def report(explorer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    study = run_study(explorer, settings=StudySettings(40, 8, 8, 2, resamples=50))
    known = explorer.base
    page, _ = network_page(explorer.run.model, known.images[:20], explorer.run.preprocessing, labels=known.labels[:20])
    return write_report(explorer, study, folder, network_page=page)


def test_the_report_escapes_names_and_stays_small(report) -> None:
    text = report.read_text()
    assert "<img src=x" not in text
    assert "\\u003cimg src=x" in text
    assert len(text) < 20_000_000
    assert "https://" not in text
    assert "http://" not in text


@browser_test
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_opens_from_disk(report, chromium, width) -> None:
    visit = Visit(chromium, width)
    page = visit.page
    page.goto(report.as_uri())
    page.wait_for_selector(".row.shift .tile img")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    before = page.locator(".rows").inner_text()
    page.select_option("#query", index=1)
    page.select_option("#depth", "4")
    assert page.locator(".rows").inner_text() != before
    assert page.locator(".row.shuffled").is_visible()
    assert page.get_by_role("img", name=re.compile(r"^image \d+, .*, distance ")).count() == 5 * 5  # rows, neighbours
    assert page.get_by_role("group", name="class probabilities").count() == 4
    assert page.locator(".axis").first.inner_text() == "v3"
    page.wait_for_function("() => [...document.images].every(one => one.complete && one.naturalWidth > 0)")
    visit.close(report.as_uri())


@browser_test
@pytest.mark.parametrize("where", ["report", "frame"])
def test_the_report_classifies_an_image_of_the_reader(report, explorer, chromium, where) -> None:
    visit = Visit(chromium)
    page = visit.page
    page.goto(report.as_uri())
    frame = page.frame_locator("#own")
    frame.locator(".score").first.wait_for()
    assert page.locator("#own").evaluate("(one) => one.offsetHeight >= one.contentDocument.body.offsetHeight")
    image = explorer.base.images[9]
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, "PNG")
    inside = next(one for one in page.frames if one.parent_frame)
    (page if where == "report" else inside).evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(bytes)], "mine.png", { type: "image/png" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true, bubbles: true }));
        }""",
        [*buffer.getvalue()],
    )
    inside.wait_for_function("() => /^mine.png: .* ms on/.test(document.getElementById('status').textContent)")
    best = explorer.arrays_of(image[None])[0].softmax(1)[0].max()
    assert f"{100 * best:.1f} %" in frame.locator("#status").text_content()
    visit.close(report.as_uri())
