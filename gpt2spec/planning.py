"""This module estimates training on several devices: memory on each, bytes sent in a step, and time.

N is the number of devices. Sources: Rajbhandari et al. 2020 (ZeRO) for memory and bytes sent, Shoeybi et al. 2019
(Megatron-LM) for tensor parallelism, Korthikanti et al. 2022 for the activations of a block.
"""

from dataclasses import dataclass

from gpt2spec.config import GPT2Config
from gpt2spec.costs import BYTES, memory, training_flops_per_token
from gpt2spec.errors import ConfigError
from gpt2spec.parameters import count_parameters, split_axis, weight_table

KINDS = ("data", "sharded", "tensor")
BLOCK_VALUES = 17
"""Vectors of the model's width that a block keeps for its backward pass at each position.

These are the inputs of both norms (2) and of the four products (1 + 1 + 1 + 4), queries, keys and values (3), the MLP's
units before GELU (4), and the sums of attention (1).
"""


@dataclass(frozen=True)
class Cluster:
    """Devices and the network between them.

    Attributes:
        devices: the number of devices, N.
        parallel: "data", "sharded" or "tensor".
        flops: the most floating-point operations per second of a device.
        bandwidth: bytes per second that a device sends while it receives as many.
        utilization: the share of `flops` that the model's operations reach while nothing waits.
    """

    devices: int = 1
    parallel: str = "data"
    flops: float = 1e12
    bandwidth: float = 1e10
    utilization: float = 0.4

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"there is at least 1 device, not {self.devices}")
        if self.parallel not in KINDS:
            raise ConfigError(f"devices share the work as {', '.join(KINDS)}, not as {self.parallel!r}")
        if not (self.flops > 0.0 and self.bandwidth > 0.0):
            raise ConfigError("operations and bytes a second are above 0")
        if not 0.0 < self.utilization <= 1.0:
            raise ConfigError(f"the utilization lies above 0 and at most at 1, not at {self.utilization}")


@dataclass(frozen=True)
class Plan:
    """Estimates of a training run on a cluster.

    Attributes:
        state: bytes of parameters and moments on a device.
        gradients: bytes of gradients on a device.
        working_weights: bytes of weights that are temporarily gathered or cast.
        activations: bytes kept for the backward pass on a device, and one block of logits.
        sent: bytes that a device sends in a step.
        compute_seconds: the time of a step's operations.
        send_seconds: the time of sending a step's bytes.
        step_seconds: the time of a step: the longer of both if sending overlaps with computing, otherwise their sum.
    """

    state: int
    gradients: int
    working_weights: int
    activations: int
    sent: int
    compute_seconds: float
    send_seconds: float
    step_seconds: float

    @property
    def memory(self) -> int:
        """All bytes on a device."""
        return self.state + self.gradients + self.working_weights + self.activations

    def training_seconds(self, tokens: float, tokens_per_step: int) -> float:
        """The time of training on so many tokens."""
        return tokens / tokens_per_step * self.step_seconds


def plan(config: GPT2Config, cluster: Cluster, dtype: str, rows: int, context: int) -> Plan:
    """Estimate steps of `rows` windows of `context` tokens, over all devices, with the compute dtype `dtype`."""
    N, held = cluster.devices, memory(config, dtype)
    divided = _share(config, cluster)
    local_rows = rows if cluster.parallel == "tensor" else -(-rows // N)
    flops = training_flops_per_token(config, context) * rows * context / N
    compute = flops / (cluster.flops * cluster.utilization)
    sent = bytes_sent(config, cluster, dtype, rows, context)
    sending = sent / cluster.bandwidth
    overlaps = cluster.parallel != "tensor"
    return Plan(
        state=round((held.weights + held.adamw) * divided),
        gradients=round(held.gradients * divided),
        working_weights=_working_weights(config, cluster, dtype),
        activations=activations(config, dtype, local_rows, context) // (N if cluster.parallel == "tensor" else 1),
        sent=sent,
        compute_seconds=compute,
        send_seconds=sending,
        step_seconds=max(compute, sending) if overlaps else compute + sending,
    )


def activations(config: GPT2Config, dtype: str, rows: int, context: int) -> int:
    """Bytes kept for the backward pass: at each position, `BLOCK_VALUES` D per layer and 3 D outside the layers."""
    positions = rows * context
    kept = positions * config.n_embd * (BLOCK_VALUES * config.n_layer + 3)
    return BYTES[dtype] * kept


def bytes_sent(config: GPT2Config, cluster: Cluster, dtype: str, rows: int, context: int) -> int:
    """Bytes that one device sends in a step without accumulation, with ring algorithms.

    Each device sends 2 x (N - 1) / N bytes to all-reduce x bytes over N devices, and x (N - 1) / N bytes to all-gather
    or reduce-scatter them. "data" all-reduces all gradients. "sharded" gathers the weights of blocks twice and the
    others once, and scatters gradients. "tensor" all-reduces four activations in every block and two at the embedding,
    and gathers queries, keys and values in the forward and backward pass, because the columns of `c_attn` are divided
    into N runs, which are not heads.

    With "data", XLA sends V D values more, because it sends both gradients of the tied embedding before it adds them.
    """
    N = cluster.devices
    ring = (N - 1) / N
    table = weight_table(config)
    value = BYTES["float64" if dtype == "float64" else "float32"]
    total = value * count_parameters(config)
    blocks = value * sum(weight.size for weight in table if weight.name.startswith("h."))
    if cluster.parallel == "data":
        return round(2 * ring * total)
    if cluster.parallel == "sharded":
        return round(ring * (total + blocks + total))
    activation = BYTES[dtype] * rows * context * config.n_embd
    added, gathered = 4 * config.n_layer + 2, 2 * 3 * config.n_layer
    return round(ring * activation * (2 * added + gathered))


def _share(config: GPT2Config, cluster: Cluster) -> float:
    """The share of all parameters that a device holds."""
    if cluster.parallel == "data":
        return 1.0
    if cluster.parallel == "sharded":
        return 1.0 / cluster.devices
    table = weight_table(config)
    split = sum(weight.size for weight in table if split_axis(weight.name.split(".")) is not None)
    total = count_parameters(config)
    return (split / cluster.devices + total - split) / total


def _working_weights(config: GPT2Config, cluster: Cluster, dtype: str) -> int:
    """Bytes of copies in the compute dtype. Sharded training holds the embeddings and two blocks whole at a time."""
    held = memory(config, dtype)
    if cluster.parallel != "sharded" or cluster.devices == 1:
        return held.cast_weights
    table = weight_table(config)
    block = sum(weight.size for weight in table if weight.name.startswith("h.0."))
    rest = sum(weight.size for weight in table if not weight.name.startswith("h."))
    value = held.weights // count_parameters(config)
    return value * (rest + min(2, config.n_layer) * block)
