import pytest

from orchestrator.config.load import build_resources
from orchestrator.config.specs import Resources
from orchestrator.config.worker_counts import MAX_WORKERS, WorkerRange
from orchestrator.config.workers import plan_workers
from orchestrator.errors import SpecError

NODE = {"CPU": 4.0}


@pytest.mark.parametrize("given", ["1-4", {"min": 1, "max": 4}, WorkerRange(min=1, max=4)])
def test_a_range_is_read_from_its_forms_and_written_as_the_flag(given: object) -> None:
    resources = build_resources({"workers": given})
    assert resources.workers == WorkerRange(min=1, max=4)
    assert resources.model_dump(mode="json")["workers"] == "1-4"
    assert build_resources({"workers": "3"}).model_dump(mode="json")["workers"] == 3


@pytest.mark.parametrize(
    "given", ["0", "4-1", "0-2", "1-", "-3", "two", "1-4097", 2.5, True, {"min": 1}, [1, 4]]
)
def test_what_is_no_number_of_workers(given: object) -> None:
    with pytest.raises(SpecError) as caught:
        build_resources({"workers": given})
    expected = "expected a number from 1 to 4096, or a range such as 1-4"
    assert str(caught.value) == f"command line: workers={given!r}: {expected}"


@pytest.mark.parametrize(
    ("asked", "num_nodes", "planned"),
    [
        # number now, fewest and most of a training, most of a stage
        ("1-3", 2, (2, (1, 3), 3)),
        ("1-3", 5, (3, (1, 3), 3)),
        ("2", 3, (2, (2, 2), 0)),
        (None, 3, (3, (3, 3), MAX_WORKERS)),
    ],
)
def test_a_range_takes_what_there_is(
    asked: str | None, num_nodes: int, planned: tuple[int, tuple[int, int], int]
) -> None:
    resources = Resources.model_validate({"workers": asked, "cpus_per_worker": 4})
    session = plan_workers(resources, [NODE] * num_nodes)
    assert (session.num_workers, session.group, session.max_workers) == planned


def test_a_range_needs_room_for_its_fewest() -> None:
    with pytest.raises(SpecError, match=r"asked for 3 workers of 4 CPU .* hold 2: lower"):
        plan_workers(Resources.model_validate({"workers": "3-5", "cpus_per_worker": 4}), [NODE] * 2)
