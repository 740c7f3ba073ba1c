"""Trees of dicts and lists are flattened and rebuilt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.tree import Tree, named_leaves, tree_leaves, tree_map, tree_unflatten

TREES = st.recursive(
    st.integers(), lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=3), t, max_size=3), max_leaves=9
)


@given(TREES)
def test_leaves_go_back_where_they_came_from(tree: Tree) -> None:
    assert tree_unflatten(tree, tree_leaves(tree)) == tree


@given(TREES)
def test_map_meets_the_leaves_in_order_and_pairs_them(tree: Tree) -> None:
    doubled = tree_map(lambda x: 2 * x, tree)
    assert tree_leaves(doubled) == [2 * x for x in tree_leaves(tree)]
    assert tree_map(lambda x, y: y - x, tree, doubled) == tree


def test_paths_are_keys_and_indices_in_insertion_order() -> None:
    tree = {"b": [{"x": 1}, 2], "a": 3, "none": []}
    assert list(named_leaves(tree)) == [(("b", "0", "x"), 1), (("b", "1"), 2), (("a",), 3)]


def test_dicts_are_paired_by_key_and_not_by_order() -> None:
    assert tree_map(lambda x, y: (x, y), {"a": 1, "b": 2}, {"b": 20, "a": 10}) == {"a": (1, 10), "b": (2, 20)}


def test_trees_of_other_structure_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        tree_map(lambda x, y: x, [1, 2], [1])
    with pytest.raises(KeyError):
        tree_map(lambda x, y: x, {"a": 1}, {"b": 1})
