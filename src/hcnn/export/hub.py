"""Networks on the Hugging Face Hub or in a folder of the same layout: safetensors, config.json and a model card."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hcnn.export.model_card import Records, model_card, read_records
from hcnn.layers.randomness import to_be_replaced
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.factory import build
from hcnn.runs.load import check_size, load_run, network_config, preprocessing_of
from hcnn.runs.settings import CONFIG
from hcnn.storage.records import read_object
from hcnn.storage.safetensors import WEIGHTS_FORMAT, load_weights, match_state, save_weights

try:
    from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
    from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("huggingface_hub"):
        raise
    raise ImportError("hcnn.export.hub needs huggingface_hub: pip install 'hcnn[hub]'") from error


class HubNetwork(nn.Module, PyTorchModelHubMixin):
    """A trained network with its preprocessing and the records of its training, to be saved, loaded and pushed.

    ``save_pretrained(folder)`` writes model.safetensors, config.json and README.md; ``from_pretrained(folder or id)``
    reads them; ``push_to_hub(id)`` uploads them. Folders work offline. Weights are read from safetensors only: no
    pickle is ever opened, and files that do not fit are refused.

    Args:
        run: the contents of a run's config.json: network, preprocessing, recipe, data.
        result: the contents of its result.json.
        seeds: the contents of seeds.json, if there are several seeds.

    Shapes:
        standardized images (b, channels, *u) -> logits (b, classes).

    Example:
        >>> import tempfile, torch
        >>> from dataclasses import asdict
        >>> from hcnn import model_config
        >>> run = {"network": "HierarchicalCNN", "model": asdict(model_config("hcnn_digits")), "data": "digits",
        ...        "preprocessing": {"mean": [0.3], "std": [0.4], "size": [8, 8], "classes": list("0123456789")}}
        >>> model = HubNetwork(run).eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     again = HubNetwork.from_pretrained(folder)
        >>> bool(torch.equal(again(x), model(x)))
        True

    """

    def __init__(
        self, run: dict[str, Any], result: dict[str, Any] | None = None, seeds: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.records = Records(run, result or {}, seeds or {})
        network = build(network_config(run))
        if not isinstance(network, AttributeNetwork):
            raise ValueError(f"expected the run of an attribute network; got a {type(network).__name__}")
        self.network = network
        self.preprocessing = preprocessing_of(run)

    @classmethod
    def from_run(cls, folder: Path | str) -> Self:
        """The network of a run folder.

        Raises:
            ValueError: as `hcnn.runs.train.load_run` does, and if the network is not an attribute network.
        """
        run, records = load_run(Path(folder)), read_records(Path(folder))
        config = _without_places(run.config)
        result = {**records.result, "data": config["data"]} if records.result else None
        with to_be_replaced():
            model = cls(config, result, records.seeds)
        model.network.load_state_dict(run.model.state_dict())
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The network in a folder that `save_pretrained` wrote, or in a repository of the Hub.

        Args:
            pretrained_model_name_or_path: the folder, or the repository's id.
            options: as in `huggingface_hub.PyTorchModelHubMixin.from_pretrained`.

        Raises:
            ValueError: naming the file, and the field or tensor, if they are damaged or do not fit each other.
        """
        config = Path(pretrained_model_name_or_path) / CONFIG
        if config.exists():
            read_object(config)  # strictly; the mixin takes NaN for a number and names no file
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of a batch of images that `self.preprocessing.standardize` has standardized."""
        return self.network(x)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card: architecture, data, recipe, accuracy with seeds, limits."""
        usage = 'from hcnn.export.hub import HubNetwork\n\nmodel = HubNetwork.from_pretrained("PATH_OR_ID")'
        return ModelCard(model_card(self.network, self.records, size=self.preprocessing.size, usage=usage))

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(Path(save_directory) / SAFETENSORS_SINGLE_FILE, self.network.state_dict(), WEIGHTS_FORMAT)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, run: Any = None, map_location: str = "cpu", **rest: Any) -> Self:
        """Replace the mixin's method, which reads a pickle if there are no safetensors and accepts missing keys."""
        init = {name: rest.pop(name) for name in ("result", "seeds") if name in rest}
        strict = rest.pop("strict", True)
        if not strict:
            raise ValueError("strict: expected True; a network with some weights missing is not a trained network")
        if not isinstance(run, dict):
            raise ValueError(f"{model_id}: expected config.json with the entry 'run', as save_pretrained writes it")
        local = Path(model_id) / SAFETENSORS_SINGLE_FILE
        if Path(model_id).is_dir():
            if not local.is_file():
                raise ValueError(f"{model_id}: expected {SAFETENSORS_SINGLE_FILE} in it; other files are never opened")
        else:
            local = Path(hf_hub_download(repo_id=model_id, filename=SAFETENSORS_SINGLE_FILE, **rest))
        where = f"{model_id}: config.json: run"
        for name, value in init.items():
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"{model_id}: config.json: {name}: expected an object; got {type(value).__name__}")
        config, state = network_config(run, where), load_weights(local)[0]
        preprocessing_of(run, where)
        check_size(config, state, where)
        with to_be_replaced():
            with torch.device("meta"):  # what does not fit may be too large to build
                match_state(build(config).state_dict(), state, str(local))
            model = cls(run, **init)
        model.network.load_state_dict(state)
        return model.to(map_location).eval()


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A run's record with the last part of each path only: where data and networks were stored is not published."""
    config = {**config, "data": config.get("data", "unknown data")}
    names: dict[str, Any] = {key: Path(str(config[key])).name for key in ("data", "validation_data") if key in config}
    initial = config.get("init")
    if isinstance(initial, dict) and "source" in initial:
        names["init"] = {**initial, "source": Path(str(initial["source"])).name}
    return config | names
