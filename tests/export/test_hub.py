"""Saving to and loading from a folder of the Hub's layout, with huggingface_hub itself, and no network."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hcnn import cli
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.export.hub import HubNetwork
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.registry import model_config
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.storage.safetensors import load_weights, save_weights
from hcnn.training.recipes import get_recipe

TINY = HierarchicalCNNConfig(channels=1, width=4, rank=2, depth=4, attribute_support=(3, 3), downsample=())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    data = datasets.load("digits")
    few = Splits(data.train.subset(range(256)), test=data.test)
    train_run(folder, RunSettings(TINY, get_recipe("digits", epochs=1), "digits"), few)
    return folder


@pytest.fixture
def saved(run, tmp_path) -> Path:
    HubNetwork.from_run(run).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_network_comes_back_in_a_process_without_a_network(run, saved, tmp_path) -> None:
    x = torch.randn(3, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    script = """
import sys, torch
from hcnn.export.hub import HubNetwork
model = HubNetwork.from_pretrained(sys.argv[1])
assert not model.training and model.preprocessing.classes[3] == "3"
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""
    # PyTorch's products of matrices round by the number of threads, and by what the environment says of instructions.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [str(saved), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=env)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), load_run(run).model(x))


def test_the_folder_holds_weights_config_and_card(run, saved) -> None:
    assert {path.name for path in saved.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert (saved / "model.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    card = (saved / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    for part in (
        "library_name: hcnn",
        "## Architecture",
        "| 2 | v1, v2, u1, u2 | 2×4×8×8 |",
        f"test: {result['test_accuracy']:.2%} of 360 images, seed 0",
        "| schedule | one_cycle |",
        "## Limits",
        'model = HubNetwork.from_pretrained("PATH_OR_ID")',
    ):
        assert part in card, part


def _accuracy(card: str) -> str:
    return card.split("## Accuracy\n")[1].split("## ")[0]


def test_a_card_of_several_seeds_tells_mean_and_spread(run, tmp_path) -> None:
    (tmp_path / "seed-0").mkdir()
    for name in ("config.json", "result.json", "weights.safetensors"):
        (tmp_path / "seed-0" / name).write_bytes((run / name).read_bytes())
    seeds = {"seeds": [0, 1], "test_accuracy": {"mean": 0.9, "std": 0.01, "values": [0.89, 0.91]}}
    (tmp_path / "seeds.json").write_text(json.dumps(seeds))
    network = HubNetwork.from_run(tmp_path / "seed-0")
    card = str(network.generate_model_card())
    assert "over seeds [0, 1]: 90.00% ± 1.00%" in card
    assert "One seed" not in card
    network.save_pretrained(tmp_path / "saved")
    again = str(HubNetwork.from_pretrained(tmp_path / "saved").generate_model_card())
    assert _accuracy(again) == _accuracy(card)


def test_networks_come_in_eval_mode_and_leave_the_global_random_state_alone(run, saved) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for network in (HubNetwork.from_run(run), HubNetwork.from_pretrained(saved)):
        assert not any(module.training for module in network.modules())
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_comes_on_the_device_that_is_asked_for(saved) -> None:
    network = HubNetwork.from_pretrained(saved, map_location="meta")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_the_card_of_a_hub_folder_that_is_exported_has_its_accuracy(saved, tmp_path) -> None:
    assert cli.main(["export", str(saved), "--to", "safetensors", "--output", str(tmp_path / "folded")]) == 0
    card = (tmp_path / "folded" / "README.md").read_text()
    assert "of 360 images, seed 0" in _accuracy(card)
    assert _accuracy(card) == _accuracy((saved / "README.md").read_text())


def test_a_baseline_has_no_place_on_the_hub(tmp_path) -> None:
    settings = RunSettings(model_config("resnet20_digits", depth=8, width=4), get_recipe("digits", epochs=1), "digits")
    train_run(tmp_path / "run", settings, Splits(datasets.load("digits").train.subset(range(128))))
    with pytest.raises(ValueError, match="expected the run of an attribute network; got a ResNet"):
        HubNetwork.from_run(tmp_path / "run")


def test_a_run_that_names_no_data_says_so(run, tmp_path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["data"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    assert "# HCNN, unknown data\n" in str(HubNetwork.from_run(tmp_path).generate_model_card())


def test_pickles_and_misfits_are_refused(saved) -> None:
    weights = saved / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(pickle.dumps({"layers.0.weight": 1}))
    with pytest.raises(ValueError, match="is a pickle; hcnn reads safetensors only"):
        HubNetwork.from_pretrained(saved)
    weights.unlink()
    (saved / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"expected model\.safetensors in it; other files are never opened"):
        HubNetwork.from_pretrained(saved)
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="strict: expected True"):
        HubNetwork.from_pretrained(saved, strict=False)
    config = json.loads((saved / "config.json").read_text())
    config["run"]["model"]["width"] = 8
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="of another shape"):
        HubNetwork.from_pretrained(saved)
    (saved / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected config\.json with the entry 'run'"):
        HubNetwork.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["run"]["model"].update(width=10**9), "run: model.width: 1000000000 is too large for weights of"),
        (lambda c: c["run"]["model"].update(width=4.0), "run: model.width: expected a whole number; got 4.0"),
        (lambda c: c["run"].update(model=[]), "run: model: expected an object; got []"),
        (lambda c: c["run"].update(network=["HierarchicalCNN"]), "run: network: expected one of"),
        (lambda c: c["run"]["preprocessing"].update(std=[-1.0]), "std: expected positive numbers"),
        (lambda c: c["run"]["preprocessing"].update(mean=[float("nan")]), "NaN is not a number"),
        (lambda c: c["run"].pop("preprocessing"), "run: preprocessing: expected an object; got None"),
        (lambda c: c.update(result=[1]), "result: expected an object; got list"),
        (lambda c: c.update(run=1), "expected config.json with the entry 'run'"),
    ],
)
def test_a_malformed_configuration_is_refused_by_field(change, message, saved) -> None:
    config = json.loads((saved / "config.json").read_text())
    change(config)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json") as error:
        HubNetwork.from_pretrained(saved)
    assert message in str(error.value)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"run": 1e999}'])
def test_a_configuration_that_is_no_json_is_refused_by_file(text, saved) -> None:
    (saved / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json: expected"):
        HubNetwork.from_pretrained(saved)


def test_weights_with_nan_are_refused_by_name(saved) -> None:
    state, metadata = load_weights(saved / "model.safetensors")
    state["layers.0.weight"][0, 0, 0, 0] = torch.nan
    save_weights(saved / "model.safetensors", state, metadata)
    with pytest.raises(ValueError, match=r"1 with NaN or infinities: layers\.0\.weight has 1"):
        HubNetwork.from_pretrained(saved)


def test_records_that_are_none_of_a_run_make_no_card(saved) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["result"]["test_accuracy"] = ["?"]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model card: expected the records of a run"):
        HubNetwork.from_pretrained(saved).generate_model_card()


def test_pushing_offline_is_an_error_of_the_hub(run) -> None:
    script = """
import sys
from huggingface_hub.errors import OfflineModeIsEnabled
from hcnn.export.hub import HubNetwork
try:
    HubNetwork.from_run(sys.argv[1]).push_to_hub("somebody/something")
except OfflineModeIsEnabled:
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)], check=False, env={"HF_HUB_OFFLINE": "1", "PATH": ""}
    )
    assert done.returncode == 7


def test_where_the_data_lay_is_not_published(run, tmp_path) -> None:
    for name in ("config.json", "result.json", "weights.safetensors"):
        text = (run / name).read_bytes().replace(b'"data": "digits"', b'"data": "/home/me/secret/digits"')
        (tmp_path / name).write_bytes(text)
    config = json.loads((tmp_path / "config.json").read_text())
    config["init"] = {"source": "/home/me/secret/first", "weights_sha256": "0", "freeze": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | {"validation_data": "/home/me/secret/more.npz"}))
    HubNetwork.from_run(tmp_path).save_pretrained(tmp_path / "saved")
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "saved").iterdir())
    published = json.loads((tmp_path / "saved" / "config.json").read_text())["run"]
    assert (published["data"], published["validation_data"]) == ("digits", "more.npz")
    assert published["init"] == {"source": "first", "weights_sha256": "0", "freeze": 1}


def test_without_huggingface_hub_the_extra_is_named() -> None:
    script = "import sys; sys.modules['huggingface_hub'] = None\nimport hcnn.export.hub"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "hcnn.export.hub needs huggingface_hub: pip install 'hcnn[hub]'" in done.stderr
