"""GPT-2 written by hand in JAX, as one does: layers stacked and scanned, the whole step jitted, state donated."""

import jax
import jax.numpy as jnp
import numpy as np


def layer_norm(p, x):
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    variance = x32.var(-1, keepdims=True)
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5) * p["weight"] + p["bias"]).astype(x.dtype)


def linear(p, x):
    return x @ p["weight"].astype(x.dtype) + p["bias"].astype(x.dtype)


def block(p, x, n_head):
    B, T, D = x.shape
    qkv = linear(p["attn"]["c_attn"], layer_norm(p["ln_1"], x))
    q, k, v = (y.reshape(B, T, n_head, D // n_head) for y in jnp.split(qkv, 3, -1))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, D)
    x = x + linear(p["attn"]["c_proj"], y)
    h = jax.nn.gelu(linear(p["mlp"]["c_fc"], layer_norm(p["ln_2"], x)), approximate=True)
    return x + linear(p["mlp"]["c_proj"], h)


def loss(params, tokens, targets, n_head, dtype):
    wte = params["wte"]["weight"].astype(dtype)
    x = wte[tokens] + params["wpe"]["weight"].astype(dtype)[: tokens.shape[1]]
    x, _ = jax.lax.scan(lambda x, p: (block(p, x, n_head), None), x, params["blocks"])
    logits = (layer_norm(params["ln_f"], x) @ wte.T).astype(jnp.float32)
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, targets[..., None], -1).mean()


def train_step(state, tokens, targets, step, n_head, dtype, lr=1e-4, b1=0.9, b2=0.95, eps=1e-8, decay=0.01):
    params, m, v = state
    value, grads = jax.value_and_grad(loss)(params, tokens, targets, n_head, dtype)
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, grads)
    params = jax.tree.map(
        lambda p, m, v: p - lr * (m / (1 - b1**step) / (jnp.sqrt(v / (1 - b2**step)) + eps) + decay * p), params, m, v
    )
    return (params, m, v), value


class JaxStep:
    def __init__(self, config, params: dict, batch: list[np.ndarray], dtype: str) -> None:
        tree = {name: {} for name in ("wte", "wpe", "ln_f")}
        layers = [{"ln_1": {}, "ln_2": {}, "attn": {"c_attn": {}, "c_proj": {}}, "mlp": {"c_fc": {}, "c_proj": {}}}]
        layers = [jax.tree.map(dict, layers[0], is_leaf=lambda x: x == {}) for _ in range(config.n_layer)]
        for name, x in params.items():
            *path, leaf = name.split(".")
            node = tree if path[0] != "h" else layers[int(path[1])]
            for key in path[0 if path[0] != "h" else 2 :]:
                node = node[key]
            node[leaf] = jnp.asarray(x)
        tree["blocks"] = jax.tree.map(lambda *xs: jnp.stack(xs), *layers)
        self.state = (tree, jax.tree.map(jnp.zeros_like, tree), jax.tree.map(jnp.zeros_like, tree))
        self.batch = [jnp.asarray(x.astype(np.int32)) for x in batch]
        self.update = jax.jit(
            lambda state, tokens, targets, step: train_step(
                state, tokens, targets, step, config.n_head, jnp.dtype(dtype)
            ),
            donate_argnums=0,
        )
        self.step = 0

    def __call__(self) -> float:
        self.step += 1
        self.state, value = self.update(self.state, *self.batch, np.float32(self.step))
        return float(value)
