"""A call in a process of a method's own environment, for what works without Ray, such as `predict`.

The process is given the call through its standard input and answers through what was its standard output; whatever
else is printed there goes to standard error. Both ends are of one release of tags-bench, which was checked when the
environment was made ready.
"""

from __future__ import annotations

import logging
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

from benchmarks.common.errors import MachineFault, is_fault_of_files, is_out_of_memory, one_line
from benchmarks.contestants.environment import ACTIVE, Environment
from benchmarks.execution.environments import EnvironmentFault, make_ready

logger = logging.getLogger("tags_bench")

Tell = Callable[[Any], Any]
Work = Callable[[Tell], Any]
"""What is called: pickled, so a function of a module, or a `partial` of one. It may tell how it goes on."""

Kind = Literal["told", "error", "result"]


def call_at_home(method: str, environment: Environment | None, work: Work, tell: Tell) -> Any:
    """Do the work in this process, or in one of the method's own environment, which is built if need be.

    Raises:
        MachineFault: the environment cannot be used, or the process in it ended without an answer.
        Exception: whatever the work raises.
    """
    if environment is None or os.environ.get(ACTIVE) == method:
        return work(tell)
    logger.info("the environment of '%s' (%s) is made ready", method, environment)
    try:
        command = make_ready(environment, method)
    except EnvironmentFault as fault:
        raise MachineFault(f"the environment of '{method}' ({environment}) cannot be used: {fault}") from fault
    return call_apart(command, method, work, tell) if command else work(tell)


def call_apart(command: str, method: str, work: Work, tell: Tell) -> Any:
    """What `work` gives back there; what it tells is told here, and what it raises is raised here.

    Args:
        command: starts Python in the environment; see `environments.make_ready`.
        method: whose environment it is.

    Raises:
        MachineFault: the process ended without an answer.
    """
    words = [*shlex.split(command), "-m", "benchmarks.execution.apart"]
    environment = {**os.environ, ACTIVE: method}
    process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            pickle.dump(work, process.stdin)
            process.stdin.close()
            while True:
                kind, content = pickle.load(process.stdout)  # noqa: S301 (from the process just started)
                if kind == "told":
                    tell(content)
                else:
                    break
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = process.wait()
            raise MachineFault(f"the process of '{method}' in its environment ended with exit code {code}") from None
        if kind == "error":
            raise content
        return content
    finally:
        process.kill()  # it has answered, or nobody waits for it any more
        process.wait()
        process.stdout.close()


def _serve() -> None:
    """The other end, in a process of its own."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(kind: Kind, content: Any) -> None:
        pickle.dump((kind, content), answers)
        answers.flush()

    work: Work = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
    try:
        answer("result", work(lambda content: answer("told", content)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        answer("error", _known(error))


def _known(error: Exception) -> Exception:
    """The error in a class that the other end has; a method's own classes are known in its environment alone."""
    if is_fault_of_files(error):
        return MachineFault(one_line(error))
    home = type(error).__module__
    if home == "builtins" or home.startswith("benchmarks."):
        try:
            pickle.dumps(error)
        except Exception:  # whatever the things it holds raise
            return RuntimeError(one_line(error))
        return error
    return MemoryError(str(error)) if is_out_of_memory(error) else RuntimeError(one_line(error))


if __name__ == "__main__":
    _serve()
