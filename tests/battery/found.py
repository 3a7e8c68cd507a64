"""Every failure that the battery, or an attack before it, has found, and what happens instead now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """A failure: what found it, what happened, and what happens since it was mended."""

    by: str
    happened: str
    now: str


FOUND = (
    Found(
        "a killed `surgery` (96 of 117 kills)",
        "the folder said `--resume`, which then started a fresh training at step 0",
        "while `unfinished.json` is there it is no run: nothing continues it, and the same command repeats it",
    ),
    Found(
        "EIO, EMFILE, EPERM, EINTR while reading a checkpoint",
        "it was called damaged, an older one was used, and the advice was `--overwrite`",
        "only a wrong hash is damage; a read error is exit 5 with its errno, EINTR is retried",
    ),
    Found(
        "`verify` of a run that is training (37 of 52 tries)",
        "it failed, because pruning removed what it was about to read",
        "a checkpoint that was pruned meanwhile is left out, and `best` is chosen anew",
    ),
    Found(
        "a FIFO or a device in place of a run's file",
        "`report`, `verify`, `resume` and `evaluate` hung",
        "only regular files are opened, without waiting; another kind of file is exit 4",
    ),
    Found(
        "a `config.json` that claims a huge model",
        "3.5 GB and a minute, then a mismatch",
        "the size of the weights, which the manifest states, and this machine's memory bound what is built",
    ),
    Found(
        "log lines and progress fields of other types (about 20 variants)",
        "`a bug of minigpt` in `report`, `verify`, `resume`",
        "one schema, checked on reading; exit 4 names line and field, and `report` skips the line and says so",
    ),
    Found(
        "TOML with an integer beyond float, or nested deeply",
        "`a bug of minigpt`; 4.4 GB and 32 s",
        "refused in one line before it is parsed",
    ),
    Found(
        "kills while a page is drawn or a lock is taken",
        "temporaries of the page and of the lock stayed for ever",
        "the next command removes them",
    ),
    Found(
        "SIGINT while modules load; a second stop of `verify`",
        "`a bug of minigpt`; an end by signal 15 without its message",
        "exit 130 and 143, each with its line, from the first line of ours on, about 50 ms after Python has started",
    ),
    Found(
        "a kill while `--overwrite` deletes the old run",
        "half a run stayed, whose configuration `--resume` took for a run that has not begun",
        "it has the mark of what is unfinished until the new run is described",
    ),
    Found(
        "variants of linked text, and of `~`",
        "a linked file in a folder was found and then refused as a link; `--cells-dir=~/x` made a folder named `~`",
        "the hash is of what a link leads to; every flag that is a path expands `~`",
    ),
    Found(
        "fuzz_checkpoints: a lone surrogate in a manifest, under a hash that fits",
        "`UnicodeEncodeError`: a bug of minigpt",
        "JSON with lone surrogates is refused in one line, exit 4",
    ),
    Found(
        "stop_latency",
        "after SIGTERM the version of the code was computed: 0.4 s, and of files that may have been edited meanwhile",
        "it is computed before the first step",
    ),
    Found(
        "mutants: an ablation's result that is not compared with its log",
        "the named test stayed green: the log it altered was no JSON any more, and was refused for that",
        "the test alters a figure and leaves valid JSON",
    ),
    Found(
        "mutants: content written over the old file",
        "the named test stayed green: it compared two hashes of a folder in which the file was missing both times",
        "the test also reads the old content",
    ),
    Found(
        "a checkpoint with a header of 100,000 tensors",
        "1.2 s and 200 MB until it was refused",
        "a header of more than 1 MB is refused before it is parsed",
    ),
    Found(
        "SIGTERM while torch compiles",
        "it was heard when the compiler was done, up to a minute later",
        "it ends the compiler at once; the state before the step is committed",
    ),
    Found(
        "leftover RANK variables, and another program at their port",
        "torch waited for its answer without end, deaf to Ctrl-C and SIGTERM",
        "the wait is in a thread: signals work, it ends after five minutes; a rank beyond their number is refused",
    ),
    Found(
        "`verify` of a ledger, an audit, a model for Hugging Face, a folder of runs",
        "`no run`",
        "ledgers and audits are checked; of the others it says what they are",
    ),
    Found(
        "power_loss: states before the first commit",
        "the battery counted them without a look at them",
        "whatever is found there must not be taken for a damaged run",
    ),
    Found(
        "fuzz_inputs: `audit nan`",
        "the battery itself asked the network for a model of that name",
        "the network is cut off in this group",
    ),
    Found(
        "a linked checkpoint directory; a C++ compiler that hangs",
        "`no checkpoint`; the reason was cut off behind the compiler's command line",
        "the link is named; the compiler is said not to end",
    ),
    Found(
        "fuzz_inputs: a path with a NUL, or with half a surrogate pair (5 of 50,000 cases: `report` and `sky` of one)",
        "`ValueError` or `UnicodeEncodeError`: a bug of minigpt",
        "every flag that is a path refuses it in one line, exit 2",
    ),
)
