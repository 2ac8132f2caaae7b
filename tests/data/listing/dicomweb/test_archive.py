"""Listing and reading from an archive, against a small server that misbehaves as archives do."""

import builtins
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.known.index import whole_path
from orchestrator.data.limits import Limits
from orchestrator.data.listing.addresses import check_address
from orchestrator.data.listing.dicomweb import answers, archive, login
from orchestrator.data.listing.dicomweb.archive import Archive, open_archive
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.errors import ClusterError, DataError, ImageError, SpecError
from tests.data.listing.dicomweb.small_archive import SR, SmallArchive, basic, serve_archive

LIMITS = Limits()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallArchive]:
    for name in (login.TOKEN_COMMAND, login.USERNAME, login.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    monkeypatch.setattr(archive, "_PAUSES_S", (0.0, 0.0))
    open_archive.cache_clear()
    with serve_archive() as found:
        yield found


def opened(served: SmallArchive) -> Archive:
    return open_archive(served.address())


def paths(found: Archive) -> list[str]:
    return [item.path.decode() for item in found.walk()]


def test_an_instance_is_a_row_with_a_time_and_without_a_size(served: SmallArchive) -> None:
    path = served.add(1)
    listed = list_inputs([served.address()])
    (row,) = listed.rows()
    assert (row.path, row.size_bytes, row.label, row.code) == (path, None, None, None)
    assert row.mtime_ns is not None
    assert row.mtime_ns // 10**9 == 1767607872  # 2026-01-05 10:11:12
    assert listed.roots == (served.address().encode(),)


@pytest.mark.parametrize(
    ("page", "offsets", "number"),
    [(1000, True, 25), (4, True, 25), (None, True, 25), (None, False, 12), (1000, False, 5),
     (10, True, 20)],
)  # fmt: skip
def test_every_instance_is_listed_once_whatever_the_archive_makes_of_pages(
    served: SmallArchive,
    monkeypatch: pytest.MonkeyPatch,
    page: int | None,
    offsets: bool,
    number: int,
) -> None:
    monkeypatch.setattr(archive, "_PAGE", 10)
    served.page, served.offsets = page, offsets
    expected = [served.add(n) for n in range(number)]
    assert paths(opened(served)) == expected


def test_an_archive_that_gives_its_first_page_for_ever_is_an_error(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_PAGE", 10)
    served.offsets = False
    for n in range(11):
        served.add(n)
    with pytest.raises(DataError, match="the same 10 instances again and again; narrow the query"):
        paths(opened(served))


def test_several_values_find_the_instances_of_each(served: SmallArchive) -> None:
    first, second = served.add(1), served.add(2, **{"00080060": "CR"})
    served.add(3, **{"00080060": "CT"})
    assert paths(open_archive(served.address("Modality=DX,CR,DX"))) == [first, second]


def test_reports_are_no_input_and_are_counted(served: SmallArchive) -> None:
    path = served.add(1)
    served.add(2, sop_class=SR)
    listed = list_inputs([served.address()])
    assert [row.path for row in listed.rows()] == [path]
    assert listed.notes.ignored == {"DICOM objects without pixels": 1}


@pytest.mark.parametrize(
    ("more", "is_own"),
    [
        ({"00080070": "xray-orchestrator"}, True),
        ({"0008103E": "AI heat map, research use only"}, True),  # the archive gives no manufacturer
        ({"0008103E": "AI heat map, research use only", "00080070": "Other"}, False),
        ({}, False),
    ],
)
def test_results_of_this_program_are_no_input_and_are_counted(
    served: SmallArchive, more: dict[str, str], is_own: bool
) -> None:
    paths = [served.add(1), served.add(2, sop_class="1.2.840.10008.5.1.4.1.1.7", **more)]
    listed = list_inputs([served.address()])
    assert [row.path for row in listed.rows()] == paths[: 1 if is_own else 2]
    assert listed.notes.lines() == ["ignored 1 name: results of this program (1)"] * is_own
    assert "Manufacturer" in served.asked[0] and "SeriesDescription" in served.asked[0]


def test_nothing_found_is_an_error_unless_allowed(served: SmallArchive) -> None:
    with pytest.raises(DataError, match=r"the archive finds no image for dicomweb.*--allow-empty"):
        list_inputs([served.address()])
    assert list_inputs([served.address()], ListingOptions(allow_empty=True)).num_rows == 0


def test_two_queries_to_one_archive_might_find_an_instance_twice(served: SmallArchive) -> None:
    served.add(1)
    with pytest.raises(DataError, match="found twice"):
        list_inputs([served.address(), served.address("Modality=CR")])


def test_an_instance_is_known_whichever_query_found_it_while_its_metadata_stay(
    served: SmallArchive,
) -> None:
    path = served.add(1).encode()
    (first,) = opened(served).walk()
    served.instances[0]["00080061"] = {"Value": ["DX", "SR"]}  # a result was stored in the study
    (again,) = opened(served).walk()
    assert again == first
    served.instances[0]["00280010"] = {"Value": [512]}
    (changed,) = opened(served).walk()
    assert changed.mtime_ns != first.mtime_ns
    roots = [served.address(query).encode() for query in ("Modality=DX", "Modality=DX,CR")]
    assert len({whole_path(root, path) for root in roots}) == 1
    assert whole_path(b"s3://b/x?region=a", b"p") != whole_path(b"s3://b/x?region=b", b"p")


@pytest.mark.parametrize("whole", [True, False])
def test_an_instance_is_read_byte_for_byte(served: SmallArchive, whole: bool) -> None:
    data = b"\r\n\r\n--b\r\n\0DICM" + bytes(range(256))
    path, served.whole = served.add(1, data), whole
    assert opened(served).read(path.encode(), LIMITS) == data


@pytest.mark.parametrize(
    ("statuses", "code"),
    [([404], "missing_file"), ([410], "missing_file"), ([403], "unreadable"),
     ([406], "unreadable"), ([500] * 3, "unreadable")],
)  # fmt: skip
def test_what_the_archive_refuses_for_one_instance_is_a_rejection(
    served: SmallArchive, statuses: list[int], code: str
) -> None:
    path = served.add(1).encode()
    served.statuses = list(statuses)
    with pytest.raises(ImageError) as caught:
        opened(served).read(path, LIMITS)
    assert caught.value.code == code
    assert not served.statuses  # what may pass was asked for again
    assert opened(served).read(path, LIMITS) == b"x"


def test_a_message_cut_short_is_a_rejection_while_the_archive_answers(served: SmallArchive) -> None:
    path, served.cut = served.add(1).encode(), True
    with pytest.raises(ImageError, match="its answer is cut short") as caught:
        opened(served).read(path, LIMITS)
    assert caught.value.code == "unreadable"
    served.search_status = 500
    with pytest.raises(ClusterError, match="its answer is cut short"):
        opened(served).read(path, LIMITS)


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "empty_file"), (b"x" * 101, "too_large"), (b"x" * 99_999, "too_large")]
)
def test_sizes_are_held_against_the_limits(served: SmallArchive, data: bytes, code: str) -> None:
    path = served.add(1, data).encode()
    with pytest.raises(ImageError) as caught:
        opened(served).read(path, Limits(max_bytes=100))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "path", [b"../../x", b"1.2/3.4", b"1.2/3/4/", b"1/2/\xff", b"1/2/" + b"1" * 65]
)
def test_a_path_that_is_no_instance_asks_for_nothing(served: SmallArchive, path: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        opened(served).read(path, LIMITS)
    assert caught.value.code == "missing_file"
    assert not served.asked


@pytest.mark.parametrize("status", [429, 503])
def test_an_archive_that_is_busy_is_asked_again_and_then_stops_the_run(
    served: SmallArchive, status: int
) -> None:
    path = served.add(1).encode()
    served.statuses = [status] * 2
    assert opened(served).read(path, LIMITS) == b"x"
    served.statuses = [status] * 3
    with pytest.raises(
        ClusterError, match=f"does not give its images: HTTP status {status}; check"
    ):
        opened(served).read(path, LIMITS)
    served.search_status = status
    with pytest.raises(ClusterError, match=f"cannot list dicomweb.*: HTTP status {status}; check"):
        paths(opened(served))


def test_retry_after_is_heeded_within_bounds() -> None:
    class Refusal(Exception):
        response: Any = type("Response", (), {"headers": {"Retry-After": "7"}})

    assert answers.wait_s(Refusal(), 1.0) == 7
    Refusal.response.headers = {"Retry-After": "9999"}
    assert answers.wait_s(Refusal(), 1.0) == 60
    assert answers.wait_s(ValueError(), 1.5) == 1.5


def test_an_archive_that_is_gone_stops_the_run(served: SmallArchive) -> None:
    found = Archive(archive.read_query("dicomweb+http://127.0.0.1:1/x?Modality=DX"), "dicomweb+...")
    with pytest.raises(
        ClusterError, match=r"cannot list .*: no connection to it; check the address"
    ):
        paths(found)
    with pytest.raises(ClusterError, match="does not give its images: no connection to it"):
        found.read(b"1/2/3", LIMITS)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, DataError, r"does not take the query \(HTTP status 400\); check"),
        (404, DataError, r"does not take the query \(HTTP status 404\); check"),
        (403, ClusterError, r"HTTP status 403; check DICOMWEB_USERNAME and DICOMWEB_PASSWORD"),
    ],
)
def test_a_query_that_is_refused_is_one_line(
    served: SmallArchive, status: int, error: type[Exception], message: str
) -> None:
    served.search_status = status
    with pytest.raises(error, match=message):
        paths(opened(served))


def test_no_more_than_four_images_are_asked_for_at_a_time(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = served.add(1).encode()
    found, lock, numbers, most = opened(served), threading.Lock(), [0], [0]
    four = threading.Barrier(4)
    retrieve = found._retrieve

    def counted(url: str, limits: Limits) -> bytes:
        with lock:
            numbers[0] += 1
            most[0] = max(most[0], numbers[0])
        four.wait(10)
        data = retrieve(url, limits)
        with lock:
            numbers[0] -= 1
        return data

    monkeypatch.setattr(found, "_retrieve", counted)
    threads = [threading.Thread(target=found.read, args=(path, LIMITS)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [4]


def test_without_the_extra_the_command_says_which_it_needs(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("dicomweb_client"):
            raise ImportError("absent", name="dicomweb_client")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SpecError, match=r"needs dicomweb_client.*'xray-orchestrator\[dicom\]'"):
        check_address(served.address(), is_input=True)


def test_credentials_of_the_environment_are_sent(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = served.add(1)
    served.login = basic("reader", "canary-ä")
    with pytest.raises(
        ClusterError, match=r"refuses the credentials, HTTP status 401; check DICOM"
    ):
        paths(opened(served))
    assert len(served.asked) == 1  # asking again would lock an account
    monkeypatch.setenv(login.USERNAME, "reader")
    open_archive.cache_clear()
    with pytest.raises(SpecError, match="one alone is set"):
        opened(served)
    monkeypatch.setenv(login.PASSWORD, "canary-ä")
    assert paths(opened(served)) == [path]
    assert opened(served).read(path.encode(), LIMITS) == b"x"


def test_credentials_of_netrc_are_sent(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = served.add(1)
    served.login = basic("reader", "canary")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password canary\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert paths(opened(served)) == [path]


def test_a_token_that_runs_out_is_asked_for_again(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, token = served.add(1), tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setenv(login.TOKEN_COMMAND, f"cat '{token}'")
    served.login = "Bearer first"
    found = opened(served)
    assert paths(found) == [path]
    served.login = "Bearer second"
    token.write_text("second\n")
    assert found.read(path.encode(), LIMITS) == b"x"
    assert served.logins[-2:] == ["Bearer first", "Bearer second"]
    served.login = "Bearer canary"
    with pytest.raises(ClusterError, match="refuses the credentials, HTTP status 401") as caught:
        found.read(path.encode(), LIMITS)
    assert "second" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "problem"),
    [("false", "exit status 1"), ("true", "it printed no token"), ("echo canary b", "no token"),
     ("/nonexistent/x", "No such file")],
)  # fmt: skip
def test_a_token_command_that_fails_is_one_line(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch, command: str, problem: str
) -> None:
    monkeypatch.setenv(login.TOKEN_COMMAND, command)
    with pytest.raises(
        ClusterError, match=rf"DICOMWEB_TOKEN_COMMAND gave no .*{problem}"
    ) as caught:
        paths(opened(served))
    assert "canary" not in str(caught.value)


def test_a_token_command_out_of_form_is_a_spec_error(
    served: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(login.TOKEN_COMMAND, "cat 'token")
    with pytest.raises(SpecError, match="is no command"):
        opened(served)
