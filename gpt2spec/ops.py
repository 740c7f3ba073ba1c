"""The operations GPT-2 is written in.

`TensorOps` has two tiers. The *required primitives* are abstract and named as in the Python array API
standard; tensors also overload `+ - * /`, comparisons and basic slicing. The
*composites* are defined here in terms of primitives, and read like the formulas they stand for; a backend may
override any of them with its framework's fused kernel, which must then agree with the definition here.

Tensors are the framework's own; this module uses nothing of them beyond `.shape`. Every dtype, axis and epsilon is
passed explicitly. Python scalars take the dtype of the tensor that they are combined with.
Shapes: B rows, T positions, D width, H heads, d head width, V vocabulary, C cache capacity.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gpt2spec.parameters import is_layer_norm
from gpt2spec.tree import Tree, named_leaves, tree_unflatten


class Tensor(Protocol):
    """A tensor of whatever framework runs: this is all that the core does with one, but for `TensorOps`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The extent of each axis."""

    def __getitem__(self, index: Any, /) -> Tensor: ...
    def __add__(self, other: Tensor | float, /) -> Tensor: ...
    def __radd__(self, other: float, /) -> Tensor: ...
    def __sub__(self, other: Tensor | float, /) -> Tensor: ...
    def __rsub__(self, other: float, /) -> Tensor: ...
    def __mul__(self, other: Tensor | float, /) -> Tensor: ...
    def __rmul__(self, other: float, /) -> Tensor: ...
    def __truediv__(self, other: Tensor | float, /) -> Tensor: ...
    def __rtruediv__(self, other: float, /) -> Tensor: ...
    def __lt__(self, other: Tensor | float, /) -> Tensor: ...
    def __le__(self, other: Tensor | float, /) -> Tensor: ...
    def __gt__(self, other: Tensor | float, /) -> Tensor: ...
    def __ge__(self, other: Tensor | float, /) -> Tensor: ...
    def __eq__(self, other: Tensor | float, /) -> Tensor: ...  # type: ignore[override]


class Key(Protocol):
    """Where random numbers come from: opaque, made by `Backend.dropout_key` and split by `TensorOps.fold_in`."""


NativeTensor = Any
"""A tensor to the code of its own framework, which knows more of it than `Tensor` says."""
NativeKey = Any
"""A key to the code of the backend that made it."""


class AdamWScalars(NamedTuple):
    """The numbers of one AdamW update, which are the same for all tensors.

    Attributes:
        scale: the factor that clips gradients.
        lr: the learning rate.
        update: t = 1, 2, ..., for kernels that compute the corrections themselves.
        correction1: 1 - beta1^t, which corrects the bias of the first moment.
        correction2: 1 - beta2^t, which corrects the bias of the second moment.
        beta1: the decay of the first moment.
        beta2: the decay of the second moment.
        epsilon: is added to the root of the second moment.
    """

    scale: Tensor | float
    lr: Tensor
    update: Tensor
    correction1: Tensor
    correction2: Tensor
    beta1: float
    beta2: float
    epsilon: float


class TensorOps(ABC):
    """The tensor operations of one backend, which computes in one dtype.

    Attributes:
        dtype: the dtype of activations: "float32", "bfloat16" or "float64".
        reduce_dtype: the dtype in which layer norm, softmax and losses are reduced, at least float32.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.reduce_dtype = "float64" if dtype == "float64" else "float32"

    # ------------------------------------------------------------------ required: creation and type

    @abstractmethod
    def asarray(self, values: Any, dtype: str) -> Tensor:
        """A tensor on the backend's device from a NumPy array or Python number."""

    @abstractmethod
    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:
        """A tensor filled with `value`."""

    @abstractmethod
    def arange(self, stop: int) -> Tensor:
        """int32 [stop]: 0, 1, ..., stop - 1."""

    @abstractmethod
    def astype(self, x: Tensor, dtype: str) -> Tensor:
        """Convert `x` to `dtype`; `x` itself if it has that dtype. Differentiable."""

    @abstractmethod
    def stop_gradient(self, x: Tensor) -> Tensor:
        """`x`, treated as a constant by `Backend.value_and_grad`."""

    # ------------------------------------------------------------------ required: shape and indexing

    @abstractmethod
    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The values of `x` in row-major order under another shape; one extent may be -1."""

    @abstractmethod
    def permute_dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Transposition: axis i of the result is axis `axes[i]` of `x`."""

    @abstractmethod
    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        """Tensors joined along an existing axis."""

    @abstractmethod
    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """Entries of `x` along `axis`: that axis is replaced by the shape of `indices`.

        Gradients of an entry taken several times add up. Indices are within range.
        """

    @abstractmethod
    def take_along_axis(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """`x[..., indices[...], ...]`: one index per line along `axis`; other extents are equal."""

    # ------------------------------------------------------------------ required: arithmetic

    @abstractmethod
    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product of the last two axes; leading axes broadcast."""

    @abstractmethod
    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """`a` where `condition` holds and `b` elsewhere; at least one of them is a tensor."""

    @abstractmethod
    def exp(self, x: Tensor) -> Tensor:
        """e ** x."""

    @abstractmethod
    def log(self, x: Tensor) -> Tensor:
        """Natural logarithm."""

    @abstractmethod
    def sqrt(self, x: Tensor) -> Tensor:
        """Square root."""

    @abstractmethod
    def tanh(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""

    # ------------------------------------------------------------------ required: along an axis

    @abstractmethod
    def sum(self, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
        """Sum over one axis, or over all of them (`None`)."""

    @abstractmethod
    def max(self, x: Tensor, axis: int, keepdims: bool) -> Tensor:
        """Largest value along an axis."""

    @abstractmethod
    def argmax(self, x: Tensor, axis: int) -> Tensor:
        """int32 position of the largest value along an axis; the lowest position on ties."""

    @abstractmethod
    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:
        """Running sum along an axis, the first value included, in the dtype of `x`."""

    @abstractmethod
    def sort(self, x: Tensor, axis: int, descending: bool) -> Tensor:
        """Values in order along an axis."""

    @abstractmethod
    def argsort(self, x: Tensor, axis: int, descending: bool) -> Tensor:
        """int32 positions that put `x` in order; equal values keep theirs (stable)."""

    # ------------------------------------------------------------------ required: randomness, for dropout only

    @abstractmethod
    def fold_in(self, key: Key, index: int | Tensor) -> Key:
        """Derive the key number `index` from `key`. Stateful generators may return `key`."""

    @abstractmethod
    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:
        """float32 numbers in [0, 1), which are independent for different keys."""

    # ------------------------------------------------------------------ composites: parts of a block

    def mean(self, x: Tensor, axis: int) -> Tensor:
        """The arithmetic mean along an axis, which is kept with length 1."""
        return self.sum(x, axis, keepdims=True) / x.shape[axis]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x W + b: [..., in] x [in, out] -> [..., out]."""
        return self.matmul(x, weight) + bias

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """(x - mean) / sqrt(var + epsilon) * weight + bias over the last axis, with the biased variance."""
        x = self.astype(x, self.reduce_dtype)
        centred = x - self.mean(x, -1)
        variance = self.mean(centred * centred, -1)
        y = centred / self.sqrt(variance + epsilon) * weight + bias
        return self.astype(y, self.dtype)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016, the tanh form)."""
        return 0.5 * x * (1.0 + self.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))

    def softmax(self, x: Tensor) -> Tensor:
        """exp(x) / sum(exp(x)) over the last axis. Each line has at least one finite value."""
        x = self.exp(x - self.stop_gradient(self.max(x, -1, keepdims=True)))
        return x / self.sum(x, -1, keepdims=True)

    def split_heads(self, x: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split `c_attn`'s output into queries, keys and values by head: [B, T, 3D] -> 3 x [B, H, T, d]."""
        B, T, width = x.shape
        x = self.permute_dims(self.reshape(x, (B, T, 3, n_head, width // 3 // n_head)), (2, 0, 3, 1, 4))
        return x[0], x[1], x[2]

    def merge_heads(self, x: Tensor) -> Tensor:
        """Concatenate heads: [B, H, T, d] -> [B, T, D]."""
        B, H, T, d = x.shape
        return self.reshape(self.permute_dims(x, (0, 2, 1, 3)), (B, T, H * d))

    def causal_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        start: Tensor | None = None,
        dropout: float = 0.0,
        key: Key | None = None,
    ) -> Tensor:
        """softmax(Q K^T / sqrt(d) + mask) V: [B, H, T, d] and 2 x [B, H, S, d] -> [B, H, T, d].

        The mask is 0 where a query may attend and -inf elsewhere. Query i is at position `start[b] + i` and attends to
        the keys up to its own position; without `start`, all rows start at 0.
        """
        T, S, d = q.shape[2], k.shape[2], q.shape[3]
        scores = self.matmul(q, self.permute_dims(k, (0, 1, 3, 2)))  # [B, H, T, S]
        scores = self.astype(scores, self.reduce_dtype) / math.sqrt(d)
        position = self.reshape(self.arange(T), (1, 1, T, 1))
        if start is not None:
            position = position + self.reshape(start, (-1, 1, 1, 1))  # [B, 1, T, 1]
        visible = self.reshape(self.arange(S), (1, 1, 1, S)) <= position
        weights = self.astype(self.softmax(self.where(visible, scores, -math.inf)), self.dtype)
        return self.matmul(self.dropout(weights, dropout, key), v)

    def dropout(self, x: Tensor, rate: float, key: Key | None) -> Tensor:
        """Zero with probability `rate`, otherwise x / (1 - rate). Without a key, nothing is dropped."""
        if key is None or rate == 0.0:
            return x
        return self.where(self.random_uniform(key, x.shape) >= rate, x / (1.0 - rate), 0.0)

    # ------------------------------------------------------------------ composites: head and loss

    def unembed(self, x: Tensor, wte: Tensor) -> Tensor:
        """x W_e^T, the logits of the tied head, in `reduce_dtype`: [..., D] x [V, D] -> [..., V]."""
        return self.astype(self.matmul(x, self.permute_dims(wte, (1, 0))), self.reduce_dtype)

    def log_sum_exp(self, x: Tensor) -> Tensor:
        """log(sum(exp(x))) over the last axis, which is kept with length 1."""
        peak = self.stop_gradient(self.max(x, -1, keepdims=True))
        return self.log(self.sum(self.exp(x - peak), -1, keepdims=True)) + peak

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(logits)[target] in nats: [..., V] and [...] -> [...]."""
        index = self.reshape(targets, (*targets.shape, 1))
        return (self.log_sum_exp(logits) - self.take_along_axis(logits, index, -1))[..., 0]

    def head_cross_entropy(self, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the tied head: [B, T, D], [V, D] and [B, T] -> [].

        This is one operation so that a backend need not hold [B, T, V].
        """
        losses = self.cross_entropy(self.unembed(x, wte), targets)  # [B, T]
        return self.sum(losses, None, keepdims=False) / math.prod(targets.shape)

    # ------------------------------------------------------------------ composites: layers and cache

    def compute_params(self, params: Tree) -> Tree:
        """Cast parameters to the compute dtype, except layer norms, which are computed in their own dtype."""
        leaves = [leaf if is_layer_norm(path) else self.astype(leaf, self.dtype) for path, leaf in named_leaves(params)]
        return tree_unflatten(params, leaves)

    def stack_layers(self, layers: list[Tree]) -> Any:
        """Combine the trees of all layers into one value, over which `scan_blocks` can run."""
        return layers

    def unstack_layers(self, stacked: Any) -> list[Tree]:
        """The exact inverse of `stack_layers`."""
        return list(stacked)

    def scan_blocks(
        self, block: Callable[..., tuple[Any, ...]], x: Tensor, *stacked: Any, **shared: Any
    ) -> tuple[Any, ...]:
        """Run `x, *outs = block(x, i, *trees of layer i, **shared)` for each layer in turn.

        Returns the last x, and each out of the block stacked over the layers. If the trees are lists of layers, as in
        decoding, the outs are lists, too, so that each tensor can be updated in place. `shared` is passed to all
        blocks: the `config`, and in decoding `start` [B] and `length`.
        """
        as_lists = all(isinstance(trees, list) for trees in stacked)
        outs = []
        for i, trees in enumerate(zip(*(stacked if as_lists else map(self.unstack_layers, stacked)), strict=True)):
            x, *out = block(x, i, *trees, **shared)
            outs.append(out)
        columns = [list(column) for column in zip(*outs, strict=True)]
        return x, *(columns if as_lists else map(self.stack_layers, columns))

    def cache_write(self, cache: Tensor, new: Tensor, start: Tensor | None) -> Tensor:
        """Write row b's `new` keys or values to slots start[b], start[b] + 1, ... of the cache, or to 0, 1, ...

        [B, H, C, d], [B, H, T, d] and [B] -> [B, H, C, d]. All slots are below C.
        """
        C, T = cache.shape[2], new.shape[2]
        if start is None:
            return new if T == C else self.concat([new, cache[:, :, T:]], 2)
        slot = self.reshape(start, (-1, 1, 1)) + self.reshape(self.arange(T), (1, 1, T))  # [B, 1, T]
        hit = self.astype(self.reshape(self.arange(C), (1, C, 1)) == slot, self.dtype)  # [B, C, T]
        hit = self.reshape(hit, (-1, 1, C, T))
        return self.where(self.sum(hit, -1, keepdims=True) > 0, self.matmul(hit, new), cache)

    def select_rows(self, cache: list[Tree], rows: Tensor) -> list[Tree]:
        """The cache of every layer with row i replaced by row `rows[i]`; the number of rows [B'] may differ from B."""
        return [{name: self.take(c, rows, 0) for name, c in layer.items()} for layer in cache]

    # ------------------------------------------------------------------ composites: optimizer

    def zeros_like(self, x: Tensor) -> Tensor:
        """Zeros in the shape of the parameter `x` and in `reduce_dtype`, for moments and sums of gradients."""
        return self.full(x.shape, 0.0, self.reduce_dtype)

    def accumulate(self, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Add each gradient to its total. The old totals may be overwritten where the state may."""
        return [total + gradient for total, gradient in zip(totals, gradients, strict=True)]

    def global_norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm over all values of all tensors: -> []."""
        total = self.full((), 0.0, self.reduce_dtype)
        for x in tensors:
            x = self.astype(x, self.reduce_dtype)
            total = total + self.sum(x * x, None, keepdims=False)
        return self.sqrt(total)

    def adamw_update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        decay: list[float],
        s: AdamWScalars,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """One AdamW update of many tensors (Loshchilov & Hutter 2019). Returns new params, m and v.

            g = scale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
            theta = theta - lr ((m / correction1) / (sqrt(v / correction2) + epsilon) + decay theta)

        The scalars are those of `s`; each tensor has its own `decay`. The old tensors may be overwritten.
        """

        def update_one(p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float) -> tuple[Tensor, Tensor, Tensor]:
            g = s.scale * g
            m = s.beta1 * m + (1.0 - s.beta1) * g
            v = s.beta2 * v + (1.0 - s.beta2) * (g * g)
            direction = (m / s.correction1) / (self.sqrt(v / s.correction2) + s.epsilon)
            return p - s.lr * (direction + decay * p), m, v

        updated = [update_one(*tensors) for tensors in zip(params, grads, m, v, decay, strict=True)]
        new_params, new_m, new_v = (list(column) for column in zip(*updated, strict=True))
        return new_params, new_m, new_v
