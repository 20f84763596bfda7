"""What is to be done with inputs, and what became of them."""

import errno
from dataclasses import dataclass, field

from tsic.deploy.inference import View
from tsic.deploy.predict.inputs import Input
from tsic.deploy.predict.outputs import Wanted, all_files


@dataclass(frozen=True)
class Plan:
    """What to do with every input.

    Args:
        wanted: What is written, and where.
        view: How images are shown to the model; by default whole, large ones by windows.
        batch: Images of one size, or frames of a video, that are labelled at a time.
        skip_existing: Whether inputs whose results are all there are left alone.
    """

    wanted: Wanted
    view: View | None = None
    batch: int = 1
    skip_existing: bool = False

    def skips(self, one: Input) -> bool:
        """Whether an input's results are there and are left alone."""
        return self.skip_existing and all(file.is_file() for file in all_files(one, self.wanted))


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        images: Images that were labelled.
        videos: Videos that were labelled.
        skipped: Inputs whose results were there.
        failures: Files that could not be labelled, each with the reason.
    """

    images: int = 0
    videos: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, one: Input, error: Exception) -> None:
        """Note why an input could not be labelled.

        Raises:
            OSError: If the disk is full: nothing after it could be written either.
        """
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            reason = f"a result's name would be too long, '{error.filename}'; rename the input"
        source = str(one.source)
        self.failures.append(reason if reason.startswith(source) else f"{source}: {reason}")
