"""Nested state, such as an optimizer's, as tensors by name and a tree of strict JSON."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hcnn.storage.safetensors import shortened


def flatten_state(obj: object) -> tuple[dict[str, Tensor], Any]:
    """Split nested state, such as ``optimizer.state_dict()``, into tensors and a tree of strict JSON.

    JSON has no tuples, no integer keys, no infinities: ``$tuple``, ``$dict`` and ``$float`` stand for them.
    Tensors are named by their path, and not copied. An ``OrderedDict`` comes back as a dict, a tensor that
    stands in two places as two of equal content.

    Args:
        obj: dicts (keys: str, int), lists, tuples, str, int, float, bool, None, tensors, nested at will.

    Returns:
        The tensors by name, and the tree that refers to them.

    Raises:
        ValueError: for any other type, with its path. NumPy scalars, enums and named tuples are other types:
            they would not come back as they were.

    >>> import torch
    >>> tensors, tree = flatten_state({"betas": (0.9, 0.95), "state": {0: {"mean": torch.zeros(2)}}})
    >>> list(tensors), tree["state"]
    (['state/0/mean'], {'$dict': [[0, {'mean': {'$tensor': 'state/0/mean'}}]]})
    >>> unflatten_state(tensors, tree)
    {'betas': (0.9, 0.95), 'state': {0: {'mean': tensor([0., 0.])}}}

    """
    tensors: dict[str, Tensor] = {}

    def encode(node: object, path: str) -> Any:
        if node is None or type(node) in (bool, int, str):
            return node
        if type(node) is float:
            return node if math.isfinite(node) else {"$float": repr(node)}
        if isinstance(node, Tensor):
            name = path or "value"
            while name in tensors:  # the keys 0 and "0", or "a/b" and "a" then "b", give one path
                name += "'"
            tensors[name] = node
            return {"$tensor": name}
        if isinstance(node, list | tuple) and type(node) in (list, tuple):
            items = [encode(item, _below(path, index)) for index, item in enumerate(node)]
            return items if type(node) is list else {"$tuple": items}
        if isinstance(node, dict) and type(node) in (dict, OrderedDict):
            for key in node:
                if type(key) not in (str, int):
                    raise ValueError(f"state at {path or '/'}: expected keys of str or int, got {key!r}")
            pairs = [[key, encode(value, _below(path, key))] for key, value in node.items()]
            plain = all(type(key) is str and not key.startswith("$") for key in node)
            return dict(pairs) if plain else {"$dict": pairs}
        raise ValueError(
            f"state at {path or '/'}: expected dict, list, tuple, str, int, float, bool, None or Tensor, "
            f"got {type(node).__module__}.{type(node).__qualname__}"
        )

    return tensors, encode(obj, "")


def unflatten_state(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Put together again what `flatten_state` took apart, exactly.

    Args:
        tensors: the tensors by name; names the tree does not refer to are left alone.
        tree: the JSON tree.

    Returns:
        The nested state.

    Raises:
        ValueError: where the tree refers to a tensor that is not there, or has an unknown ``$`` tag.

    """
    if isinstance(tree, list):
        return [unflatten_state(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    match tree:
        case {"$float": str(text)}:
            return float(text)
        case {"$tuple": list(items)}:
            return tuple(unflatten_state(tensors, item) for item in items)
        case {"$dict": list(pairs)}:
            for pair in pairs:
                if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)):
                    raise ValueError(f"state: expected pairs of a key and a value in $dict, got {str(pair)[:60]}")
            return {key: unflatten_state(tensors, value) for key, value in pairs}
        case {"$tensor": str(name)}:
            if name not in tensors:
                raise ValueError(f"state: expected a tensor named {name!r}, got {shortened(list(tensors))}")
            return tensors[name]
    if unknown := [key for key in tree if key.startswith("$")]:
        raise ValueError(f"state: expected $float, $tuple, $dict or $tensor, got {shortened(unknown)}")
    return {key: unflatten_state(tensors, value) for key, value in tree.items()}


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
