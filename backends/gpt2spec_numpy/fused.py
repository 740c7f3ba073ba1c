"""Hand-derived gradients on autograd's tape, through its extension interface."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from autograd.extend import defvjp_argnums, primitive


def fused(forward: Callable[..., Any], backward: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """A differentiable function whose gradients are computed together.

    `forward(saved, *args)` may put what the backward needs into the dict `saved`;
    `backward(saved, g, *args)` returns the gradients of the leading args, in new arrays of their own
    (which the tape may then add to in place). Neither may write to its arguments.
    """
    operation = primitive(forward)

    def make_vjp(argnums: Sequence[int], answer: Any, args: Sequence[Any], kwargs: Any) -> Callable[[Any], Any]:
        saved, *inputs = args

        def vjp(g: Any) -> Iterator[Any]:
            gradients = backward(saved, g, *inputs)
            return (gradients[i - 1] for i in argnums)

        vjp.fresh = True  # type: ignore[attr-defined]  # read by tape.backward
        return vjp

    defvjp_argnums(operation, make_vjp)
    return lambda *args: operation({}, *args)
