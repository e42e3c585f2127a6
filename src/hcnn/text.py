"""Names and numbers from outside: suggestions for misspelt names, a form that is safe to print, and rows of CSV."""

import csv
import difflib
import io
import sys
import unicodedata
from collections.abc import Iterable, Mapping


def is_number(value: object) -> bool:
    """Whether a setting is a finite number.

    Example:
        >>> is_number(0.5), is_number(float("nan")), is_number("0.5"), is_number(True), is_number(10**400)
        (True, False, False, False, False)
    """
    largest = sys.float_info.max  # there are integers beyond it, which become no float
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def kind_of(value: object) -> str:
    """What came in place of a certain tensor, for messages.

    Example:
        >>> import numpy, torch
        >>> kind_of(torch.zeros(2, 3)), kind_of(numpy.zeros(2)), kind_of([1])
        ('torch.float32 of shape (2, 3)', 'a ndarray, float64 of shape (2,)', 'a list')
    """
    name = type(value).__name__
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return f"a {name}"
    text = f"{value.dtype} of shape {tuple(value.shape)}"  # pyright: ignore[reportAttributeAccessIssue]
    return text if text.startswith("torch.") else f"a {name}, {text}"


def count_of(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the singular or the plural, which ends with an s unless it is given.

    Example:
        >>> count_of(1, "depth"), count_of(8, "depth"), count_of(2, "axis", "axes")
        ('1 depth', '8 depths', '2 axes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def suggest_name(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint for a name that is not known.

    Args:
        name: what was asked for.
        known: the names there are.
        count: how many similar names to offer at most.

    Returns:
        "did you mean …?" with the most similar names, or "known are …" where none is similar.

    Example:
        >>> suggest_name("resnet", ["resnet20", "compact"])
        'did you mean resnet20?'
        >>> suggest_name("vgg", ["resnet20", "compact"])
        'known are resnet20, compact'

    """
    names = [*known]
    near = similar_names(name, names, count)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"


def check_fields(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse names that are not fields of a configuration.

    Raises:
        ValueError: names the first one, and those that are most similar to it.

    Example:
        >>> check_fields(["epoch"], ["epochs", "lr"], "recipe")
        Traceback (most recent call last):
        ValueError: recipe: unknown field 'epoch'; did you mean epochs?

    """
    names = [*known]
    for name in given:
        if name not in names:
            raise ValueError(f"{what}: unknown field {name!r}; {suggest_name(name, names)}")


def similar_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that are most similar to one that is not known, the best first; `suggest_name` is made of it.

    Example:
        >>> similar_names("resnet", ["resnet20", "compact"])
        ['resnet20']

    """
    return difflib.get_close_matches(str(name), [*known], n=count)


def printable(text: str) -> str:
    r"""Text with every character escaped that could move the cursor, break a line or hide others.

    Class names and file names come from outside. Control and formatting characters (line breaks, terminal escapes,
    marks that reverse the direction of text) and unpaired surrogates are shown as Python writes them.

    Args:
        text: any string.

    Returns:
        The same text on one line, without control characters.

    Example:
        >>> print(printable("cat\x1b[31m\nred 犬"))
        cat\x1b[31m\nred 犬

    """
    return "".join(
        one if one == " " or unicodedata.category(one)[0] not in "CZ" else one.encode("unicode_escape").decode()
        for one in text
    )


def csv_row(values: Iterable[object]) -> str:
    r"""A row of CSV, ending with a line feed, that comes back as the same values whatever characters are in them.

    Python's writer quotes line breaks only if they are those that end its rows: a lone carriage return would split one.

    Args:
        values: the cells; None is an empty one.

    Returns:
        The row. Encode it with ``errors="surrogateescape"`` where file names are among the values.

    Example:
        >>> csv_row(["a\rb", "c d", 1.5, None])
        '"a\rb",c d,1.5,\n'

    """
    text = io.StringIO(newline="")
    csv.writer(text).writerow([*values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """A template with each ``{{name}}`` replaced; what is put in is not looked at again.

    Args:
        template: text with names in double braces.
        parts: the text for each name, escaped already for what the template is.

    Returns:
        The filled text.

    Example:
        >>> fill_template("<h1>{{title}}</h1>", {"title": "{{title}}"})
        '<h1>{{title}}</h1>'

    """
    head, *rest = template.split("{{")
    return head + "".join(parts[name] + after for name, after in (one.split("}}", 1) for one in rest))
