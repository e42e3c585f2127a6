"""Whole runs as real processes: killed, stopped, starved, doubled; and the same bits in the end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hcnn.runs.seeds import summarize_seeds
from hcnn.storage.checkpoints import load_newest
from hcnn.storage.safetensors import load_weights
from helpers.processes import Commands

TINY = ["--width", "4", "--rank", "4", "--depth", "4", "--downsample", "3", "--threads", "1", "--ema", "0.9"]
TRAIN = ["train", "digits", *TINY, "--epochs", "2", "--checkpoint-seconds", "0.05"]
DISTRIBUTED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, commands) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    done = commands.run(*TRAIN, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


def _final(folder: Path) -> dict[str, bytes]:
    """What must be equal bit for bit: weights (the moving average), log, and model + optimizer + EMA of the end."""
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    return {
        "weights": (folder / "weights.safetensors").read_bytes(),
        "log": (folder / "metrics.jsonl").read_bytes(),
        "state": newest.read_bytes(),
    }


def _checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoints/*.json")}


def _kill_until_done(commands: Commands, folder: Path, rounds: int, seed: int) -> int:
    """Start with --resume and kill -9 at random moments after a new checkpoint; returns how many kills hit."""
    chance, hits = random.Random(seed), 0
    for _ in range(rounds):
        before = _checkpoints(folder)
        process = commands.start(*TRAIN, "--output", folder, "--resume")
        while _checkpoints(folder) <= before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        hits += process.wait() == -signal.SIGKILL
    done = commands.run(*TRAIN, "--output", folder, "--resume")
    assert done.returncode == 0, done.stderr
    return hits


def test_a_killed_run_with_attributes_ends_bit_for_bit_equal(tmp_path, commands) -> None:
    words = [*TRAIN, "--width", "8", "--attribute", "noise=v2@2", "--attribute", "scale=v1@2", "--topography", "0.1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert commands.run(*words, "--output", whole).returncode == 0
    process = commands.start(*words, "--output", killed)
    while not _checkpoints(killed) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert commands.run(*words, "--output", killed, "--resume").returncode == 0
    assert _final(killed) == _final(whole)
    recipe = json.loads((whole / "config.json").read_text())["recipe"]
    assert [one["property"] for one in recipe["attributes"]] == ["noise", "scale"]
    row = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < row["equivariance_error scale=v1@2"] < 5


def test_killed_runs_end_bit_for_bit_equal(reference, tmp_path, commands) -> None:
    assert _kill_until_done(commands, tmp_path / "run", 3, seed=0) >= 1
    assert _final(tmp_path / "run") == _final(reference)


@pytest.mark.slow
def test_twenty_kills(reference, tmp_path, commands) -> None:
    hits = 0
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        hits += _kill_until_done(commands, folder, 6, seed=attempt + 1)
        assert _final(folder) == _final(reference)
    assert hits >= 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(reference, tmp_path, commands, number, code) -> None:
    folder = tmp_path / "run"
    process = commands.start(*TRAIN, "--output", folder, "--epochs", "2")
    while not list(folder.glob("checkpoints/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name}; checkpoint {folder}" in errors.replace("\n", "")
    assert "to resume: hcnn train digits" in errors
    assert "--resume" in errors
    assert load_newest(folder)[0] is not None
    assert commands.run(*TRAIN, "--output", folder, "--resume").returncode == 0
    assert _final(folder) == _final(reference)


def test_the_demo_resumes_with_the_command_that_it_prints(tmp_path, monkeypatch) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)  # is taken, so that the demo chooses another folder
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/demo-2")
    with closing(Commands(tmp_path)) as commands:
        process = commands.start("demo", "--epochs", "3")
        while not list(folder.glob("checkpoints/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert errors.endswith("to resume: hcnn demo --epochs 3 --resume --output runs/demo-2\n")
        done = commands.run(*errors.split("to resume: hcnn ")[1].split())
        assert "resuming from runs/demo-2" in done.stdout, done.stderr
        assert "wrote runs/demo-2/sample.png" in commands.run("demo", "--epochs", "3", "--resume").stdout
        assert "already holds a finished run" in commands.run("demo", "--output", folder).stderr


def test_damaged_checkpoints_are_named_and_passed_over(reference, tmp_path, commands) -> None:
    folder = tmp_path / "run"
    process = commands.start(*TRAIN, "--output", folder)
    while len(list(folder.glob("checkpoints/*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    done = commands.run(*TRAIN, "--output", folder, "--resume")
    assert done.returncode == 0
    out = done.stdout.replace("\n", " ")
    assert "refused" in out
    assert newest.name.split("-")[1] in out
    assert "resuming from" in out
    assert _final(folder) == _final(reference)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, commands) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        folder = mount / "run"
        process = commands.start(*TRAIN, "--output", folder, "--epochs", "50")
        while not list(folder.glob("checkpoints/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        filler = os.open(mount / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(filler, b"x" * 4096)
        except OSError:
            os.close(filler)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        text = errors.replace("\n", " ")
        assert "No space left on device" in text
        assert "bytes" in text
        assert str(folder) in text.replace(" ", "")
        assert load_newest(folder)[0] is not None
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_second_run_in_the_folder_is_refused(tmp_path, commands) -> None:
    folder = tmp_path / "run"
    first = commands.start(*TRAIN, "--output", folder, "--epochs", "500")
    try:
        while not list(folder.glob("checkpoints/*.json")):
            assert first.poll() is None
            time.sleep(0.01)
        done = commands.run(*TRAIN, "--output", folder, "--epochs", "500", "--resume")
        assert done.returncode == 2
        assert str(first.pid) in done.stderr
    finally:
        first.kill()
        first.wait()


def test_a_folder_with_another_run_is_refused(reference, commands) -> None:
    done = commands.run(*TRAIN, "--output", reference, "--seed", "5", "--resume")
    assert done.returncode == 2
    assert "holds another run: its seed (5 here, 0 there) differ" in done.stderr.replace("\n", " ")


def test_a_run_of_a_version_whose_recipes_had_fewer_fields_is_the_same_run(reference, tmp_path, commands) -> None:
    older = tmp_path / "run"
    shutil.copytree(reference, older)
    config = json.loads((older / "config.json").read_text())
    del config["recipe"]["image_sizes"]
    (older / "config.json").write_text(json.dumps(config))
    done = commands.run(*TRAIN, "--output", older, "--resume")
    assert done.returncode == 0, done.stderr
    config["recipe"]["first_layer"] = "whitening"
    (older / "config.json").write_text(json.dumps(config))
    done = commands.run(*TRAIN, "--output", older, "--resume")
    assert done.returncode == 2
    assert "its recipe.first_layer (random here, whitening there) differ" in done.stderr.replace("\n", " ")


def test_a_run_resumes_on_a_processor_that_adds_up_the_pixels_in_another_order(reference, tmp_path, commands) -> None:
    moved = tmp_path / "run"
    shutil.copytree(reference, moved)
    config = json.loads((moved / "config.json").read_text())
    mean = config["preprocessing"]["mean"]
    for factor, code in ((1 + 2**-50, 0), (1.001, 2)):
        config["preprocessing"]["mean"] = [mean[0] * factor]
        (moved / "config.json").write_text(json.dumps(config))
        done = commands.run(*TRAIN, "--output", moved, "--resume")
        assert done.returncode == code, done.stderr
    assert "its preprocessing.mean (" in done.stderr.replace("\n", " ")


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path, commands) -> None:
    done = commands.run(
        *TRAIN, "--output", tmp_path / "run", "--lr", "1e12", "--weight-decay", "1", "--checkpoint-seconds", "0"
    )
    assert done.returncode == 2
    text = done.stderr.replace("\n", " ")
    assert "the loss became" in text
    assert "learning rate" in text
    assert "last good checkpoint: " in text


def test_out_of_memory_says_what_to_lower(tmp_path) -> None:
    code = """
        import pathlib, resource, sys
        import torch
        from hcnn import cli
        taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (3 << 29),) * 2)  # builds of torch take more or less themselves
        sys.exit(cli.main(sys.argv[1:]))
    """
    command = [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines()), *TRAIN]
    command += ["--output", str(tmp_path / "run"), "--width", "48", "--batch-size", "1400", "--inner-elu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    text = done.stderr.replace("\n", " ")
    assert "out of memory with 1400 images a step" in text
    assert "lower --batch-size" in text


@pytest.mark.parametrize(
    "more",
    [
        ["--no-inner-elu"],
        ["--inner-elu"],
        ["--width", "8", "--attribute", "scale=v2@2", "--attribute", "blur=v1@2", "--topography", "0.1"],
    ],
)
def test_two_processes_give_the_weights_of_one(tmp_path, more, commands) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = ["--epochs", "1", "--lr", "0.02", *more]  # 22 steps
    assert commands.run(*TRAIN, "--output", one, *settings).returncode == 0
    command = [*DISTRIBUTED, "-m", "hcnn.cli", *TRAIN, "--output", str(two), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((two / "result.json").read_text())["processes"] == 2
    first, second = (load_weights(folder / "weights.safetensors")[0] for folder in (one, two))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-5, msg=name)


def _worker_killed_once(folder: Path, at: float) -> subprocess.CompletedProcess[str]:
    """Run two processes under torchrun and kill -9 one of them after its first checkpoint."""
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    arguments = [*DISTRIBUTED, "--max-restarts", "3", "-m", "hcnn.cli", *TRAIN, "--output", str(folder), "--resume"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    begun = time.monotonic()
    while not list(folder.glob("checkpoints/*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    time.sleep(at)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    if workers:
        os.kill(int(workers[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    return subprocess.CompletedProcess(arguments, process.returncode, output, "")


def test_a_killed_worker_makes_the_group_restart_from_the_checkpoint(tmp_path) -> None:
    done = _worker_killed_once(tmp_path / "run", 0.2)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming from" in done.stdout.replace("\n", " ")
    assert (tmp_path / "run" / "result.json").exists()


FAILING = """
    import os
    import sys
    from dataclasses import replace
    from pathlib import Path
    from hcnn.data.datasets import load
    from hcnn.models.registry import model_config
    from hcnn.runs import recorder, settings, train
    from hcnn.training.progress import Diverged
    from hcnn.training.recipe import Recipe

    def fail(self, *others, **named):
        raise Diverged("the logits contain NaN")

    network = model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=())
    data = load("digits")
    data = replace(data, train=data.train.subset(range(0, 1437, 20)), test=data.test.subset(range(0, 360, 20)))
    settled = settings.RunSettings(network, Recipe(epochs=1, batch_size=8), "digits")
    by_the_clock = replace(settled, checkpoint_seconds=0)
    for name, method, chosen in (
        ("save", "save", settled),
        ("finish", "finish", settled),
        ("finish", "finish", settled),  # finds a run begun
        ("clock", "save", by_the_clock),  # rank 0 alone knows that a checkpoint is due
    ):
        kept = getattr(recorder.Recorder, method)
        setattr(recorder.Recorder, method, fail)
        try:
            train.train_run(Path(sys.argv[1], name), chosen, data)
        except Exception as error:
            with Path(sys.argv[1], f"rank-{os.environ['RANK']}").open("a") as file:
                print(f"{type(error).__name__}: {error}", file=file)
        setattr(recorder.Recorder, method, kept)
"""


def test_what_fails_in_the_first_process_fails_in_all(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(FAILING), encoding="utf-8")
    command = [*DISTRIBUTED, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "rank-1").read_text().splitlines() == [
        "ValueError: process 0: the logits contain NaN",
        "ValueError: process 0: the logits contain NaN",
        f"ValueError: process 0: {tmp_path / 'finish'} already holds an unfinished run; add --resume to resume it, or "
        "give another --output",
        "ValueError: process 0: the logits contain NaN",
    ]
    assert (tmp_path / "rank-0").read_text().count("Diverged: the logits contain NaN") == 3


@pytest.mark.slow
def test_ten_killed_workers_in_a_row(tmp_path) -> None:
    for attempt in range(10):
        done = _worker_killed_once(tmp_path / str(attempt), 0.1 * attempt)
        assert done.returncode == 0, done.stdout[-3000:]
        assert (tmp_path / str(attempt) / "result.json").exists()


def test_one_seed_has_no_spread_and_what_some_seeds_lack_has_no_mean() -> None:
    assert summarize_seeds([{"seed": 3, "test_accuracy": 0.9}]) == {
        "seeds": [3], "test_accuracy": {"mean": 0.9, "std": None, "values": [0.9]},
    }  # fmt: skip
    some = [{"seed": 0, "test_accuracy": 0.9}, {"seed": 1}]
    assert summarize_seeds(some) == {"seeds": [0, 1]}


def test_several_seeds_report_mean_and_spread(tmp_path, commands) -> None:
    done = commands.run(
        *TRAIN, "--output", tmp_path / "runs", "--epochs", "1", "--seeds", "2", "--validation", "100", "--no-test"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert "test_accuracy" not in summary
    assert len(set(summary["validation_accuracy"]["values"])) == 2
    rows = [json.loads(line) for line in (tmp_path / "runs" / "seed-1" / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[0]["validation_accuracy"] <= 1


def test_a_run_accumulates_parts_and_flips_test_images_if_asked(tmp_path, commands) -> None:
    done = commands.run(*TRAIN, "--output", tmp_path / "run", "--epochs", "1", "--accumulate", "4", "--test-flips")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"test_accuracy", "test_accuracy_with_flips"} <= set(result)
    assert result["weights"] == "moving average"


@pytest.mark.parametrize("options", [["--optimizer", "adamw", "--lr", "0.01"], ["--optimizer", "muon", "--lr", "0.05"]])
def test_other_optimizers_learn(tmp_path, options, commands) -> None:
    done = commands.run(*TRAIN, "--output", tmp_path / "run", "--epochs", "6", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] > 0.6


def test_the_records_say_where_they_come_from(reference) -> None:
    result = json.loads((reference / "result.json").read_text())
    assert result["versions"]["torch"] == torch.__version__
    assert result["hardware"]["processor"]
    assert result["test_set"].startswith("read once")
    assert result["seconds"] > 0
    config = json.loads((reference / "config.json").read_text())
    assert config["recipe"]["ema"] == 0.9
    assert (reference / "tensorboard").is_dir()
