"""The networks of this package in timm's registry, once this module is imported.

timm looks for models in its registry only, and has no entry points by which a package could announce its own; so
``import hcnn.timm`` stands before ``timm.create_model("hcnn_small_cifar10", pretrained=True, num_classes=5)``. The
keywords are those of `hcnn.create_model`. ``timm.list_models("hcnn_*", pretrained=True)`` lists the networks whose
weights ship with this package; they are loaded from it and never downloaded.
"""

from collections.abc import Callable
from typing import Any

from hcnn.models.factory import create_model
from hcnn.models.pretrained import list_pretrained, pretrained_file, pretrained_record
from hcnn.models.registry import list_models, model_spec

try:
    from timm.models import register_model  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("timm"):
        raise
    raise ImportError("hcnn.timm needs timm: pip install timm") from error

_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # where timm would look for weights
_STATISTICS = {3: "hcnn_small_cifar10", 1: "hcnn_digits"}  # whose standardization untrained networks get


def _data_config(name: str) -> dict[str, Any]:
    """What timm calls a model's pretrained_cfg."""
    spec, shipped = model_spec(name), name in list_pretrained()
    channels = spec.config.channels
    record = pretrained_record(name if shipped else _STATISTICS[channels])["config"]["preprocessing"]
    return {
        "file": str(pretrained_file(f"{name}.safetensors")) if shipped else None,
        "input_size": (channels, spec.image_size[0], spec.image_size[0]),
        "num_classes": spec.config.classes,
        "mean": tuple(record["mean"]),
        "std": tuple(record["std"]),
        "label_names": tuple(record["classes"]) if shipped else None,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "license": "mit",
    }


default_cfgs = {name: _data_config(name) for name in list_models()}
__all__: list[str] = []  # to which timm adds every registered name


def _entry_point(name: str) -> Callable[..., Any]:
    def create(pretrained: bool = False, **options: Any) -> Any:
        for option in _OF_TIMM:
            options.pop(option, None)
        model = create_model(name, pretrained=pretrained, **options)
        model.pretrained_cfg = model.default_cfg = {"architecture": name, **default_cfgs[name]}
        return model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"`hcnn.create_model` with the name {name!r}."
    return create


for _name in list_models():
    globals()[_name] = register_model(_entry_point(_name))
