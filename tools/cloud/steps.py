# SPDX-License-Identifier: Apache-2.0
"""Steps that need one another, run side by side where they do not, and remembered when done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from cloud.errors import CloudError
from cloud.layout import write_private
from cloud.progress import Progress


@dataclass(frozen=True)
class Step:
    """One thing to do.

    ``needs`` names the steps that come first.  ``stamp`` makes the step happen once: it is
    skipped when the last success carried the same stamp; without one it runs at every ``up``
    and must be idempotent.  ``run`` returns False when there was nothing to do.
    """

    name: str
    run: Callable[[], bool | None]
    needs: tuple[str, ...] = ()
    stamp: str = ""


def fingerprint(*parts: str | bytes | Path) -> str:
    """A short digest of texts and file contents, for stamps."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes() if part.is_file() else b"-"
        elif isinstance(part, str):
            part = part.encode()
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


class Runner:
    """Runs steps in the order of their needs, several at a time."""

    def __init__(self, done: Path, progress: Progress, workers: int = 8) -> None:
        self._done = done
        self._progress = progress
        self._workers = workers

    def run(self, steps: Sequence[Step]) -> None:
        """Run all ``steps``.

        After a failure no further step starts; those that run are waited for.  Raises the
        first CloudError; anything else that a step raises is passed on as it is.
        """
        check_graph(steps)
        waiting = list(steps)
        finished: set[str] = set()
        running: dict[Future[None], Step] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._workers, "step") as pool:
            while waiting or running:
                if failure is None:
                    ready = [step for step in waiting if finished.issuperset(step.needs)]
                    for step in ready[: self._workers - len(running)]:
                        waiting.remove(step)
                        running[pool.submit(self._perform, step)] = step
                if not running:
                    break
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    step = running.pop(future)
                    error = future.exception()
                    if error is None:
                        finished.add(step.name)
                    elif failure is None:
                        failure = error
        if failure is not None:
            raise failure

    def _perform(self, step: Step) -> None:
        stamp = self._done / step.name.replace("/", "-").replace(" ", "-")
        if step.stamp and stamp.is_file() and stamp.read_text() == step.stamp:
            return
        self._progress.begin(step.name)
        try:
            changed = step.run()
        except OSError as error:
            self._progress.end(step.name, "FAIL")
            raise CloudError(f"the step '{step.name}' failed: {error}.",
                             remedy="set that right, then run 'quickstart up' again") from error
        except BaseException:
            self._progress.end(step.name, "FAIL")
            raise
        if step.stamp:
            write_private(stamp, step.stamp)
        self._progress.end(step.name, "" if changed is False else "ok")


def check_graph(steps: Sequence[Step]) -> None:
    """Raise ValueError when a name is used twice, a need is unknown, or needs form a circle."""
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise ValueError(f"two steps share a name: {sorted(names)}")
    open_needs = {step.name: set(step.needs) for step in steps}
    for name, needs in open_needs.items():
        if missing := needs - set(names):
            raise ValueError(f"step {name!r} needs {sorted(missing)}, which are not in the plan")
    while open_needs:
        free = [name for name, needs in open_needs.items() if not needs]
        if not free:
            raise ValueError(f"these steps need each other: {sorted(open_needs)}")
        for name in free:
            del open_needs[name]
        for needs in open_needs.values():
            needs.difference_update(free)


