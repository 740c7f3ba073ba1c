"""Several processes of one job on this machine, without `torchrun`: forked from a server that has PyTorch loaded."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torch.distributed.fsdp", "gpt2spec_torch.sharded", "gpt2spec.training.loop"])


def run_ranks(ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """What `function(*args)` returned in each process, or the exception's class and text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = SERVER.SimpleQueue()
    jobs = [
        SERVER.Process(target=_rank, args=(results, rank, ranks, port, dict(os.environ), function, args))
        for rank in range(ranks)
    ]
    for job in jobs:
        job.start()
    found = dict(results.get() for _ in jobs)
    for job in jobs:
        job.join(timeout)
        assert job.exitcode == 0
    return [found[rank] for rank in range(ranks)]


def _rank(
    results: Any, rank: int, ranks: int, port: int, environment: Any, function: Callable[..., Any], args: Any
) -> None:
    os.environ.update(environment)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    try:
        results.put((rank, function(*args)))
    except BaseException as error:
        traceback.print_exc()
        results.put((rank, (type(error).__name__, str(error))))
