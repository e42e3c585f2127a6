"""Named attributes as data: which property of the input is to be a translation along which attribute."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hcnn.data.image_changes import PROPERTIES
from hcnn.data.signal_changes import SIGNAL_PROPERTIES, known_properties
from hcnn.text import count_of, is_number, suggest_name

_FEWEST = 4  # a circle of 3 values has no order, and one of 2 no fractional translations
_TEXT = re.compile(r"(?P<property>[^=@:]+)=(?P<attribute>v\d+)@(?P<depth>\d+)(?P<more>(:[^:]+)*)", re.ASCII)
_FORM = "PROPERTY=ATTRIBUTE@DEPTH, as in hue=v3@3 or rotation=v2@3:range=-45..45:weight=0.5"


@dataclass(frozen=True)
class AttributeTie:
    """A property of the input that shall be a translation along an attribute: ``x_j(P_a x) = T_{v_i, τ(a)} x_j(x)``.

    P_a changes the property by the amount a, and ``τ(a) = a · size / period``. See
    `hcnn.training.attribute_loss.ArrayLoss` for what is learned, and `hcnn.data.image_changes` and
    `hcnn.data.signal_changes` for the properties.

    Attributes:
        property: its name, such as "hue".
        attribute: the attribute v_i, such as "v3".
        depth: j, the layer whose array x_j is translated.
        weight: of the tie in the loss; with 0 the changed images are only learned from.
        range: the lowest and the highest amount, between which each image draws its own. Default: the property's.
        period: the amount that is one turn along the attribute. Default: the property's own cycle (hue 360 degrees,
            rotation 180), or else twice the width of the range, so that any two images of the range are at most half a
            turn apart.

    Raises:
        ValueError: for an unknown property, or a value out of range; it names the field.

    Example:
        >>> tie = AttributeTie.parse("hue=v3@3")
        >>> tie.attribute, tie.depth, tie.range, tie.period
        ('v3', 3, (-180.0, 180.0), 360.0)
        >>> tie.shift(45.0, 8)  # of an attribute of 8 values
        1.0
        >>> AttributeTie("scale", "v2", 3).period
        2.0

    """

    property: str
    attribute: str
    depth: int
    weight: float = 1.0
    range: tuple[float, float] | None = None
    period: float | None = None

    def __post_init__(self) -> None:
        known = {**SIGNAL_PROPERTIES, **PROPERTIES}
        if not isinstance(self.property, str) or self.property not in known:
            raise ValueError(f"property: unknown {self.property!r}; {suggest_name(str(self.property), known)}")
        own = known[self.property]
        if not re.fullmatch(r"v[1-9]\d{0,3}", str(self.attribute), re.ASCII):
            raise ValueError(f"attribute: expected v1, v2, …; got {self.attribute!r}")
        if not isinstance(self.depth, int) or isinstance(self.depth, bool) or self.depth < 1:
            raise ValueError(f"depth: expected a layer, 1 or more; got {self.depth!r}")
        if not (is_number(self.weight) and self.weight >= 0):
            raise ValueError(f"weight: expected 0 or more; got {self.weight!r}")
        low, high = own.range if self.range is None else _pair(self.range)
        if own.range[0] >= 0 and low < 0:
            raise ValueError(f"range: expected amounts of {self.property} of 0 or more; got {low:g} to {high:g}")
        period = self.period
        if period is None:
            period = own.cycle or 2 * (high - low)
        if not (is_number(period) and period > 0):
            raise ValueError(f"period: expected a positive amount of {self.property}; got {period!r}")
        if high - low > period * (1 + 1e-9):  # 0.2 + 0.1 is more than 0.3
            raise ValueError(
                f"period: expected at least the width of the range, {high - low:g}: amounts further apart are the same "
                f"translation; got {period:g}"
            )
        object.__setattr__(self, "range", (float(low), float(high)))
        object.__setattr__(self, "period", float(period))

    @classmethod
    def parse(cls, text: str) -> "AttributeTie":
        """A tie from text: ``PROPERTY=ATTRIBUTE@DEPTH``, and after colons weight, range or period.

        Args:
            text: such as "hue=v3@3", "rotation=v2@3:range=-45..45:weight=0.5" or "position-right=v2@4".

        Raises:
            ValueError: for another form, or as the class does.

        Example:
            >>> AttributeTie.parse("blur=v2@3:range=0..1:weight=2")
            AttributeTie(property='blur', attribute='v2', depth=3, weight=2.0, range=(0.0, 1.0), period=2.0)

        """
        match = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"attribute: expected {_FORM}; got {text!r}")
        more: dict[str, Any] = {}
        for part in match["more"].split(":")[1:]:
            key, equals, value = part.partition("=")
            if key not in ("weight", "range", "period") or not equals or key in more:
                raise ValueError(f"attribute {text!r}: expected weight=, range=LOW..HIGH or period= once; got {part!r}")
            try:
                numbers = [float(word) for word in value.split("..")]
            except ValueError:
                numbers = []
            if len(numbers) != (2 if key == "range" else 1):
                form = "LOW..HIGH, as in -45..45" if key == "range" else "a number"
                raise ValueError(f"attribute {text!r}: {key}: expected {form}; got {value!r}")
            more[key] = tuple(numbers) if key == "range" else numbers[0]
        name = re.sub(r"[-_]", " ", match["property"].strip())
        try:
            return cls(name, match["attribute"], int(match["depth"]), **more)
        except ValueError as error:
            raise ValueError(f"attribute {text!r}: {error}") from None

    def __str__(self) -> str:
        return f"{self.property}={self.attribute}@{self.depth}"

    def bounds(self) -> tuple[float, float]:
        """The range, which is known once the tie is made."""
        assert self.range is not None
        return self.range

    def shift(self, amount: Any, size: int) -> Any:
        """τ of an amount, or of a tensor of amounts, along an attribute of so many values."""
        assert self.period is not None
        return amount * (size / self.period)


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(is_number, value)):
        raise ValueError(f"range: expected two numbers, the lowest and the highest amount; got {value!r}")
    low, high = value
    if not low < high or not low <= 0 <= high:
        raise ValueError(f"range: expected a range that holds 0, which changes nothing; got {low:g} to {high:g}")
    return low, high


def as_ties(ties: "AttributeTie | str | Sequence[AttributeTie | str]") -> tuple[AttributeTie, ...]:
    """Ties from one or several ties or their texts.

    Raises:
        ValueError: if one is something else, or two are of one property or on one attribute.

    Example:
        >>> [str(one) for one in as_ties(["hue=v3@3", AttributeTie("rotation", "v2", 3)])]
        ['hue=v3@3', 'rotation=v2@3']
        >>> as_ties("hue=v3@3") == as_ties(["hue=v3@3"])
        True

    """
    ties = [ties] if isinstance(ties, str | AttributeTie) else ties
    if not isinstance(ties, Sequence) or not all(isinstance(one, str | AttributeTie) for one in ties):
        raise ValueError(f"attributes: expected ties, each an AttributeTie or a text {_FORM}; got {ties!r}")
    found = tuple(AttributeTie.parse(one) if isinstance(one, str) else one for one in ties)
    for place, one in enumerate(found):
        for other in found[:place]:
            if one.attribute == other.attribute or one.property == other.property:
                raise ValueError(
                    f"attributes: expected different properties on different attributes; got {other} and {one}"
                )
    return found


def check_ties(ties: Sequence[AttributeTie], network: Any, spatial: int) -> None:
    """Refuse ties that a network cannot learn.

    Args:
        ties: the ties.
        network: the network.
        spatial: number of spatial axes of its input.

    Raises:
        ValueError: if the network has no attributes or is not periodic, an array has no such attribute, it has fewer
            than 4 values, it is the classes', or inputs of this kind have no such property.

    Example:
        >>> import hcnn
        >>> network = hcnn.create_model("hcnn_digits", boundary="circular")
        >>> check_ties([AttributeTie.parse("rotation=v1@3")], network, 2)
        Traceback (most recent call last):
        ValueError: attribute rotation=v1@3: expected an attribute of 4 values or more; v1 has 2 in x_3

    """
    if ties and not getattr(network, "attribute_sizes", None):
        raise ValueError(f"attribute {ties[0]}: expected a network with attributes; got a {type(network).__name__}")
    for tie in ties:
        known = known_properties(network.config.channels, spatial)
        if tie.property not in known:
            channels = count_of(network.config.channels, "channel")
            axes = count_of(spatial, "spatial axis", "spatial axes")
            raise ValueError(
                f"attribute {tie}: inputs of {channels} and {axes} have no {tie.property!r}; "
                f"expected one of {', '.join(known)}"
            )
        if network.config.boundary != "circular":
            raise ValueError(
                f"attribute {tie}: expected a periodic network, in which a translation is exact; boundary is "
                f"{network.config.boundary!r}, not 'circular'"
            )
        depths = len(network.attribute_sizes)
        if tie.depth > depths:
            raise ValueError(f"attribute {tie}: expected a depth from 1 to {depths}; got {tie.depth}")
        sizes = network.attribute_sizes[tie.depth - 1]
        names = network.axes(tie.depth)[1 : 1 + len(sizes)]
        if tie.attribute not in names:
            raise ValueError(f"attribute {tie}: expected one of {', '.join(names)} of x_{tie.depth}")
        if tie.depth == depths and tie.attribute == names[-1] and getattr(network.config, "readout", "mean") == "mean":
            raise ValueError(f"attribute {tie}: {tie.attribute} of x_{tie.depth} are the classes, which have no order")
        size = sizes[names.index(tie.attribute)]
        if size < _FEWEST:
            raise ValueError(
                f"attribute {tie}: expected an attribute of {_FEWEST} values or more; {tie.attribute} has {size} in "
                f"x_{tie.depth}"
            )
