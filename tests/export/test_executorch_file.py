"""ExecuTorch programs in ExecuTorch's own runtime."""

import json
import subprocess
import sys

import pytest
import torch

from hcnn import cli
from hcnn.data.preprocessing import Preprocessing
from hcnn.export.executorch_file import export_executorch
from hcnn.export.replace import is_export


@pytest.mark.filterwarnings("ignore")  # ExecuTorch warns when it is imported
@pytest.mark.parametrize(
    "name", ["zeros", "circular", "plus", "plus circular", "published", "line", "volume", "multiscale"]
)
def test_the_program_agrees_in_the_runtime(name, settled, tmp_path) -> None:
    runtime = pytest.importorskip("executorch.runtime")
    model = settled(name)
    config, size = model.config, (12, 8)[: model.config.spatial_axes]
    names = ("é", *map(str, range(1, config.classes)))
    standard = Preprocessing((0.3,) * config.channels, (0.4,) * config.channels, size, names)
    images = torch.randint(0, 256, (5, config.channels, *size), dtype=torch.uint8)
    assert export_executorch(tmp_path / "a.pte", model, images, standard) < 1e-5
    program = runtime.Runtime.get().load_program(tmp_path / "a.pte")
    assert json.loads(program.load_method("classes").execute([])[0]) == list(names)
    with torch.no_grad():
        expected = model(standard.standardize(images[:1]))
    got = program.load_method("forward").execute([images[:1].float() / 255])[0]
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert is_export(tmp_path / "a.pte")


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_a_program_for_one_image_size(run, capsys, tmp_path) -> None:
    pytest.importorskip("executorch.runtime")
    arguments = ["export", str(run), "--to", "executorch", "--image-size", "12", "--output", str(tmp_path / "a.pte")]
    assert cli.main(arguments) == 0
    assert "largest difference from the trained network" in capsys.readouterr().out
    assert cli.main(arguments) == 0  # it replaces its own file


def test_volumes_are_refused(settled, standard, tmp_path) -> None:
    images = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected one or two spatial axes; the network has 3"):
        export_executorch(tmp_path / "a.pte", settled("volume"), images, standard)


def test_without_executorch_the_extra_is_named(run, tmp_path) -> None:
    script = "import sys; sys.modules['executorch'] = None\nfrom hcnn import cli; sys.exit(cli.main(sys.argv[1:]))"
    arguments = ["export", str(run), "--to", "executorch", "--output", str(tmp_path / "a.pte")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'hcnn[executorch]'" in done.stderr
    assert not (tmp_path / "a.pte").exists()
