"""JSON from files that others may have written, read strictly: one line of error that names the file and the field."""

import json
import math
import stat
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from hcnn.storage.atomic import StrPath
from hcnn.text import suggest_name

_LARGEST = 16 << 20  # bytes; a config.json with 100,000 class names has 2
Record = typing.TypeVar("Record")
_WHOLE = 2**31  # no setting of a network or of a recipe is larger


def read_object(path: StrPath) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: a regular file of at most 16 MiB, in UTF-8.

    Returns:
        The object.

    Raises:
        ValueError: naming the file, if it is another kind of file, too large, or no strict JSON object.
        OSError: if it cannot be read.
    """
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: expected a regular file")
    if found.st_size > _LARGEST:
        raise ValueError(f"{path}: expected at most {_LARGEST:,} bytes of JSON; it has {found.st_size:,}")
    return parse_object(path.read_bytes(), str(path))


def parse_object(data: str | bytes, where: str) -> dict[str, Any]:
    """Parse strict JSON that holds an object: without NaN and infinities.

    Args:
        data: the text.
        where: what it is and where from; it opens the error text.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> parse_object('{"lr": NaN}', "config.json")
        Traceback (most recent call last):
        ValueError: config.json: expected strict JSON; NaN is not a number
    """
    try:
        found = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{where}: expected strict JSON; {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected a JSON object; got {_short(found)}")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_short(text)} is not a finite number")
    return value


def build_record(kind: type[Record], value: object, where: str) -> Record:
    """A frozen dataclass from the JSON object that `dataclasses.asdict` made of it.

    Args:
        kind: the dataclass; its fields are whole numbers, numbers, strings, booleans, literals, tuples or dataclasses.
        value: what stands in the file.
        where: the file and the field; it opens the error text.

    Raises:
        ValueError: if a field is unknown, missing or of another type, or the dataclass refuses a value.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     width: int
        >>> build_record(Size, {"width": 8}, "config.json: size")
        Size(width=8)
        >>> build_record(Size, {"width": 8.0}, "config.json: size")
        Traceback (most recent call last):
        ValueError: config.json: size.width: expected a whole number; got 8.0
    """
    assert is_dataclass(kind)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object; got {_short(value)}")
    known = {field.name: field for field in fields(kind)}
    for name in value:
        if name not in known:
            raise ValueError(f"{where}: unknown field {_short(name)}; {suggest_name(str(name)[:80], known)}")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}: expected a field {name!r}; it is missing")
    hints = typing.get_type_hints(kind)
    arguments = {name: _convert(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    hint = getattr(hint, "__value__", hint)  # of `type X = …`
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError(f"{where}: expected one of {', '.join(map(repr, choices))}; got {_short(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        return _convert(next(one for one in choices if one is not type(None)), value, where)
    if origin is tuple:
        return _convert_tuple(choices, value, where)
    if is_dataclass(hint):
        return build_record(typing.cast("type[Any]", hint), value, where)
    expected, right = {
        bool: ("true or false", type(value) is bool),
        int: ("a whole number", type(value) is int and abs(value) < _WHOLE),
        float: ("a number", type(value) in (int, float) and abs(value) < 1e300),
        str: ("a string", type(value) is str),
    }[hint]
    if not right:
        raise ValueError(f"{where}: expected {expected}; got {_short(value)}")
    return float(value) if hint is float else value


def _convert_tuple(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):  # a tuple where a configuration comes from Python
        raise ValueError(f"{where}: expected a list; got {_short(value)}")
    if kinds[-1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where}: expected a list of {len(kinds)}; got {len(value)} entries")
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _short(value: object) -> str:
    """A value from a file, for one line of error text."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
