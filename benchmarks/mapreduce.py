"""Map-reduce over references, as in the memory benchmark of the paper on proxy patterns (arXiv 2407.01764): a driver.

Each round puts large inputs, maps each in a worker process to an output a tenth as large, and reduces those to one a
tenth as large again. A Manner says how objects travel and when they end; whoever measures watches from outside:
`python -m benchmarks.mapreduce '{"manner": ...}'` says `ready`, waits for a line, works, says `done`, waits for a line.
Workers may be killed: every n-th task's worker is, in turn at its beginning and just before it would answer; the task
is then given to a new one.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any, NamedTuple

import numpy as np

from benchmarks.manners import MANNERS, Manner


class Plan(NamedTuple):
    """What the driver does."""

    manner: str
    url: str
    nbytes: int
    """Of an input."""
    mappers: int
    rounds: int
    workers: int
    kill_every: int = 0
    lease: float = 30.0


def mapped(manner: Manner, argument: Any) -> Any:
    """A mapper: a tenth of its input."""
    data = manner.use(argument)
    return manner.answer(np.array(data[: max(len(data) // 10, 1)]) + 1)


def reduced(manner: Manner, arguments: list[Any]) -> Any:
    """The reducer: as much as a tenth of one output, of all."""
    parts = [manner.use(argument) for argument in arguments]
    length = max(len(parts[0]) // 10, 1)
    return manner.answer(sum(np.array(part[:length]) for part in parts))


def work(pipe: Connection[Any, Any], plan: Plan) -> None:
    """A worker's life: one task after another; `fate` says when it is killed in this one."""
    manner = MANNERS[plan.manner](plan.url, plan.lease)
    manner.warm()
    pipe.send_bytes(b"ready")
    while True:
        try:
            function, arguments, fate = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        if fate == "early":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            result = pickle.dumps((function(manner, arguments), None))
        except Exception as error:
            result = pickle.dumps((None, error))
        if fate == "late":
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send_bytes(result)
        del function, arguments, result


class Crew:
    """A pool of worker processes that outlives their deaths: what was lost with one is done by the next."""

    def __init__(self, plan: Plan, manner: Manner) -> None:
        self.plan = plan
        self.manner = manner
        self.killed = 0
        self._context = SpawnContext()
        self._tasks: list[tuple[Future[Any], Any, Any]] = []
        self._busy: dict[Connection[Any, Any], tuple[Any, ...] | None] = {}
        self._processes: list[Any] = []
        self._given = 0
        self._bell = self._context.Pipe()
        for _ in range(plan.workers):
            self._hire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, function: Any, arguments: Any) -> Future[Any]:
        """A future of `function(manner, arguments)` in a worker."""
        future: Future[Any] = Future()
        self._tasks.append((future, function, arguments))
        self._bell[1].send_bytes(b"!")
        return future

    def close(self) -> None:
        """End all workers."""
        self._bell[1].send_bytes(b"q")
        self._thread.join()
        for pipe in self._busy:
            pipe.close()
        for process in self._processes:
            process.join()

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self.plan), daemon=True)
        process.start()
        theirs.close()
        assert ours.recv_bytes() == b"ready"
        self._busy[ours] = None
        self._processes.append(process)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a worker that cannot be replaced: nobody is to wait for what will not come
            for future, *_ in [*self._tasks, *[task for task in self._busy.values() if task is not None]]:
                future.set_exception(error)
            raise

    def _serve(self) -> None:
        while True:
            for pipe in wait([*self._busy, self._bell[0]]):
                if pipe is self._bell[0]:
                    if self._bell[0].recv_bytes() == b"q":
                        return
                else:
                    self._answered(pipe)  # type: ignore[arg-type]  # what was waited for
            for pipe in [pipe for pipe, task in self._busy.items() if task is None]:
                if self._tasks:
                    self._give(pipe, self._tasks.pop(0))

    def _give(self, pipe: Connection[Any, Any], task: tuple[Future[Any], Any, Any]) -> None:
        self._given += 1
        doomed = self.plan.kill_every and self._given % self.plan.kill_every == 0
        fate = ("early", "late")[self._given // self.plan.kill_every % 2] if doomed else ""
        self._busy[pipe] = task
        pipe.send_bytes(pickle.dumps((*task[1:], fate)))

    def _answered(self, pipe: Connection[Any, Any]) -> None:
        task = self._busy[pipe]
        assert task is not None
        try:
            answer = pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            self.killed += 1
            del self._busy[pipe]
            pipe.close()
            self._tasks.insert(0, task)
            self._hire()
            return
        self._busy[pipe] = None
        result, error = pickle.loads(answer)
        if error is not None:
            task[0].set_exception(error)
            return
        self.manner.arrived(result)
        task[0].set_result(result)


def drive(crew: Crew, manner: Manner) -> float:
    """All rounds; a figure that all manners must agree on."""
    plan, total = crew.plan, 0.0
    for number in range(plan.rounds):
        given = [manner.give(np.full(plan.nbytes // 8, float(number + part))) for part in range(plan.mappers)]
        futures = [manner.send(crew.submit, mapped, item) for item in given]
        del given
        outputs = [future.result(600) for future in futures]
        del futures
        result = [manner.send_all(crew.submit, reduced, outputs).result(600)]
        manner.drop(outputs)
        del outputs
        total += float(np.asarray(manner.use(result[0])).sum())
        manner.drop(result)
        del result
    return total


def main() -> None:
    """The driver's process."""
    plan = Plan(**json.loads(sys.argv[1]))
    manner = MANNERS[plan.manner](plan.url, plan.lease)
    manner.warm()
    crew = Crew(plan, manner)
    _say("ready")
    total = drive(crew, manner)
    _say("done", total=total, killed=crew.killed)
    crew.close()
    manner.close()


def _say(what: str, **figures: float) -> None:
    sys.stdout.write(json.dumps({"state": what, **figures}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main()
