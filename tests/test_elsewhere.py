"""The networks where other libraries look for models: timm's registry and torch.hub."""

import subprocess
import sys
import textwrap
from pathlib import Path

import hcnn

ROOT = Path(__file__).parents[1]

# What timm.models.register_model does with an entry point, as far as a model's module sees of it: the name is added to
# __all__, and an entry of default_cfgs becomes a PretrainedCfg, whose fields these are.
REGISTRY = """
import sys, types

FIELDS = {
    "file", "input_size", "interpolation", "crop_pct", "mean", "std", "num_classes", "label_names", "license",
}
entries = {}

def register_model(function):
    module = sys.modules[function.__module__]
    module.__all__.append(function.__name__)
    assert set(module.default_cfgs[function.__name__]) <= FIELDS
    entries[function.__name__] = function
    return function

def create_model(name, pretrained=False, **options):
    own = {"pretrained_cfg": None, "pretrained_cfg_overlay": None, "cache_dir": None}
    return entries[name](pretrained=pretrained, **own, **options)

timm, models = types.ModuleType("timm"), types.ModuleType("timm.models")
timm.models, models.register_model = models, register_model
sys.modules |= {"timm": timm, "timm.models": models}
"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_timm_creates_the_networks_of_this_package() -> None:
    code = REGISTRY + textwrap.dedent("""
        import torch, hcnn, hcnn.timm
        assert set(entries) == set(hcnn.list_models()) == set(hcnn.timm.__all__)
        model = create_model("hcnn_small_cifar10", pretrained=True, num_classes=5)
        whole = hcnn.create_model("hcnn_small_cifar10", pretrained=True)
        assert torch.equal(model.layers[3].g, whole.layers[3].g)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, model.num_classes) == (1, 5)
        assert model.pretrained_cfg["mean"] == whole.preprocessing.mean
        assert open(model.pretrained_cfg["file"], "rb").read(1)
        assert create_model("resnet20_digits", num_classes=3).pretrained_cfg["file"] is None
        assert len(create_model("hcnn_digits", features_only=True, out_indices=(2, 4))(torch.zeros(1, 1, 8, 8))) == 2
        try:
            create_model("hcnn_digits", drop_rate=0.1)
        except ValueError as error:
            print(error)
    """)
    assert "hcnn_digits: unknown settings ['drop_rate']" in _run(code)


def test_without_timm_the_error_says_how_to_install_it() -> None:
    code = """
        import sys
        sys.modules["timm"] = None
        try:
            import hcnn.timm
        except ImportError as error:
            print(error)
    """
    assert _run(code) == "hcnn.timm needs timm: pip install timm\n"


def test_torch_hub_finds_the_networks_in_a_clone() -> None:
    code = f"""
        import torch
        options = {{"source": "local", "trust_repo": True}}
        model = torch.hub.load({str(ROOT)!r}, "hcnn_small_cifar10", pretrained=True, num_classes=5, **options)
        print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
    """
    assert _run(code) == "(1, 5)\n"


def test_every_network_is_an_entry_point_and_nothing_else_is() -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import hubconf
        print(*(name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")))
    """
    assert _run(code).split() == hcnn.list_models()
