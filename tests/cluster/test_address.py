import socket
from collections.abc import Iterator

import pytest

from orchestrator.cluster import address as module
from orchestrator.cluster.address import check_answers, find_address
from orchestrator.errors import ClusterError, SpecError


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, " ", None),
        (None, "local", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", None),
    ],
)
def test_an_address_is_the_one_given_or_of_the_environment(
    given: str | None, variable: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert find_address(given) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "'nonsense' is not an address of a Ray cluster; expected HOST:PORT"),
        ("10.0.0.1", "expected HOST:PORT"),
        ("10.0.0.1:head", "expected HOST:PORT"),
        ("10.0.0.1:99999", "expected HOST:PORT"),
        (
            "http://10.0.0.1:8265",
            "only accepts jobs: write a job file and run `orchestrator",
        ),
    ],
)
def test_what_is_no_address_of_a_head_is_told_apart(address: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_answers(address)


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """A port of this machine on which nobody listens yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_head_that_is_gone_is_an_error_at_once(bound: socket.socket, form: str) -> None:
    address = form.format(bound.getsockname()[1])
    with pytest.raises(ClusterError, match=f"no Ray cluster answers at {address} .*refused.*unset"):
        check_answers(address)


def test_a_name_that_is_nowhere_is_an_error_at_once() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at nowhere\.invalid:6379"):
        check_answers("nowhere.invalid:6379")


def test_what_listens_and_never_answers_is_given_up(
    bound: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_LIMIT_S", 2.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-some-cluster")
    bound.listen()
    with pytest.raises(ClusterError, match=r"no Ray head answers at .* in 2 s"):
        check_answers(f"127.0.0.1:{bound.getsockname()[1]}")


def test_a_cluster_is_not_joined_without_a_token(
    bound: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound.listen()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/proc/nowhere")
    with pytest.raises(ClusterError, match="no token for the Ray cluster at"):
        check_answers(f"127.0.0.1:{bound.getsockname()[1]}")
