"""Processes that work side by side, each on one task after the other: one that dies takes only its own task with it.

A pool of Python's, joblib's too, is broken as a whole when one of its processes is killed, for example because memory
ran out. So each worker is a pool of one.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from flgc_lib.files import print_whatever


def each(
    work: Callable[..., tuple[str, str]],
    tasks: Mapping[str, Any],
    workers: int,
    **options: Any,  # noqa: ANN401 - passed on
) -> Iterator[tuple[str, str]]:
    """Does every task in a worker, in the order in which workers are free, and gives the outcomes as they come.

    Args:
        work: takes a task and the options; gives the task's name and, if it failed, why. It is importable, as are its
            arguments.
        tasks: what to do, by name.
        workers: how many at once; one is this process itself.
        options: for all of them.

    Yields:
        What `work` gives. The task of a worker that died is done once more; then it has failed.
    """
    if workers == 1:
        yield from (work(task, **options) for task in tasks.values())
        return
    waiting = [(name, False) for name in reversed(list(tasks))]
    free = [_worker() for _ in range(min(workers, len(tasks)))]
    at_work: dict[Future[tuple[str, str]], tuple[ProcessPoolExecutor, str, bool]] = {}
    while waiting or at_work:
        while free and waiting:
            worker = free.pop()
            name, again = waiting.pop()
            at_work[worker.submit(work, tasks[name], **options)] = (worker, name, again)
        # On Windows Ctrl-C does not end a waiting without an end.
        for future in wait(at_work, timeout=1, return_when=FIRST_COMPLETED).done:
            worker, name, again = at_work.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                free.append(_worker())
                worker.shutdown(wait=False)
                if not again:
                    print(f"{name}: its worker was killed, for example because memory ran out; once more", flush=True)
                    waiting.append((name, True))
                    continue
                outcome = name, "its worker was killed twice; with fewer workers there is more memory for each"
            else:
                free.append(worker)
            yield outcome
    for worker in free:
        worker.shutdown()


def _worker() -> ProcessPoolExecutor:
    # Not forked: threads of PyTorch do not survive that.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_belong_to_parent)


def _belong_to_parent() -> None:
    """Ends this process when its parent ends, however that ends, leaves Ctrl-C to the parent, and prints as it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print_whatever()
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # in the middle of whatever it does: files are written whole, checkpoints after each epoch

    threading.Thread(target=follow, daemon=True).start()
