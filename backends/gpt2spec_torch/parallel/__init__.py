"""Training in several processes that `torchrun` starts; in each, `gpt2spec_torch.create` makes one of these backends.

- `processes`: how the processes meet, agree and leave;
- `data_parallel`: each process has all weights and its own rows of a batch;
- `sharded`: each process has a shard of every weight, gradient and moment, and its own rows of a batch.
"""
