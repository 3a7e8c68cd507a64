"""A process that has imported torch once and forks a child for each command; `conftest.py` talks to it.

Run as a script: each line of stdin is a request, each line of stdout its answer. The test process itself must not fork,
because the threads of OpenMP do not survive that. A child runs one command line, with an accident prepared for it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch  # noqa: F401  (imported here, not again in every child)
import torch
import tqdm  # noqa: F401
from markupsafe import Markup

from minigpt.base import owners, storage
from minigpt.claims import ledger, running
from minigpt.cli import main
from minigpt.experiments import analysis, arms_to_cells, grid, record, timing  # noqa: F401
from minigpt.neurons import health  # noqa: F401
from minigpt.report import ablation_page, ablation_texts, claims_figures, claims_page  # noqa: F401
from minigpt.training import checkpoints, inference, loop, milestones, operate_on_run, tensorboard, verification  # noqa: F401
from minigpt.training.code_version import code_hash
from minigpt.training.interrupts import StopFlag

PATIENCE = 60.0
OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir")


def announce(file: str) -> None:
    """Write into `file` what the training is about to do, and which steps are committed."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    save, commit, steps = checkpoints.save, loop.commit, loop._loop

    def say(words: str) -> None:
        os.write(descriptor, f"{words}\n".encode())

    def announced_save(run: Path, step: int, *arguments: Any, **options: Any) -> None:
        save(run, step, *arguments, **options)
        say(f"committed {step}")

    def announced_commit(run: Any, progress: Any) -> None:
        say(f"saving {progress.step}")
        commit(run, progress)
        say(f"saved {progress.step}")

    def announced_loop(*arguments: Any) -> None:
        say("training")
        steps(*arguments)

    checkpoints.save, loop.commit, loop._loop = announced_save, announced_commit, announced_loop


def die_at(number: int) -> None:
    """Let SIGKILL strike at the n-th operation on the disk from now on; a write is then half done."""
    counter = itertools.count(1)

    def deadly(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(counter) == number:
                if name == "write":
                    original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, deadly(name, getattr(os, name)))


def at_every_operation(directory: Path, attempt: Callable[[Path], None]) -> None:
    """Attempt something on copies of a run, each time in a process that dies one operation later; then leave."""
    for number in itertools.count(1):
        copy = directory.with_name(f"cut-{number}")
        shutil.copytree(directory, copy)
        pid = os.fork()
        if pid == 0:
            die_at(number)
            attempt(copy)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            shutil.rmtree(copy)
            os._exit(os.WEXITSTATUS(status))
        assert os.WTERMSIG(status) == signal.SIGKILL


def cut_commit(step: int) -> None:
    """Die at every operation of the save after `step` updates and of the pruning that follows it."""
    commit = loop.commit

    def cut(run: Any, progress: Any) -> None:
        if progress.step == step:
            at_every_operation(run.directory, lambda copy: commit(replace(run, directory=copy), progress))
        commit(run, progress)

    loop.commit = cut


def cut_setup() -> None:
    """Die at every operation between taking the lock and the first step of a new or resumed training."""
    assemble = loop.assemble

    class Reached(BaseException):
        pass

    def cut(config: Any, directory: Path, *others: Any) -> Any:
        run = assemble(config, directory, *others)
        parent = os.getpid()
        copies: list[Path] = []

        def attempt(copy: Path) -> None:
            copies.append(copy)
            raise Reached

        with contextlib.suppress(Reached):
            at_every_operation(directory, attempt)
        assert os.getpid() != parent
        return replace(run, directory=copies[0])

    def arrived(*arguments: Any) -> None:
        os._exit(0)

    loop.assemble, loop._train_to_the_end = cut, arrived


def cut_surgery() -> None:
    """Die at every operation of writing an operated run, each time into a directory beside it."""
    write = operate_on_run._write

    def cut(run: Any, operated: Any, *others: Any) -> None:
        operated.directory.mkdir()
        at_every_operation(operated.directory, lambda copy: write(run, replace(operated, directory=copy), *others))
        write(run, operated, *others)

    operate_on_run._write = cut


def lose_output(how: str) -> None:
    """Let standard output be what a shell makes of `>&-`, of `>/dev/full`, or of a reader that has left."""
    if how == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
        return
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer if how == "left" else os.open("/dev/full", os.O_WRONLY), 1)


def hang_up_is_ignored() -> None:
    """As `nohup` has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def slow_saves_after_a_signal(seconds: float) -> None:
    """Give a second signal time to arrive while the first one's checkpoint is written."""
    handle, fsync, signalled = StopFlag.handle, os.fsync, []

    def note(flag: StopFlag, number: int, frame: Any) -> None:
        signalled.append(number)
        handle(flag, number, frame)

    def slow(descriptor: int) -> None:
        if signalled:
            time.sleep(seconds)
        fsync(descriptor)

    StopFlag.handle, os.fsync = note, slow  # type: ignore[method-assign]


def slow_preparation(seconds: float) -> None:
    """Let preparing a corpus take its time; a file `preparing` says that it has begun."""
    write = storage.AtomicFile.write

    def slow(file: storage.AtomicFile, data: Any) -> None:
        write(file, data)
        if file.path.suffix == ".bin":
            Path("preparing").touch()
            time.sleep(seconds)

    storage.AtomicFile.write = slow  # type: ignore[method-assign]


def limit_files(step: int, size: int) -> None:
    """From the save after `step` updates on no file may grow beyond `size` bytes."""
    import resource

    save = checkpoints.save

    def limited(run: Path, number: int, *arguments: Any, **options: Any) -> None:
        if number == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(run, number, *arguments, **options)

    checkpoints.save = limited


def change_the_code(version: str) -> None:
    """Let the code that shapes a result be another version."""
    for module in (arms_to_cells, record, grid, milestones, ledger):
        module.code_hash = lambda: version  # type: ignore[attr-defined]


def be_on_host(name: str) -> None:
    """Let this process and its children be on another host, of whose processes nobody here knows."""
    owners.socket.gethostname = lambda: name  # type: ignore[attr-defined]
    owners._boot = lambda: name


def keep_pace(step: float, evaluated_token: float) -> None:
    """Let every short training find the same speed, whatever else the machine does."""

    def measured(config: Any, flops_per_token: int, *others: Any) -> timing.Pace:
        return timing.Pace(step, evaluated_token, config.tokens_per_step, flops_per_token)

    running.measure_together = measured


def take_part(rank: int, size: int, port: int) -> None:
    """Be one of the processes that torchrun would start, with output of one's own."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"rank-{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    places = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in (places | address).items()})


def stray(step: int) -> None:
    """Let this process's weights go astray after `step` updates."""
    take_step = loop.take_step

    def strayed(trainee: Any, number: int, *arguments: Any, **options: Any) -> Any:
        result = take_step(trainee, number, *arguments, **options)
        if number == step:
            trainee.model.wte.weight.data[0, 0] += 1e-6
        return result

    loop.take_step = strayed


ACCIDENTS = {
    accident.__name__: accident
    for accident in (
        announce,
        cut_commit,
        cut_setup,
        cut_surgery,
        lose_output,
        hang_up_is_ignored,
        slow_saves_after_a_signal,
        slow_preparation,
        limit_files,
        change_the_code,
        be_on_host,
        keep_pace,
        take_part,
        stray,
    )
}


def live(request: dict[str, Any]) -> int:
    """A child's life: its own output, its accidents, its command."""
    os.chdir(request["place"])
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"child.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    for name, arguments in request["accidents"].items():
        ACCIDENTS[name](*arguments)
    return main(request["argv"])


def wait(pid: int) -> int | str:
    """A child's exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hung"


def serve() -> None:
    torch.set_num_threads(1)
    # NOTE: a shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else tests under nohup would test its respect of nohup
    os.fsync = lambda descriptor: None  # a kill cannot tell a flush from none, and the disk takes its time
    for figure in ablation_page.FIGURES:  # drawing takes seconds, and other tests look at it
        ablation_page.FIGURES[figure] = lambda drawn: ""
    claims_figures._drawn = lambda name, title, size, paint: Markup("<svg></svg>")
    code_hash()  # every child would read all of the source for it again
    gc.freeze()  # else each child's first collection copies every page of torch's modules, for a tenth of a second
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: Any = wait(request["wait"])
        else:
            answer = os.fork()
            if answer == 0:
                code = 99
                try:
                    code = live(request)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
