"""Whether one setting is better than another beyond chance: runs of both with the same seeds, compared in pairs.

    python benchmarks/paired_seeds.py results/boundary/zeros results/boundary/circular

Each folder holds the run folders of one setting, one for each seed. Runs of one seed see the same images in the same
order, so the difference is taken within seeds, and its interval is Student's t over them. Prints a table in Markdown.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from seed_interval import half_interval

from hcnn.runs.load import read_result
from hcnn.runs.settings import differences
from hcnn.storage.records import read_object


def collect(folder: Path) -> tuple[dict[int, float], dict[str, Any]]:
    """The test accuracies of one setting by seed, in percent, and what it is.

    Raises:
        ValueError: if there are no two to five finished runs, they differ in more than the seed, or a seed comes twice.
    """
    found: dict[int, float] = {}
    settings: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/result.json")):
        result, config = read_result(path.parent), read_object(path.with_name("config.json"))
        if result["seed"] in found:
            raise ValueError(f"{folder}: expected one run for each seed; seed {result['seed']} comes twice")
        found[result["seed"]] = 100 * result["test_accuracy"]
        settings.append({key: config[key] for key in ("network", "model", "recipe", "data_sha256")})
    if not 2 <= len(found) <= 5:
        raise ValueError(f"{folder}: expected folders of finished runs with two to five seeds; found {len(found)}")
    if any(one != settings[0] for one in settings):
        raise ValueError(f"{folder}: expected runs that differ in the seed only")
    return found, settings[0]


def main() -> None:
    """Read two settings and print what each reaches, their difference, and in which settings they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs=2, metavar="FOLDER", help="run folders of one setting")
    options = parser.parse_args()
    try:
        (first, one), (second, other) = map(collect, options.folders)
        if first.keys() != second.keys():
            raise ValueError(f"expected the same seeds in both; got {sorted(first)} and {sorted(second)}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    seeds = sorted(first)
    names = [folder.resolve().name for folder in options.folders]
    rows = [(name, [found[seed] for seed in seeds]) for name, found in zip(names, (first, second), strict=True)]
    rows.append(("difference", [first[seed] - second[seed] for seed in seeds]))
    print("| |", " | ".join(f"seed {seed}" for seed in seeds), "| mean ± half of the 95 % interval |")
    print("|---|" + "---|" * (len(seeds) + 1))
    for name, values in rows:
        sign = "+" if name == "difference" else ""
        cells = " | ".join(f"{value:{sign}.2f}" for value in values)
        print(f"| {name} | {cells} | {statistics.fmean(values):{sign}.2f} ± {half_interval(values):.2f} |")
    told = [f"{name} ({mine} against {its})" for name, (mine, its) in differences(other, one).items()]
    print("\nThey differ in:", ", ".join(told) or "nothing")


if __name__ == "__main__":
    main()
