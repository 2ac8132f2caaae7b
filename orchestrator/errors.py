"""The exceptions of the package and the exit code of each.

A message says what was received, what was expected and what to do, in one line. Only `cli.py`
catches `OrchestratorError`; `ImageError` is caught by the stage that decodes, which turns it into
a rejected row.
"""


def printable(text: str) -> str:
    """Returns a line in which nothing acts on a terminal or a log, whatever names it quotes.

    Control characters, line ends and what turns the direction of writing are escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Returns a number of things in words: `1 worker`, `2 workers`."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


class OrchestratorError(Exception):
    """Base of every error a user can cause or fix; `exit_code` is the process's."""

    exit_code = 1

    def __str__(self) -> str:
        """Returns the message, printable: it may quote any name."""
        return printable(super().__str__())


class SpecError(OrchestratorError):
    """What was asked for cannot be: a flag, a YAML key, a path, an impossible request."""

    exit_code = 2


class NewerRunError(SpecError):
    """A run was made by a newer version of the program."""


class DataError(OrchestratorError):
    """The images or tables given cannot be used as they are."""

    exit_code = 3


class BundleError(OrchestratorError):
    """A bundle is missing, changed, or of a kind that is not loaded."""

    exit_code = 4


class ClusterError(OrchestratorError):
    """The cluster, a worker or the disk failed; the same command may succeed later."""

    exit_code = 5


class LockedError(ClusterError):
    """Another process works in the folder; the same command may succeed once that has ended."""


def describe_newer(what: object, found: int, known: int) -> str:
    """Returns the message about something stored that only a newer program understands.

    Args:
        what: a file or folder.
        found: its schema version.
        known: the greatest one that this program reads.
    """
    return (
        f"{what} was made by a newer version of this program (schema {found}, this one reads up "
        f"to {known}); upgrade orchestrator"
    )


# Ends of a run that would come again: only a change of what was asked for, or given, can help.
FINAL_EXIT_CODES = frozenset(error.exit_code for error in (SpecError, DataError, BundleError))


class ImageError(Exception):
    """One bad file.

    Never leaves a stage: it becomes a rejected row. The message says what was found and what to
    do, and never repeats text found inside the file, which may be patient data.

    Args:
        code: stable snake_case code, one of `orchestrator.data.decode.images.REJECTION_CODES`.
        message: one line for the person who sees the rejected row.
        facts: what the header said, a `DicomFacts`; None where there was none to read.
    """

    def __init__(self, code: str, message: str, facts: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str, object]]:
        """Pickles by its arguments, so the error crosses a process boundary whole."""
        return (type(self), (self.code, self.message, self.facts))
