"""The command line: a thin table from verb to function."""

import io
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from tsic.errors import NO_ROOM, ConfigError, TsicError, nearest
from tsic.files import at_home
from tsic.streams import fill_closed, tell, to_nowhere

CLOSED_PIPE = 141
"""Exit code where nobody reads the output any more, as of a process that SIGPIPE ends."""

Command = Callable[[Sequence[str]], int]
"""Takes the words after its verb and returns an exit code."""

_GOES_ON = {
    "compare": "; run it again, and it goes on",
    "train": "; --resume auto goes on",
    "pretrain": "; --resume auto goes on",
    "predict": ", the same command with --skip-existing goes on",
}

USAGE = """usage: tsic VERB [OPTIONS]

verbs:
  demo       draw street scenes, train a student alone and in the cycle, compare, report
  data       check a dataset before a training, look at it, pack it for speed
  train      train a student, with or without a teacher
  compare    the student alone, published methods and the cycle, with seeds and intervals
  pretrain   train a promptable model on drawn images or on your own unlabelled ones
  evaluate   score a student, a run's teacher or an exported file on labelled images
  predict    label images, folders and videos with a student or an exported file
  export     write a student as ONNX, OpenVINO, torch.export, ExecuTorch or LiteRT, proven
  benchmark  measure a student's speed on this machine, in every engine
  info       tell what a student or an exported file is
  push       put a student with its model card into a folder or on the Hugging Face hub

`tsic VERB --help` documents every option. Exit codes: 0 done, 1 `data check` found what would
hurt a training, `predict` could not read a file or a run of `compare` failed, 2 a mistake in the
command, the configuration or the data, or too little memory or disk, 130 stopped by Ctrl-C, 143 by
SIGTERM, 141 who read the output went away.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after ``tsic``; by default the process's own.

    Returns:
        Exit code, as `USAGE` lists them.
    """
    words = [_at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    fill_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    verb = words[0] if words else "help"
    try:
        code = _run(verb, words[1:])
        sys.stdout.flush()  # here, what cannot be printed is noticed
        return code
    except TsicError as error:
        tell(f"tsic: {error}\n")
        return 2
    except KeyboardInterrupt as stop:
        tell(f"tsic: interrupted; what was written is whole{_GOES_ON.get(verb, '')}\n")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        to_nowhere(sys.stdout)  # Python flushes once more when it ends
        return CLOSED_PIPE
    except (OSError, RuntimeError, MemoryError) as error:
        told = _told(error, verb)
        if told is None:
            raise
        tell(f"tsic: {told}\n")
        return 2


def _at_home(word: str) -> str:
    """``~/`` at the start of a word, or of an option's value, which no shell expands."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{at_home(value)}"


def _told(error: OSError | RuntimeError | MemoryError, verb: str) -> str | None:
    """What a machine that has not enough of something means for the user, and the way out."""
    again = "--resume auto" if verb in ("train", "pretrain") else "try again"
    ended = r"DataLoader worker .*(signal: (Killed|Bus error|Terminated)|exited unexpectedly)"
    if re.search(ended, str(error)):
        return (
            "a process that loads images was killed from outside, mostly for lack of memory (in a "
            f"container of shared memory: --shm-size); take fewer workers, then {again}"
        )
    if not isinstance(error, OSError):
        # PyTorch's words, on a GPU and on a CPU.
        wanted = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        if wanted is None and not isinstance(error, MemoryError):
            return None
        more = f" ({wanted[1]} more were asked for)" if wanted else ""
        less = "a smaller batch, crop or image"
        if verb == "train":
            less = (
                "trainer.accumulate, a smaller data.batch_size (--batch auto) or data.crop, under "
                "another --name; docs/teachers.md lists more"
            )
        return f"out of memory{more}; ask for less at a time: {less}"
    file = error.filename2 or error.filename
    if error.errno in NO_ROOM:
        return (
            f"{NO_ROOM[error.errno]}{f' ({file})' if file else ''}; what was written before is "
            f"whole: make room, then {again}"
        )
    return f"cannot use '{file}': {error.strerror}" if file else None


def _run(verb: str, words: Sequence[str]) -> int:
    """Import a verb's function, and with it only what the verb needs, and call it."""
    if verb in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return 0
    if verb not in VERBS:
        raise ConfigError(f"'{verb}' is no verb; {nearest(verb, VERBS)}")
    module, name = VERBS[verb].split(":")
    command: Command = getattr(import_module(module), name)
    return command(words)


VERBS = {
    "demo": "tsic.commands:demo_command",
    "data": "tsic.data_commands:data_command",
    "train": "tsic.commands:train_command",
    "compare": "tsic.compare.command:compare_command",
    "pretrain": "tsic.commands:pretrain_command",
    "evaluate": "tsic.deploy.evaluate_command:evaluate_command",
    "predict": "tsic.deploy.predict.command:predict_command",
    "export": "tsic.deploy.export.command:export_command",
    "benchmark": "tsic.deploy.benchmark.command:benchmark_command",
    "info": "tsic.deploy.info_command:info_command",
    "push": "tsic.deploy.info_command:push_command",
}
