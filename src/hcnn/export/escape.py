"""Names and texts from outside, made harmless for each format that an export writes: one function per format."""

import re

from hcnn.text import printable


def c_string(text: str) -> str:
    r"""A C string literal in ASCII.

    Everything but plain ASCII becomes octal escapes of its UTF-8 bytes, question marks too, because of trigraphs. C
    cannot hold a zero byte: it is spelled out.

    Args:
        text: any text.

    Returns:
        The literal with its quotes; the same in C and C++.

    Example:
        >>> print(c_string('a "dog"?\n'))
        "a \042dog\042\077\012"

    """
    plain = set(range(32, 127)) - set(b'"\\?')
    data = text.replace("\0", "\\x00").encode(errors="backslashreplace")
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in data) + '"'


def c_identifier(text: str) -> str:
    """The start of names in C and C++ made from any text, such as a file's name.

    Args:
        text: any text.

    Returns:
        At most 40 letters, digits and single underscores, beginning with a letter; "hcnn" where nothing is left. Of
        such a name it is the name itself.

    Example:
        >>> c_identifier("my-net.v2"), c_identifier("2 dogs"), c_identifier("犬")
        ('my_net_v2', 'n2_dogs', 'hcnn')

    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    name = f"n{name}" if name[:1].isdigit() else name
    return name[:40].rstrip("_") or "hcnn"


def markdown(value: object) -> str:
    r"""Text that Markdown shows as it is, on one line; no heading, link, cell, HTML, code or formula begins in it.

    The result is for the middle of a line: where a line begins, a dash or a number could still begin a list.

    Args:
        value: a name, or whatever a record holds.

    Returns:
        The text with the punctuation escaped that means something to Markdown, or to readers that make links of
        addresses.

    Example:
        >>> print(markdown("[a](http://b) | <b># one_cycle 0.1"))
        \[a\](http\://b) \| &lt;b&gt;\# one_cycle 0.1

    """
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return _MEANS_SOMETHING.sub(lambda found: entities.get(found[0]) or f"\\{found[0]}", printable(str(value)))


# An underscore between letters is no emphasis, a colon before a space no address, a dot only one after www.
_MEANS_SOMETHING = re.compile(r"[<>&#$*@\[\\\]`{|}~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?! )|(?<=[wW])\.")
