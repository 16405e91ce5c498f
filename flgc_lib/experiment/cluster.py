"""Tasks on the machines of a Ray cluster; docs/cluster.md says how to make one."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from flgc_lib.files import first_line

T = TypeVar("T")
PATIENCE = 10
"""Seconds to wait for an answer from the address; Ray alone would try for minutes."""
RETRIES = 3
"""How often a task is done again whose machine, or process, died."""


def each(
    work: Callable[..., T],
    tasks: Mapping[str, Any],
    address: str,
    *,
    cores: int,
    gpus: float,
    **options: Any,  # noqa: ANN401
) -> Iterator[tuple[str, T | Exception]]:
    """Does every task on some machine of the cluster, and gives what comes back as it comes.

    Args:
        work: takes a task and the options; importable on every machine of the cluster.
        tasks: what to do, by name, in the order in which machines are free.
        address: as `ray.init` takes it: host:6379 or "auto" on a machine of the cluster, ray://host:10001 elsewhere.
        cores: of a machine that a task takes.
        gpus: of a machine that a task takes; 0.25 for four tasks on one.
        options: of `work`.

    Yields:
        A task's name with what `work` gave, or with the error of a task that gave nothing, however often it was tried.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"a cluster at {address!r} needs Ray: type `pip install -e '.[cluster]'`") from error
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"there is no Ray cluster at {address!r} ({first_line(error)})") from error
    try:
        remote = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)(work)
        names = {remote.remote(task, **options): name for name, task in tasks.items()}
        while names:
            (ready,), _ = ray.wait(list(names), num_returns=1)
            try:
                outcome = ray.get(ready)
            except Exception as error:
                outcome = error
            yield names.pop(ready), outcome
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise ValueError(f"the address of a cluster is host:port, ray://host:port or auto, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"there is no Ray cluster at {address!r} ({error})") from error
