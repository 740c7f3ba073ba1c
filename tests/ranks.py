"""Several processes of one job on this machine, forked from a server that has PyTorch loaded, without `torchrun`."""

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "torch.distributed.fsdp", "gpt2spec_torch.parallel.sharded", "gpt2spec.training.loop"]
)


def run_ranks(ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """The result of `function(*args)` in each process; or the class and text of its exception; or "killed"."""
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
    found: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    while not results.empty() or any(job.is_alive() for job in jobs):
        if not results.empty():
            found |= [results.get()]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert all(job.exitcode in (0, -signal.SIGKILL) for job in jobs)
    return [found.get(rank, "killed") for rank in range(ranks)]


def _rank(
    results: Any, rank: int, ranks: int, port: int, environment: Any, function: Callable[..., Any], args: Any
) -> None:
    import torch  # the server has it

    os.environ.update(environment)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)  # what a variable asks for was read by the server
    try:
        results.put((rank, function(*args)))
    except BaseException as error:
        traceback.print_exc()
        results.put((rank, (type(error).__name__, str(error))))
