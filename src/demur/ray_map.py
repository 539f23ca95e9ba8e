"""Work over Ray Data: a pool of processes that outlives none of its blocks' results.

Blocks go in as rows of a Ray dataset and come out of an actor pool, one row each. Ray starts a dead worker again and
gives it its block again; here each block's result counts once, and they are put back into order. Nothing is sent to
Ray's makers, no dashboard is started, and a cluster started here listens on loopback alone.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from demur import registry
from demur.engines import Ray
from demur.errors import ConfigError, DataError, DemurError, ModelError, Unavailable, one_line

EXTRA = "ray"
T = TypeVar("T")
R = TypeVar("R")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints what becomes of workers on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node that others may join listens on every interface
    "RAY_worker_niceness": "0",  # Ray's own is 15, under which workers starve beside any other process
}
"""Read by Ray when it is imported, for a cluster of this process's own."""
LOOPBACK = "127.0.0.1"
STORE = 256 * 2**20
"""Bytes of shared memory for blocks under way; more go to disk."""
IN_HAND = 2
"""Blocks that a worker holds: the one at work and the next."""
_KINDS: tuple[type[DemurError], ...] = (ConfigError, Unavailable, DataError, ModelError)


class RayMap:
    """The engine `ray`, started by the first work it is given; see `engines.Mapper`."""

    def __init__(self, how: Ray) -> None:
        if registry.missing(EXTRA):
            raise Unavailable(f"engine ray is not installed: {registry.install_hint(EXTRA)}")
        self.how = how
        self.block = how.block
        self.spent: Any = None
        self._home: Path | None = None
        self._started = False

    def __enter__(self) -> RayMap:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            import ray

            ray.shutdown()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def __call__(self, work: Callable[[list[T]], R], blocks: Iterable[list[T]], /) -> Iterator[R]:
        """Yield `work(block)` for each block, in order.

        Raises:
            ConfigError, DataError, ModelError, Unavailable: what a worker met, or a worker that dies on its block
                again and again, or a cluster that cannot be reached.
        """
        rows = [{"place": place, "block": pickle.dumps(block)} for place, block in enumerate(blocks)]
        if not rows:
            return
        self._start()
        waiting: dict[int, Any] = {}
        due = 0
        for place, result in self._results(pickle.dumps((registry.outside(), pickle.dumps(work))), rows):
            if place < due or place in waiting:
                continue
            waiting[place] = result
            while due in waiting:
                yield self._taken(waiting.pop(due))
                due += 1
        if due < len(rows):
            raise DataError(f"engine ray: block {due} of {len(rows)} did not come back; run again to go on")

    def _start(self) -> None:
        """Connect to the cluster, or start one."""
        os.environ.update(QUIET)
        if not self.how.address:
            os.environ.update(ALONE)
        import ray
        import ray.data

        if ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        own: dict[str, Any] = {"address": self.how.address}
        if not self.how.address:
            self._home = Path(tempfile.mkdtemp(prefix="demur-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
            cores = max(1, round(self.how.workers * self.how.cpus + 0.49))
            own = {"address": "local", "num_cpus": cores, "include_dashboard": False, "_temp_dir": str(self._home)}
            own["object_store_memory"] = STORE
        try:
            ray.init(**own, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise Unavailable(f"engine ray: no cluster at {self.how.address or 'this machine'}: {error}") from None
        self._started = True
        where = ray.util.get_node_ip_address()
        if not self.how.address and where != LOOPBACK:
            raise Unavailable(
                f"engine ray: Ray would listen on {where}, since it was imported before this engine was opened; open "
                "the engine first, or start a cluster and name it (address=…)"
            )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False

    def _results(self, packed: bytes, rows: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        """Yield (place, result) in the order in which blocks are done."""
        import ray

        size = min(self.how.workers, len(rows))
        pool = ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_HAND)
        again: Callable[[], dict[str, Any]] = functools.partial(
            dict, max_restarts=-1, max_task_retries=self.how.retries
        )
        with warnings.catch_warnings():  # Ray 2.60: to go in 2.64, and no other way to limit retries
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
            made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Worker,
                fn_constructor_args=(packed,),
                batch_size=1,
                compute=pool,
                num_cpus=self.how.cpus,
                num_gpus=self.how.gpus or None,
                ray_remote_args_fn=again,
            )
        try:
            for batch in made.iter_batches(batch_size=None, prefetch_batches=0):
                for place, result in zip(batch["place"], batch["result"], strict=True):
                    yield int(place), pickle.loads(result)
        except ray.exceptions.RayError as error:
            why = f"its worker died more than {self.how.retries} times" if "died" in str(error) else one_line(error)
            raise ModelError(
                f"engine ray: a block could not be done: {why}; run again to go on, with smaller blocks (block=…) or "
                "fewer workers where memory ran out"
            ) from None

    def _taken(self, result: tuple[str, Any, Any]) -> Any:
        """Return what a block gave, its cost counted; raise what its worker met."""
        kind, made, spent = result
        if kind == "made":
            if spent is not None:
                self.spent = spent if self.spent is None else self.spent + spent
            return made
        raise next((known for known in _KINDS if known.__name__ == kind), ModelError)(made)


class Worker:
    """One process of the pool."""

    def __init__(self, packed: bytes) -> None:
        """Keep the work for the first block to unpack: what fails there is told, and not tried again."""
        self.packed = packed

    @functools.cached_property
    def work(self) -> Any:
        """What is done with a block; models are loaded by its first call."""
        outside, work = pickle.loads(self.packed)
        for name, path in outside:
            registry.load_outside(name, path)
        return pickle.loads(work)

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Do one block; an error is a result too, since Ray would do the block again."""
        try:
            before = getattr(self.work, "spent", None)
            made = self.work(pickle.loads(batch["block"][0]))
            result = ("made", made, None if before is None else self.work.spent - before)
        except DemurError as error:
            result = (next(k.__name__ for k in _KINDS if isinstance(error, k)), str(error), None)
        except Exception as error:
            result = ("error", f"engine ray: a worker failed: {one_line(error)}", None)
        return {"place": batch["place"], "result": [pickle.dumps(result)]}
