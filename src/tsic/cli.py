"""The command line: a thin table from verb to function."""

import errno
import io
import sys
from collections.abc import Callable, Sequence

from tsic.errors import ConfigError, TsicError, nearest

USAGE = """usage: tsic VERB [OPTIONS]

verbs:
  demo       draw street scenes, train a student alone and in the cycle, compare, report
  data       check a dataset before a training, look at it, pack it for speed
  train      train a student, with or without a teacher
  evaluate   score a student, or a run's teacher, on labelled images

`tsic VERB --help` documents every option. Exit codes: 0 done, 1 `data check`
found what would hurt a training, 2 a mistake in the command, the configuration or the data.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after ``tsic``; by default the process's own.

    Returns:
        Exit code: 0 done, 1 a check found something, 2 the user's mistake.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            sys.stdout.write(USAGE)
            return 0
        if words[0] not in VERBS:
            raise ConfigError(f"'{words[0]}' is no verb; {nearest(words[0], VERBS)}")
        return VERBS[words[0]](words[1:])
    except TsicError as error:
        sys.stderr.write(f"tsic: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            "tsic: interrupted; what was written is whole, train goes on with --resume auto\n"
        )
        return 130
    except OSError as error:
        if error.errno == errno.ENOSPC:
            sys.stderr.write(
                f"tsic: the disk is full ({error.filename}); what was written before is whole: "
                "free some space, then --resume auto\n"
            )
        elif error.filename:
            sys.stderr.write(f"tsic: cannot use '{error.filename}': {error.strerror}\n")
        else:
            raise
        return 2


def _data(words: Sequence[str]) -> int:
    from tsic.data_commands import data_command

    return data_command(words)


def _train(words: Sequence[str]) -> int:
    from tsic.commands import train_command

    return train_command(words)


def _evaluate(words: Sequence[str]) -> int:
    from tsic.commands import evaluate_command

    return evaluate_command(words)


def _demo(words: Sequence[str]) -> int:
    from tsic.commands import demo_command

    return demo_command(words)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": _demo,
    "data": _data,
    "train": _train,
    "evaluate": _evaluate,
}
