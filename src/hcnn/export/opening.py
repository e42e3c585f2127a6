"""Opening a trained network, however it was saved."""

import os
from pathlib import Path

from hcnn.export.folded_weights import WEIGHTS as SAVED
from hcnn.export.folded_weights import load_folded
from hcnn.runs.load import Run, load_named, load_recorded
from hcnn.runs.settings import CONFIG, WEIGHTS
from hcnn.storage.atomic import StrPath
from hcnn.storage.records import read_object
from hcnn.storage.user_paths import user_path


def open_network(where: StrPath) -> Run:
    """Load a trained network: of a run, of a Hub folder, from folded weights, or one that ships with the package.

    Args:
        where: a run folder, a folder that `HubNetwork.save_pretrained` or ``hcnn export --to safetensors`` wrote, the
            file of weights in one of them, or a name of `hcnn.models.pretrained.list_pretrained`.

    Returns:
        The network with its preprocessing. `config` is empty for folded weights, which do not record their run.

    Raises:
        ValueError: if it is none of these, or damaged.

    """
    if not isinstance(where, str | os.PathLike) or not os.fspath(where):
        raise ValueError(f"expected the path or the name of a trained network; got {where!r}")
    where = user_path(where)
    is_file = where.suffix == ".safetensors" and not where.is_dir()
    if where.is_file() and not is_file:
        raise ValueError(f"{where}: expected a folder of a run or of the Hub, or a .safetensors file")
    folder = where.parent if is_file else where
    if is_file:
        weights = where.name
    else:
        weights = SAVED if (folder / SAVED).is_file() and not (folder / WEIGHTS).is_file() else WEIGHTS
    recorded = (folder / CONFIG).is_file()
    if weights == WEIGHTS and (recorded or not is_file):
        return load_named(folder)
    record = read_object(folder / CONFIG) if recorded and weights == SAVED else {}
    if "run" in record:
        return _load_hub_folder(folder, record)
    return Run(where, *load_folded(where), {})


def _load_hub_folder(folder: Path, record: dict[str, object]) -> Run:
    run, name = record["run"], folder / CONFIG
    if not isinstance(run, dict):
        raise ValueError(f"{name}: run: expected an object, as HubNetwork.save_pretrained writes it")
    model = load_recorded(run, folder / SAVED, f"{name}: run")
    return Run(folder, model, model.preprocessing, run)
