"""How many files a nightly run would score, now and after a promotion."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.listing import rescore_window
from orchestrator.config.specs import ScoreSpec
from orchestrator.data.known.earlier import find_earlier
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.terms import scoring_terms
from orchestrator.progress import Reporter
from orchestrator.runs.lock import hold


@dataclass(frozen=True)
class ToScore:
    """Files that a run with `only_new` would read.

    Args:
        now: with the model that it would take now.
        after_promotion: with another one in its place, by the job's `on_new_model`.
    """

    now: int
    after_promotion: int


def count_to_score(
    spec: ScoreSpec, models: list[str], num_files: int, reporter: Reporter
) -> ToScore:
    """Lists the input and looks every file up in the index of the earlier runs.

    The index is brought up to date for it, as the next run would do.

    Args:
        spec: of the job, with `only_new`, and with the engine and precision that would score.
        models: SHA-256 of each bundle.
        num_files: files in the input.
        reporter: told where the index is made.

    Raises:
        DataError: the input or the index cannot be used.
        ClusterError: a run is at work in the folder of runs, or it cannot be written to.
    """
    root = Path(str(spec.out_root)).absolute()
    if not root.is_dir():
        return ToScore(num_files, num_files)
    options = ListingOptions.of(spec)

    def count(models: list[str]) -> int:
        known = find_earlier(spec, scoring_terms(spec, models), reporter).open(spec)
        listed = list_inputs(spec.input, options, known)
        return sum(1 for _ in known.leave_out(listed.rows(), listed.roots, lambda row: None))

    with hold(root):
        now = count(models)
        if rescore_window(spec.on_new_model) is None:
            return ToScore(now, num_files)
        return ToScore(now, count(["another"]))
