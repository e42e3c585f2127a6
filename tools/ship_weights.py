"""Put a finished run's weights into the package, with a card: python tools/ship_weights.py RUN NAME."""

import json
import shutil
import sys
from pathlib import Path

from hcnn.models.registry import model_config
from hcnn.runs.load import load_run
from hcnn.runs.settings import CONFIG, RESULT, WEIGHTS

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "hcnn" / "models" / "pretrained"


def main(run: str, name: str) -> None:
    """Check that the run is of the named model and copy weights and records."""
    folder = Path(run)
    if load_run(folder).model.config != model_config(name):
        sys.exit(f"{folder}: its network is not {name}")
    config, result = (json.loads((folder / file).read_text()) for file in (CONFIG, RESULT))
    if (had := result["epochs"]) != (asked := config["recipe"]["epochs"]):
        sys.exit(f"{folder}: expected a finished run; its weights are those of {had} epochs, and it is to have {asked}")
    shutil.copyfile(folder / WEIGHTS, PACKAGE / f"{name}.safetensors")
    (PACKAGE / f"{name}.json").write_text(json.dumps({"config": config, "result": result}, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
