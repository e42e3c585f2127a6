"""Measures against their definitions on cases that can be counted by hand, and the files against hostile names."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from hcnn.evaluation import evaluate, write_evaluation
from hcnn.evaluation.measures import BINS, wilson_interval
from hcnn.evaluation.report import as_json

NAMES = ("cat", "</script><b>dog", "a$b$\r\n=1+1")


def sample(count: int = 300, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1
    return logits, labels


def test_counts_and_shares() -> None:
    logits, labels = sample()
    found = evaluate(logits, labels, NAMES)
    answers = logits.argmax(1)
    for i in range(3):
        for k in range(3):
            assert found.confusion[i, k] == sum(
                a == i and b == k for a, b in zip(labels.tolist(), answers.tolist(), strict=True)
            )
        score = found.scores[i]
        assert score.count == (labels == i).sum()
        assert score.accuracy == pytest.approx((answers[labels == i] == i).double().mean().item())
        assert score.precision == pytest.approx((labels[answers == i] == i).double().mean().item())
        assert score.interval == wilson_interval(score.correct, score.count)
    assert found.accuracy == pytest.approx((answers == labels).double().mean().item())
    assert found.log_loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found.top5 is None
    # In float64 the probability of the right class is 0 here.
    assert evaluate(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]), ["cat", "dog"]).log_loss == 1000


def test_calibration_error_is_that_of_its_definition() -> None:
    logits, labels = sample()
    found = evaluate(logits, labels, NAMES)
    confidence, answers = logits.softmax(1).max(1)
    expected = 0.0
    for place in range(BINS):
        inside = (confidence > place / BINS) & (confidence <= (place + 1) / BINS)
        if inside.any():
            gap = (answers == labels)[inside].double().mean() - confidence[inside].double().mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)
    assert sum(one.count for one in found.bins) == 300


def test_a_confident_network_that_is_right_half_of_the_time_is_badly_calibrated() -> None:
    labels = torch.tensor([0, 1] * 50)
    found = evaluate(torch.tensor([[9.0, 0.0]]).expand(100, 2), labels, ["cat", "dog"])
    assert found.calibration_error == pytest.approx(0.5, abs=1e-3)
    assert found.bins[-1].count == 100
    assert evaluate(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]), ["cat", "dog"]).bins[-1].count == 1  # exactly 1


def test_the_order_of_images_of_equal_confidence_changes_nothing() -> None:
    """Always the same answer with the same confidence: on any half it is right half of the time."""
    logits, labels = torch.zeros(40, 2), torch.tensor([0] * 20 + [1] * 20)
    for order in (torch.arange(40), torch.arange(39, -1, -1)):
        assert {value for _, value in evaluate(logits, labels[order], ["cat", "dog"]).coverage} == {0.5}


def test_the_least_certain_are_left_out_first() -> None:
    """Right exactly where it is confident: on the confident half it is never wrong."""
    labels = torch.zeros(40, dtype=torch.long)
    logits = torch.zeros(40, 2)
    logits[:20, 0] = torch.linspace(3, 4, 20)
    logits[20:, 1] = torch.linspace(1, 2, 20)
    found = evaluate(logits, labels, ["cat", "dog"])
    coverage = dict(found.coverage)
    assert [*coverage] == pytest.approx([1 - 0.05 * n for n in range(20)])
    assert coverage[1.0] == 0.5
    assert coverage[0.5] == 1.0
    assert [one.image for one in found.mistakes] == list(range(39, 29, -1))
    assert all(one.answer == 1 and one.label == 0 for one in found.mistakes)
    likely = logits.double().softmax(1)[:, 1]
    assert [one.confidence for one in found.mistakes] == pytest.approx(
        [float(likely[one.image]) for one in found.mistakes]
    )


def test_top_five_where_there_are_many_classes() -> None:
    logits = torch.arange(20.0).expand(20, 20)
    found = evaluate(logits, torch.arange(20), [str(n) for n in range(20)])
    assert found.accuracy == pytest.approx(1 / 20)
    assert found.top5 == pytest.approx(5 / 20)
    assert evaluate(logits[:, :10], torch.arange(20) % 10, [str(n) for n in range(10)]).top5 is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.98):
        hits = random.binomial(100, share, 4000)
        ends = {int(one): wilson_interval(int(one), 100) for one in set(hits)}
        covered = np.mean([ends[one][0] <= share <= ends[one][1] for one in hits.tolist()])
        assert 0.92 <= covered <= 0.98
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_interval_holds_the_share_itself() -> None:
    """Where all or none succeed, one end is the share: rounding left 3e-17 and 0.9999999999999999."""
    for count in range(1, 60):
        assert wilson_interval(0, count)[0] == 0
        assert wilson_interval(count, count)[1] == 1
        for hits in range(count + 1):
            low, high = wilson_interval(hits, count)
            assert low <= hits / count <= high
    for hits, count in ((11, 10), (-1, 10), (5, 0), (0, -1)):
        with pytest.raises(ValueError, match=f"expected between 0 and {count} successes; got {hits}"):
            wilson_interval(hits, count)


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "at least one image"),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), r"expected logits \(n, 3\)"),
        (torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.long), "NaN or Inf"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), r"labels \(n,\); got \(2, 3\) and \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels from 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "labels from 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.9]), "labels that are integers; got torch.float32"),
        (np.zeros((2, 3)), [0, 1], "expected tensors of logits and labels; got a ndarray and a list"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, says) -> None:
    with pytest.raises(ValueError, match=says):
        evaluate(logits, labels, NAMES)


def test_classes_have_names() -> None:
    with pytest.raises(ValueError, match="expected the names of the classes; got None"):
        evaluate(*sample(), None)  # type: ignore[arg-type]


def test_files_hold_what_was_measured_and_names_stay_names(tmp_path) -> None:
    logits, labels = sample()
    found = evaluate(logits, labels, NAMES)
    images = torch.randint(0, 256, (300, 3, 8, 8)).byte()
    (tmp_path / "found" / "mistakes").mkdir(parents=True)
    for name in ("999.png", "mine.png"):  # of an earlier evaluation, and of the user
        (tmp_path / "found" / "mistakes" / name).write_bytes(b"")
    page = write_evaluation(found, tmp_path / "found", title="run <1>", data="digits", images=images)
    text = page.read_text(encoding="utf-8")
    assert "<b>dog" not in text
    assert "run &lt;1&gt;" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    record = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert record == json.loads(json.dumps(as_json(found) | {"network": "run <1>", "data": "digits"}))
    with (tmp_path / "found" / "confusion.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == list(NAMES)
    assert [[int(one) for one in row[1:]] for row in rows[1:]] == found.confusion.tolist()
    for name in ("confusion", "calibration", "coverage"):
        with Image.open(tmp_path / "found" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert sorted(one.name for one in (tmp_path / "found" / "mistakes").iterdir()) == sorted(
        ["mine.png", *(f"{one.image}.png" for one in found.mistakes)]
    )
    worst = found.mistakes[0].image
    with Image.open(tmp_path / "found" / "mistakes" / f"{worst}.png") as picture:
        pixels = np.asarray(picture)[::12, ::12]  # 8 pixels a side, enlarged to 96
    np.testing.assert_array_equal(pixels, images[worst].permute(1, 2, 0))


def test_the_page_and_the_table_of_classes_say_what_was_measured(tmp_path) -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    answers = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1])
    sure = torch.tensor([8.0, 7, 2, 6, 3, 1, 5, 4])  # of the four that it is most certain of, image 3 is a mistake
    logits = torch.zeros(8, 2).scatter(1, answers[:, None], sure[:, None])
    found = evaluate(logits, labels, ("cat", "dog"))
    text = write_evaluation(found, tmp_path, title="one", data="two").read_text(encoding="utf-8")
    text = re.sub(r"<img [^>]*>", "", text).replace("\N{NO-BREAK SPACE}", " ")
    assert "62.5 % of 8 images of two are classified correctly (95 % interval 30.6 % to 86.3 %)." in text
    weakest_first = re.findall(r"<tr><td>(.*)</td></tr>", text.replace("</tr><tr>", "</tr>\n<tr>"))
    assert [row.split("</td><td>") for row in weakest_first] == [
        ["dog", "4", "50.0 %", "15.0 % – 85.0 %", "66.7 %"],
        ["cat", "4", "75.0 %", "30.1 % – 95.4 %", "60.0 %"],
    ]
    assert "The most frequent confusion: dog classified as cat, 2 times." in text
    assert "Answering only the 50.0 % it is most certain of, the network is right on 75.0 %." in text
    assert "image 3: <b>cat</b>, predicted <b>dog</b> with 99.8 %" in text
    with (tmp_path / "classes.csv").open(newline="", encoding="utf-8") as file:
        cat, dog = csv.DictReader(file)
    low, high = wilson_interval(3, 4)
    numbers = {"accuracy": 0.75, "low": low, "high": high, "precision": 0.6}
    assert {name: float(cat[name]) for name in numbers} == pytest.approx(numbers, abs=1e-6)
    assert [dog[name] for name in ("class", "images", "correct", "predicted")] == ["dog", "4", "2", "3"]


def test_a_single_confusion_happened_once(tmp_path) -> None:
    found = evaluate(torch.eye(2)[[0, 0]], torch.tensor([0, 1]), ("cat", "dog"))
    text = write_evaluation(found, tmp_path, title="one", data="two").read_text(encoding="utf-8")
    assert "The most frequent confusion: dog classified as cat, 1 time." in text


def test_a_class_without_images_has_no_accuracy(tmp_path) -> None:
    found = evaluate(torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([0]), NAMES)
    assert math.isnan(found.scores[1].accuracy)
    assert as_json(found)["scores"][1]["accuracy"] is None
    assert "There are none." in write_evaluation(found, tmp_path, title="one", data="image").read_text(encoding="utf-8")
