"""The baseline computes the same network; the report holds what was measured."""

import threading
import time

import pytest
import torch

from hcnn import cli, create_model
from hcnn.bench import report
from hcnn.bench.case import Case
from hcnn.bench.machine import measure_limits
from hcnn.bench.memory import STATM, watched_peak
from hcnn.bench.suite import dense_multiply_adds, race
from hcnn.bench.timing import Throughput, throughput, time_steps
from hcnn.bench.two_step import TwoStepNetwork
from hcnn.models.attribute_network import AttributeNetwork


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("inner_elu", [False, True])
def test_two_step_network_is_the_same_network(inner_elu, boundary) -> None:
    torch.manual_seed(0)
    model = create_model("hcnn_digits", inner_elu=inner_elu, boundary=boundary).double()
    assert isinstance(model, AttributeNetwork)
    baseline = TwoStepNetwork(model).double()
    x = torch.randn(4, 1, 8, 8).double()
    for training in (True, False):
        model.train(training)
        baseline.train(training)
        y, z = model(x), baseline(x)
        torch.testing.assert_close(y, z, rtol=1e-9, atol=1e-9)
        model.zero_grad()
        baseline.zero_grad()
        weights = torch.randn_like(y)
        ours, theirs = (
            torch.autograd.grad((out * weights).sum(), [*source.layers.parameters()])
            for out, source in ((y, model), (z, baseline))
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_there_is_no_two_step_network_of_hues() -> None:
    model = create_model("hcnn_small_cifar10", first_attribute="hue", boundary="circular")
    with pytest.raises(ValueError, match="two-step: expected a network whose first attribute is learned; got hue"):
        TwoStepNetwork(model)


def test_steps_are_timed_in_turns_after_a_warm_up() -> None:
    called: list[str] = []
    taken = time_steps([lambda: called.append("a"), lambda: called.append("b")], rounds=3, warm_up=2)
    assert "".join(called) == "ab" * 5
    assert [len(one) for one in taken] == [3, 3]
    assert all(second > 0 for one in taken for second in one)
    [longer] = time_steps([lambda: time.sleep(0.01)], rounds=1, seconds=0.5, warm_up=0)
    assert 2 <= len(longer) <= 50


def test_rounds_follow_until_every_step_was_timed_for_long_enough() -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    taken = time_steps([lambda: spend(1.0), lambda: spend(0.25)], rounds=1, seconds=1.0, clock=lambda: now)
    assert taken == [[1.0] * 4, [0.25] * 4]


def test_throughput_is_that_of_the_median_the_slowest_and_the_fastest_step() -> None:
    assert throughput(6, [1.0, 6.0, 2.0]) == Throughput(median=3.0, low=1.0, high=6.0, steps=3)


def test_report_of_a_small_measurement(tmp_path) -> None:
    cases = [
        Case("hcnn_digits", side=8, batch=2, two_step=True),
        Case("hcnn_digits", side=8, batch=2),
        Case("hcnn_digits", side=8, batch=2, native=False),
    ]
    macs = dense_multiply_adds(cases[0])
    methods = [
        {**row, "dense_multiply_adds": macs} for train in (False, True) for row in race(cases, train=train, rounds=1)
    ]
    growth = [{**methods[1], "axis": axis} for axis in ("K", "side", "J", "batch")]
    record = {
        "date": "2026-01-01",
        "hardware": {"processor": "some processor", "threads": 2},
        "versions": {"torch": "2", "python": "3"},
        "commit": None,
        "freed_memory_kept": False,
        "default_allocator": methods,
        "limits": [vars(measure_limits(torch.float32, images=1))],
        "methods": methods,
        "memory": [{**methods[1], "bytes": 3e6}],
        "networks": [{"name": "hcnn_digits", "inference": 5.0, "training": 4.0}],
        "growth": growth,
    }
    text = report.markdown(record)
    assert f"{methods[1]['images_per_second']:.1f}" in text
    assert "two-step float32 | 2" in text
    assert "auto float32, PyTorch only | 2" in text
    (_, on, off), (_, on_train, off_train) = methods[:3], methods[3:]
    assert f"{off_train['images_per_second']:.1f} ({off_train['low']:.1f}" in text  # not those of the row before
    gains = [f"{a:.1f} | {b:.1f} | {b / a:.2f}" for a, b in (
        (off["images_per_second"], on["images_per_second"]),
        (off_train["images_per_second"], on_train["images_per_second"]),
    )]  # fmt: skip
    assert f"| 2 | {' | '.join(gains)} |" in text
    assert {path.name for path in report.pictures(record, tmp_path)} == {path.name for path in tmp_path.iterdir()}


def test_bench_refuses_wrong_options(capsys, tmp_path) -> None:
    for options, message in (
        (["--rounds", "0"], "--rounds: expected 1 or more; got 0"),
        (["--device", "tpu"], "--device: expected cpu or cuda; got tpu"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "device: expected one of cpu")]),
    ):
        assert cli.main(["bench", *options, "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_bench_writes_over_no_file_of_others(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hcnn.bench.run_suite", lambda **options: pytest.fail("measured first"))
    (tmp_path / "bench.md").write_text("mine", encoding="utf-8")
    assert cli.main(["bench", "--quick", "--output", str(tmp_path)]) == 2
    assert "bench.md: the file exists and hcnn did not write it; give another --output" in capsys.readouterr().err
    assert (tmp_path / "bench.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not STATM.exists(), reason="memory is read from Linux's /proc")
def test_watching_ends_with_a_step_that_fails() -> None:
    def fail() -> None:
        raise MemoryError

    before = threading.active_count()
    assert watched_peak(lambda: time.sleep(0.05)) > 2**20
    with pytest.raises(MemoryError):
        watched_peak(fail)
    assert threading.active_count() == before
