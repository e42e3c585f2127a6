"""The reference of the command line, made from the parsers themselves."""

import argparse
import re
from collections.abc import Iterable

from hcnn.cli.commands import COMMANDS

INTRODUCTION = """# Command line

`hcnn` without arguments lists the commands, and `hcnn COMMAND --help` prints the text below. Options may be written
with `-` or `_`.
Invalid input ends with exit code 2 and one line that says what was expected and what was found; an interrupt ends with
130.
"""
TITLES = {"positional arguments": "", "options": ""}


def command_page() -> str:
    """Every command with its options, in groups, as definition lists: they need no width, as tables do."""
    lines = [f"- [`hcnn {name}`](#hcnn-{name}): {one.summary}" for name, one in COMMANDS.items()]
    page = INTRODUCTION + "\n" + "\n".join(lines) + "\n"
    for name, command in COMMANDS.items():
        parser = command.parser(name)
        page += f"\n(hcnn-{name})=\n## `hcnn {name}`\n\n{command.summary}\n\n    {command.example}\n"
        page += f"\n{_text(command.details)}\n" if command.details else ""
        for group in parser._action_groups:
            actions = [one for one in group._group_actions if one.dest not in ("help", "help_all")]
            title = TITLES.get(group.title or "", group.title)
            if actions:
                page += (f"\n### {title[0].upper()}{title[1:]}\n" if title else "") + "\n" + _definitions(actions)
    return page


def _definitions(actions: Iterable[argparse.Action]) -> str:
    return "\n".join(f"`{_usage(one)}`\n: {_text((one.help or '') % vars(one))}\n" for one in actions)


def _usage(action: argparse.Action) -> str:
    """An option with its alternatives and its value, as one types it."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return ", ".join(action.option_strings)
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    values = {"?": f"[{value}]", "*": f"[{value} ...]", "+": f"{value} [...]", None: str(value)}
    shown = values.get(action.nargs, " ".join([str(value)] * action.nargs if isinstance(action.nargs, int) else []))
    return " ".join(filter(None, [", ".join(action.option_strings), shown]))


def _text(text: str) -> str:
    """Help as Markdown: nothing in it is markup but the options, which become code."""
    return re.sub(r"(?<!`)(--[a-z][a-z-]*)", r"`\1`", re.sub(r"([*<$\[])", r"\\\1", text.strip())).replace("\n", "\n\n")
