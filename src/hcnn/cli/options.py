"""Options from dataclasses: each field of a configuration becomes an option and a key of --set."""

import argparse
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from hcnn.storage.user_paths import user_path
from hcnn.text import suggest_name

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_UNBOUNDED = 10_000  # columns of help that is not read in a terminal


class _Formatter(argparse.HelpFormatter):
    """Help with its paragraphs kept, wrapped in a terminal only."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=None if sys.stdout.isatty() else _UNBOUNDED)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent) for line in text.splitlines()
        )


class Parser(argparse.ArgumentParser):
    """The options of one command; options are matched as whole words, and errors are one line.

    Args:
        command: the command's name.
        description: paragraphs for its help, each on one line.
        usage: what follows the name in the first line of help; made from the options if None.
    """

    def __init__(self, command: str, description: str = "", usage: str | None = None) -> None:
        super().__init__(
            prog=f"hcnn {command}",
            usage=usage and f"hcnn {command} {usage}",
            description=description,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        for kind in (int, float, Path):  # read in the words of this package; argparse would say "invalid int value"
            self.register("type", kind, _reader(kind, False))
        self.refused: dict[str, str] = {}

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words after the command's name. Options may be spelt with - or _."""
        known, unknown = self.parse_known_intermixed_args(_with_hyphens(words))
        for word in unknown:
            if word.startswith("-") and word != "--":
                name = word.split("=", 1)[0]
                if name in self.refused:
                    raise ValueError(f"{name}: {self.refused[name]}")
                options = [option for option in self._option_string_actions if option.startswith("--")]
                self.error(f"unknown option {name!r}" + (f"; {suggest_name(name, options)}" if len(name) > 2 else ""))
        if unknown:
            self.error(f"expected no further word; got {' '.join(map(repr, unknown))}")
        return known

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one line on standard error."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}; see {self.prog} --help\n")


def _with_hyphens(words: Sequence[str]) -> list[str]:
    result, options = [], True
    for word in words:
        options = options and word != "--"
        name, equals, value = word.partition("=")
        result.append(name.replace("_", "-") + equals + value if options and word.startswith("--") else word)
    return result


def with_options(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words of a command with further options, in front of the ``--`` that ends options.

    Example:
        >>> with_options(["--epochs", "3", "--", "-photos"], ["--resume"])
        ['--epochs', '3', '--resume', '--', '-photos']
    """
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *options, *words[end:]]


@dataclass(frozen=True)
class Setting:
    """A field of a configuration.

    Attributes:
        name: of the field.
        kind: its type.
        help: what the docstring of its class says about it.
    """

    name: str
    kind: Any
    help: str

    @property
    def option(self) -> str:
        """The option that sets it."""
        return "--" + self.name.replace("_", "-")


def settings_of(config: type) -> dict[str, Setting]:
    """The settings of a configuration, those of nested ones among them.

    Args:
        config: a dataclass that describes its fields in the section "Attributes" or "Args" of its docstring.

    Returns:
        The settings by name.

    Raises:
        ValueError: if two fields have one name.
    """
    types_of, described = get_type_hints(config), _descriptions(config)
    found: dict[str, Setting] = {}
    for field in fields(config):
        kind = types_of[field.name]
        nested = isinstance(kind, type) and is_dataclass(kind)
        new = settings_of(kind) if nested else {field.name: Setting(field.name, kind, described.get(field.name, ""))}
        if twice := found.keys() & new.keys():
            raise ValueError(f"{config.__name__}: expected settings of different names; got {sorted(twice)} twice")
        found |= new
    return found


def _descriptions(config: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say about each field, as sentences."""
    found: dict[str, str] = {}
    for one in reversed(config.__mro__):
        lines = inspect.cleandoc(one.__doc__ or "").splitlines()
        start = next((i for i, line in enumerate(lines) if line in ("Attributes:", "Args:")), len(lines))
        name = ""
        for line in lines[start + 1 :]:
            if line and not line.startswith(" "):
                break
            if match := re.match(r" {4}(\w+): (.*)", line):
                name, found[match[1]] = match[1], match[2]
            elif name and line:
                found[name] += " " + line.strip()
    return {name: text[:1].upper() + text[1:] if text[:1].isascii() else text for name, text in found.items()}


def add_setting(group: Any, setting: Setting, default: Any, *, described: str | None = None) -> None:
    """Add the option of a setting. It has no value unless it is given; its default is only shown."""
    kind, optional = _without_none(setting.kind)
    text = described or f"{setting.help.rstrip('.')}. Default: {_shown(default)}."
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%"), "dest": setting.name}
    if kind is bool:
        group.add_argument(setting.option, action=argparse.BooleanOptionalAction, **common)
        return
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        many = inner[-1] is Ellipsis
        common |= {"nargs": "*" if many else len(inner), "metavar": _metavar(inner[0])}
        group.add_argument(setting.option, type=_reader(inner[0], False), **common)
        return
    group.add_argument(setting.option, type=_reader(kind, optional), metavar=_metavar(kind), **common)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _reader(kind: Any, optional: bool) -> Any:
    def read(word: str) -> Any:
        try:
            return None if optional and word.lower() == "none" else _read_word(kind, word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", str: "NAME"}
    return "{" + ",".join(map(str, get_args(kind))) + "}" if get_origin(kind) is Literal else names.get(kind, "VALUE")


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return kind, False


def _read_word(kind: Any, word: str) -> Any:
    if get_origin(kind) is Literal:
        for one in get_args(kind):
            if str(one) == word:
                return one
        raise ValueError(f"expected {' or '.join(map(str, get_args(kind)))}; got {word!r}")
    if kind is bool:
        if word.lower() in (*_TRUE, *_FALSE):
            return word.lower() in _TRUE
        raise ValueError(f"expected true or false; got {word!r}")
    if kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            raise ValueError(f"expected a {'whole ' if kind is int else ''}number; got {word!r}") from None
    if kind is Path:  # an empty one would be the current folder
        return user_path(name_or_path(word))
    return word


def name_or_path(word: str) -> str:
    """A word that is not empty, as often a variable of a shell script is."""
    if not word:
        raise argparse.ArgumentTypeError("expected a name or a path; got ''")
    return word


def read_assignment(text: str, settings: Mapping[str, Setting], refused: Mapping[str, str]) -> tuple[str, Any]:
    """A KEY=VALUE of --set.

    Args:
        text: as it was typed; the values of a tuple are separated by commas.
        settings: what can be set.
        refused: reasons why other keys cannot be set.

    Returns:
        The field's name and its value.

    Raises:
        ValueError: for another form, an unknown key (similar ones are suggested) or a value of the wrong type.

    Example:
        >>> read_assignment("downsample=3,5", {"downsample": Setting("downsample", tuple[int, ...], "")}, {})
        ('downsample', (3, 5))
    """
    key, equals, value = text.partition("=")
    name = key.strip().removeprefix("--").replace("-", "_")
    if not equals or not name:
        raise ValueError(f"--set: expected KEY=VALUE, as in --set width=8; got {text!r}")
    if name in refused:
        raise ValueError(f"--set {name}: {refused[name]}")
    if name not in settings:
        raise ValueError(f"--set: unknown key {name!r}; {suggest_name(name, settings)}")
    kind, optional = _without_none(settings[name].kind)
    try:
        if optional and value.strip().lower() == "none":
            return name, None
        if get_origin(kind) is not tuple:
            return name, _read_word(kind, value.strip() if kind is not str else value)
        inner = get_args(kind)
        words = [word.strip() for word in value.split(",")] if value.strip() else []
        if inner[-1] is not Ellipsis and len(words) != len(inner):
            raise ValueError(f"expected {len(inner)} values, separated by commas; got {value!r}")
        return name, tuple(_read_word(inner[0], word) for word in words)
    except ValueError as error:
        raise ValueError(f"--set {name}: {error}") from None


def with_settings(config: Any, given: Mapping[str, Any]) -> Any:
    """A configuration with the given settings in place of its own, in nested ones too; others are left out."""
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = with_settings(value, given)
        elif field.name in given:
            changes[field.name] = given[field.name]
    return replace(config, **changes)
