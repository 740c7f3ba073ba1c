"""This package turns text into token shards and token shards into batches, also for corpora larger than memory.

Both steps are deterministic, and both can be resumed.
"""

from gpt2spec.data.batches import Batch, Batches, validation_batches
from gpt2spec.data.corpus import PrepareOptions
from gpt2spec.data.dataset import Dataset, open_dataset, open_prepared
from gpt2spec.data.manifest import Manifest, read_manifest
from gpt2spec.data.prepare import prepare
from gpt2spec.data.shards import Tokens, read_shard, write_shard

__all__ = [
    "Batch",
    "Batches",
    "Dataset",
    "Manifest",
    "PrepareOptions",
    "Tokens",
    "open_dataset",
    "open_prepared",
    "prepare",
    "read_manifest",
    "read_shard",
    "validation_batches",
    "write_shard",
]
