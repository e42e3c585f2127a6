"""Signals in a real process."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import hcnn
from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs.interrupts import Interrupted, StopRequest
from hcnn.runs.settings import RESULT, RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipe import Recipe


def test_a_second_signal_stops_at_once() -> None:
    script = (
        "import signal, time\nfrom hcnn.runs.interrupts import StopRequest\n"
        "with StopRequest():\n    print('ready', flush=True)\n    end = time.time() + 300\n"
        "    while time.time() < end: time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    process.stdout.close()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.number is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Stopping(ImageSet):
    """Images during whose check the process is asked to stop."""

    def digest(self) -> str:
        signal.raise_signal(signal.SIGTERM)
        return super().digest()


def test_a_signal_while_a_finished_run_is_checked_is_not_lost(tmp_path) -> None:
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=(), classes=2)
    data = Splits(ImageSet(images, torch.arange(8) % 2, ("a", "b"), "pets"))
    settings = RunSettings(network, Recipe(epochs=1, batch_size=4), "pets")
    train_run(tmp_path, settings, data)
    before = (tmp_path / RESULT).read_bytes()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        train_run(tmp_path, settings, replace(data, train=Stopping(**vars(data.train))), resume=True)
    assert (tmp_path / RESULT).read_bytes() == before
