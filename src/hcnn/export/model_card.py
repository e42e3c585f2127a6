"""Model cards: what a network is, how it was trained, how accurate it is, and its limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn.export.escape import markdown
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import MultiscaleHierarchicalCNNConfig
from hcnn.models.counts import count_parameters
from hcnn.models.factory import build
from hcnn.models.pretrained import list_pretrained, pretrained_record
from hcnn.models.summary import summarize
from hcnn.runs.load import read_result
from hcnn.runs.settings import CONFIG
from hcnn.storage.records import read_object


@dataclass(frozen=True)
class Records:
    """The records of how a network was trained.

    Attributes:
        config: the contents of the run's config.json, or {}.
        result: the contents of its result.json, or {}.
        seeds: accuracies over several seeds, the contents of seeds.json, or {}.
    """

    config: dict[str, Any]
    result: dict[str, Any]
    seeds: dict[str, Any]


def read_records(folder: Path) -> Records:
    """The records of a run folder, and of all its seeds if the folder belongs to `hcnn train --seeds`.

    Args:
        folder: a run folder, a folder of the Hub, or the name of weights that ship with the package; records that it
            lacks are left empty.

    Returns:
        The records.
    """
    if not folder.exists() and str(folder) in list_pretrained():
        shipped = pretrained_record(str(folder))
        return Records(shipped["config"], shipped["result"], {})
    config, seeds = (
        read_object(path) if path.is_file() else {} for path in (folder / CONFIG, folder.parent / "seeds.json")
    )
    if "run" in config:  # as HubNetwork.save_pretrained writes it
        return Records(config["run"], config.get("result") or {}, config.get("seeds") or {})
    return Records(config, read_result(folder), seeds if folder.name.startswith("seed-") else {})


def model_card(model: AttributeNetwork, records: Records, *, size: Sequence[int] | None = None, usage: str = "") -> str:
    """A model card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        model: the network, folded or not.
        records: the records of its training; the card says where they are missing.
        size: spatial size of its images, for the architecture table.
        usage: Python lines that load the network.

    Returns:
        The text.

    Raises:
        ValueError: if the records are not those of a run.

    Example:
        >>> from hcnn import create_model
        >>> card = model_card(create_model("hcnn_digits"), Records({}, {}, {}), size=(8, 8))
        >>> "| total | | | 9,168 | 5,022 | 101 | 2.3M |" in card
        True

    """
    config, result = records.config, records.result
    kind = "HCNN(+)" if getattr(model.config, "inner_elu", False) else "HCNN"
    if isinstance(model.config, MultiscaleHierarchicalCNNConfig):
        kind = "Multiscale hierarchical CNN"
    lines = [
        "---",
        "library_name: hcnn",
        "pipeline_tag: image-classification",
        "tags: [hcnn, attribute-cnn, image-classification]",
        "---",
        "",
        f"# {kind}, {markdown(_data_name(config))}",
        "",
        "A hierarchical attribute CNN (Jacobsen, Oyallon, Mallat, Smeulders 2017, arXiv 1703.04140), trained and",
        "written by the Python package `hcnn`."
        + (" This card was generated from the records of the run." if config else ""),
        "",
    ]
    if usage:
        lines += ["```python", usage, "```", ""]
    lines += ["## Architecture", "", *_architecture(model, size), ""]
    try:
        lines += ["## Data", "", *_data(config, result), ""]
        lines += ["## Training", "", *_training(config, result), ""]
        lines += ["## Accuracy", "", *_accuracy(records), ""]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"model card: expected the records of a run; {error!r}") from error
    lines += ["## Limits", "", *_limits(config, size)]
    return "\n".join(lines) + "\n"


def _architecture(model: AttributeNetwork, size: Sequence[int] | None) -> list[str]:
    with torch.device("meta"):  # its sizes are of interest; no random numbers are drawn
        network = build(model.config)
    counts = count_parameters(network)
    lines = [
        f"{counts.trained:,} convolution weights while training, {counts.composed:,} composed for inference; "
        f"{counts.normalization + counts.logit_scale:,} of normalization and logit scale in addition while training.",
        "",
    ]
    if size is None:
        return lines
    lines += [
        "| layer | attributes and space | sizes | trained | composed | norm. | mult-adds |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = summarize(network, size)
    for row in rows:
        sizes = "×".join(map(str, row.sizes))
        lines.append(
            f"| {row.name} | {row.axes} | {sizes} | {row.trained:,} | {row.composed:,} | {row.normalization:,} "
            f"| {row.multiply_adds / 1e6:,.1f}M |"
        )
    total = [sum(getattr(row, name) for row in rows) for name in ("trained", "composed", "normalization")]
    work = sum(row.multiply_adds for row in rows) / 1e6
    lines.append(f"| total | | | {total[0]:,} | {total[1]:,} | {total[2]:,} | {work:,.1f}M |")
    settings = ", ".join(f"{key} {markdown(value)}" for key, value in vars(model.config).items())
    return [*lines, "", f"Configuration: {settings}."]


def _data_name(config: dict[str, Any]) -> str:
    """The name of the data, or the last part of its path; where it was stored is not published."""
    return Path(str(config["data"])).name if "data" in config else "unknown data"


def _data(config: dict[str, Any], result: dict[str, Any]) -> list[str]:
    if not config:
        return ["Unknown: the network was saved without the records of a run."]
    p = config["preprocessing"]
    shown = ", ".join(markdown(name) for name in p["classes"][:20])
    more = f" and {len(p['classes']) - 20} more" if len(p["classes"]) > 20 else ""
    lines = [
        f"{markdown(_data_name(config))}, images of {'×'.join(map(str, p['size']))}, pixels from 0 to 1 standardized "
        f"by mean {_rounded(p['mean'])} and deviation {_rounded(p['std'])}. SHA-256 of the training set: "
        + (f"{markdown(config['data_sha256'])}." if "data_sha256" in config else "not recorded."),
        "",
        f"Classes: {shown}{more}.",
    ]
    counts = [(name, result.get(f"{name}_images")) for name in ("train", "validation", "test")]
    if any(count for _, count in counts):
        lines += ["", "Images: " + ", ".join(f"{count:,} {name}" for name, count in counts if count) + "."]
    return lines


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"


def _numbers(values: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(value)) for value in values) + "]"


def _training(config: dict[str, Any], result: dict[str, Any]) -> list[str]:
    if "recipe" not in config:
        return ["Unknown."]
    recipe = dict(config["recipe"])
    augmentation = recipe.pop("augmentation")
    lines = ["| setting | value |", "|---|---|"]
    settings = {**recipe, **{f"augmentation: {key}": value for key, value in augmentation.items()}}
    settings["seed"] = config["seed"]
    lines += [f"| {markdown(key)} | {markdown(value)} |" for key, value in settings.items()]
    if result:
        versions = ", ".join(markdown(f"{name} {number}") for name, number in result["versions"].items())
        processor = markdown(result["hardware"]["processor"])
        lines += ["", f"{result['seconds']:,.0f} s on {processor}; {versions}."]
    return lines


def _accuracy(records: Records) -> list[str]:
    lines = []
    for name, text in (("validation", "validation"), ("test", "test"), ("test_flips", "test, mirrored averaged in")):
        key = "test_accuracy_with_flips" if name == "test_flips" else f"{name}_accuracy"
        if (value := records.result.get(key)) is None:
            continue
        count = records.result["validation_images" if name == "validation" else "test_images"]
        lines.append(f"- {text}: {value:.2%} of {count:,} images, seed {markdown(records.result['seed'])}")
        if over := records.seeds.get(key):
            spread = f" ± {over['std']:.2%}" if over["std"] is not None else ""
            lines.append(f"  - over seeds {_numbers(records.seeds['seeds'])}: {over['mean']:.2%}{spread}")
    if not lines:
        return ["Not measured: the run had neither a validation nor a test set." if records.result else "Unknown."]
    return lines if records.seeds else [*lines, "", "One seed: the spread is unknown."]


def _limits(config: dict[str, Any], size: Sequence[int] | None) -> list[str]:
    lines = [
        "- It knows only its classes and assigns one of them to every image, whatever the image shows.",
        "- Its probabilities were not calibrated. Its fairness and its robustness to other cameras were not examined.",
        "- Networks of this kind are small; where size does not matter, residual networks are more accurate.",
    ]
    if size:
        lines.append(f"- Trained on images of {'×'.join(map(str, size))} only: other sizes must be resized first.")
    if not config:
        lines.append("- How it was trained is unknown.")
    return lines
