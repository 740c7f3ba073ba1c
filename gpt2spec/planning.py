"""What training a GPT-2 takes on some devices: memory on each, bytes sent in a step, time. Arithmetic only.

N is the number of devices. Sources: Rajbhandari et al. 2020 (ZeRO) for what is sent and kept, Shoeybi et al. 2019
(Megatron-LM) for tensor parallelism, Korthikanti et al. 2022 for what a block keeps.
"""

from dataclasses import dataclass

from gpt2spec.config import GPT2Config
from gpt2spec.costs import BYTES, memory, training_flops_per_token
from gpt2spec.errors import ConfigError
from gpt2spec.parameters import count_parameters, split_axis, weight_table

KINDS = ("data", "sharded", "tensor")
BLOCK_VALUES = 17
"""Values of the model's width that a block keeps for its backward pass, at each position: the inputs of both norms (2)
and of the four products (1 + 1 + 1 + 4), queries, keys and values (3), the MLP's units before GELU (4), the sums of
attention (1)."""


@dataclass(frozen=True)
class Cluster:
    """Devices and the network between them.

    Attributes:
        devices: how many, N.
        parallel: "data", "sharded" or "tensor".
        flops: floating-point operations a second of a device, at most.
        bandwidth: bytes a second that a device sends while it receives as many.
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
        working_weights: bytes of weights that are gathered or cast for a while.
        activations: bytes kept for the backward pass on a device, and one block of logits.
        sent: bytes that a device sends in a step.
        compute_seconds: of a step, by operations.
        send_seconds: of a step, by bytes.
        step_seconds: of a step: the longer one where sending overlaps with computing, the sum where it cannot.
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
        """Bytes on a device, all together."""
        return self.state + self.gradients + self.working_weights + self.activations

    def training_seconds(self, tokens: float, tokens_per_step: int) -> float:
        """Of so many tokens."""
        return tokens / tokens_per_step * self.step_seconds


def plan(config: GPT2Config, cluster: Cluster, dtype: str, rows: int, context: int) -> Plan:
    """Estimates for steps of `rows` windows of `context` tokens, over all devices, computing in `dtype`."""
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
    """Bytes kept for the backward pass: `BLOCK_VALUES` D a layer and position, and a position's ends of the model."""
    positions = rows * context
    kept = positions * config.n_embd * (BLOCK_VALUES * config.n_layer + 3)
    return BYTES[dtype] * kept


def bytes_sent(config: GPT2Config, cluster: Cluster, dtype: str, rows: int, context: int) -> int:
    """Bytes that one device sends in a step without accumulation, by algorithms of rings.

    To add up x bytes over N devices and give all the sum, each sends 2 x (N - 1) / N; to gather x bytes from their
    parts, or to add up and scatter them, x (N - 1) / N. "data" adds up all gradients; "sharded" gathers the weights of
    blocks twice and the others once, and scatters gradients; "tensor" adds up four activations in every block, and two
    at the embedding, and gathers queries, keys and values forwards and backwards: the columns of `c_attn` are divided
    into N runs, which are not heads.

    With "data", XLA sends both parts of the tied embedding's gradient before it adds them: V D values more.
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
    """The part of all parameters that a device holds."""
    if cluster.parallel == "data":
        return 1.0
    if cluster.parallel == "sharded":
        return 1.0 / cluster.devices
    table = weight_table(config)
    split = sum(weight.size for weight in table if split_axis(weight.name.split(".")) is not None)
    total = count_parameters(config)
    return (split / cluster.devices + total - split) / total


def _working_weights(config: GPT2Config, cluster: Cluster, dtype: str) -> int:
    """Copies in the compute dtype; sharded, the embeddings and two blocks whole: one computes, the next is gathered."""
    held = memory(config, dtype)
    if cluster.parallel != "sharded" or cluster.devices == 1:
        return held.cast_weights
    table = weight_table(config)
    block = sum(weight.size for weight in table if weight.name.startswith("h.0."))
    rest = sum(weight.size for weight in table if not weight.name.startswith("h."))
    value = held.weights // count_parameters(config)
    return value * (rest + min(2, config.n_layer) * block)
