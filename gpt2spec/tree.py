"""Trees are nested dicts and lists of tensors; parameters, gradients and optimizer state on a device are trees.

A tree is a dict, a list, or a leaf (anything else). Dicts keep their insertion order.
"""

from collections.abc import Callable, Iterator
from typing import Any

Tree = dict[str, Any]
"""A dict whose values are tensors, or trees, or lists of trees. What backends do with `blocks` is their own affair."""


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree of `function(leaf, *leaves of the others)`. All trees must have the same structure."""
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, list):
        return [tree_map(function, *items) for items in zip(tree, *others, strict=True)]
    return function(tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in order."""
    return [leaf for _, leaf in named_leaves(tree)]


def tree_unflatten(tree: Any, leaves: list[Any]) -> Any:
    """A tree with the structure of `tree` and the given `leaves`, in the order of `tree_leaves`."""
    remaining = iter(leaves)
    return tree_map(lambda _: next(remaining), tree)


def named_leaves(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) pairs in order; a path holds dict keys and list indices as strings."""
    if isinstance(tree, (dict, list)):  # a tuple, because compilers that trace Python do not all know `|`
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from named_leaves(value, (*prefix, str(key)))
    else:
        yield prefix, tree
