"""Attributes that training gave a name: the property of each, and how much of it one value is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hcnn.data.image_changes import PROPERTIES
from hcnn.data.signal_changes import SIGNAL_PROPERTIES
from hcnn.storage.records import build_record
from hcnn.training import AttributeTie


@dataclass(frozen=True)
class Name:
    """What a translation along an attribute does to an image.

    Attributes:
        property: such as "hue".
        unit: of its amounts, such as "degrees".
        step: the amount that is a translation by 1.
        period: the amount that is one turn along the attribute.

    """

    property: str
    unit: str
    step: float
    period: float


def named_attributes(config: Mapping[str, Any], j: int, sizes: Mapping[str, int]) -> dict[str, Name]:
    """The names of the attributes of x_j that a run was trained for.

    A tie at depth j holds at greater depths too as long as the attribute is there, because layers are covariant:
    there it has fewer values, so that each is a larger amount.

    Args:
        config: the contents of the run's config.json.
        j: depth.
        sizes: the attributes of x_j with their numbers of values.

    Returns:
        Names by attribute; none for a run without ties, or whose ties have weight 0.

    Raises:
        ValueError: if the configuration is damaged.

    Example:
        >>> tie = {"property": "hue", "attribute": "v3", "depth": 3}
        >>> named_attributes({"recipe": {"attributes": [tie]}}, 4, {"v3": 4, "v4": 8})
        {'v3': Name(property='hue', unit='degrees', step=90.0, period=360.0)}

    """
    recipe = config.get("recipe")
    given = recipe.get("attributes", []) if isinstance(recipe, Mapping) else []
    if not isinstance(given, list):
        raise ValueError(f"recipe.attributes: expected a list; got {type(given).__name__}")
    ties = [build_record(AttributeTie, one, f"recipe.attributes[{number}]") for number, one in enumerate(given)]
    found = {}
    for tie in ties:
        if tie.weight and tie.depth <= j and tie.attribute in sizes:
            own = PROPERTIES.get(tie.property) or SIGNAL_PROPERTIES[tie.property]
            assert tie.period is not None
            step = tie.period / sizes[tie.attribute]
            found[tie.attribute] = Name(tie.property, own.unit, step, tie.period)
    return found
