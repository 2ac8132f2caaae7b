import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.data.decode.decoders import DecoderPool
from orchestrator.errors import ClusterError, ImageError
from tests.conftest import ROOT
from tests.data.poison import LONG_PX, decode

MEMORY = 256 << 20


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(decode, 2, patience_s=3.0, size_px=4, max_memory=MEMORY)
    yield pool
    pool.close()


def outcomes(pool: DecoderPool, names: list[str]) -> list[int | str]:
    """Returns the number in each image, or the code of its error."""
    found: list[int | str] = []
    for future in [pool.submit(name) for name in names]:
        try:
            found.append(int(future.result(60).pixels[0, 0]))
        except ImageError as error:
            found.append(error.code)
    return found


def test_images_and_rejections_come_back_in_order(pool: DecoderPool) -> None:
    names = [f"slow:{n}" if n % 5 == 0 else f"ok:{n}" for n in range(40)]
    names[7] = "bad:"
    assert outcomes(pool, names) == [*range(7), "damaged", *range(8, 40)]


def test_work_is_spread_and_processes_stay(pool: DecoderPool) -> None:
    images = [pool.submit(f"slow:{n}") for n in range(20)]
    processes = {image.result(30).phash for image in images}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert pool.submit("ok:1").result(30).phash in processes


def test_crashes_and_hangs_cost_only_their_own_files(pool: DecoderPool) -> None:
    names = [f"ok:{n}" for n in range(60)]
    planted = {3: "crash:", 4: "abort:", 20: "hang:", 21: "crash:", 40: "spin:", 59: "bug:"}
    for place, name in planted.items():
        names[place] = name
    codes = {3: "crashed", 4: "crashed", 20: "hung", 21: "crashed", 40: "hung", 59: "crashed"}
    expected: list[int | str] = list(range(60))
    for place, code in codes.items():
        expected[place] = f"decoder_{code}"
    assert outcomes(pool, names) == expected


def test_a_message_says_how_the_process_ended_and_what_to_do(pool: DecoderPool) -> None:
    with pytest.raises(ImageError, match=r"signal 11\)\. \w.*source\.$"):
        pool.submit("crash:").result(30)


def test_a_file_whose_process_was_killed_by_another_is_decoded(
    pool: DecoderPool, tmp_path: Path
) -> None:
    assert outcomes(pool, ["ok:1", f"killed-once:{tmp_path / 'mark'}", "ok:2"]) == [1, 7, 2]


def test_killed_processes_lose_and_double_nothing(pool: DecoderPool) -> None:
    images = [pool.submit(f"slow:{n % 250}") for n in range(60)]
    num_killed = 0
    while num_killed < 3 and not images[-1].done():
        time.sleep(0.2)
        victim = next((i.result().phash for i in reversed(images) if i.done()), None)
        # The newest answer may be that of a process which was killed the last time.
        with contextlib.suppress(ProcessLookupError):
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
                num_killed += 1
    assert num_killed
    assert [int(i.result(60).pixels[0, 0]) for i in images] == list(range(60))


def test_no_process_to_be_had_is_an_error_of_the_cluster(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ClusterError, match="no decoding process could be started"):
        pool.submit("ok:1").result(30)
    monkeypatch.undo()
    assert pool.submit("ok:2").result(30).pixels[0, 0] == 2


def test_processes_end_with_the_one_that_started_them() -> None:
    code = """
import os, signal
from orchestrator.data.decode.decoders import DecoderPool
from tests.conftest import ROOT
from tests.data.poison import decode
from tests.conftest import ROOT
pool = DecoderPool(decode, 1, 60.0, 4)
print(pool.submit("ok:1").result().phash, flush=True)
pool.submit("hang:")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    for _ in range(100):
        try:
            state = Path(f"/proc/{int(done.stdout)}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the decoding process outlived its parent")


def test_a_file_that_takes_all_memory_costs_only_itself(pool: DecoderPool) -> None:
    names = [f"ok:{n}" for n in range(20)]
    names[3], names[4], names[11] = f"hog:{MEMORY >> 19}", "leak:", "hog:20"
    expected: list[int | str] = list(range(20))
    expected[3] = expected[4] = "out_of_memory"
    expected[11] = 9  # it fits
    assert outcomes(pool, names) == expected


def test_a_file_whose_process_the_system_ends_each_time_is_out_of_memory(pool: DecoderPool) -> None:
    assert outcomes(pool, ["ok:1", "killed:", "ok:2"]) == [1, "out_of_memory", 2]


def test_no_secret_of_the_environment_reaches_a_decoding_process(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MY_SECRET"):
        monkeypatch.setenv(name, "secret")
    with pytest.raises(ImageError) as caught:
        pool.submit("variables:").result(30)
    found = caught.value.message.split(". ")[0].split()
    assert {"PATH", "PYTHONPATH"} <= set(found)
    assert not {name for name in found if not name.startswith(("LC_", "PYTHON", "OMP_"))} - {
        *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
        *("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    }


@pytest.mark.parametrize(
    "forged",
    [
        pickle.dumps(print),
        b"",
        b"\x00",  # ready, though it was asked for an image
        b"\x01" + bytes(80),  # an image of size 0
        b"\x03\xff",  # a code that there is not
        b"\x03\x00\x1b[2J",  # a text that would clear a terminal
        bytes(100_000),  # longer than any answer
    ],
)
def test_a_forged_answer_is_not_believed(pool: DecoderPool, forged: bytes) -> None:
    names = ["ok:1", f"forge:{forged.hex()}", "ok:2"]
    assert outcomes(pool, names) == [1, "decoder_crashed", 2]


def test_files_and_answers_larger_than_a_socket_holds_do_not_wait_for_each_other() -> None:
    def fetch(file: int) -> str:
        if file == 3:
            raise ImageError("unreadable", "Refused.")
        return "long:" + "x" * (5_000_000 + file)

    pool = DecoderPool(decode, 1, patience_s=30.0, size_px=LONG_PX, fetch=fetch)
    images = [pool.submit(file) for file in range(6)]
    for file, image in enumerate(images):
        if file == 3:
            with pytest.raises(ImageError, match="Refused"):
                image.result(60)
        else:
            assert (image.result(60).pixels == (5_000_000 + file) % 250).all()
    pool.close()


def test_a_store_that_fails_does_not_keep_back_what_it_gave_before() -> None:
    asked, submitted = [], threading.Event()

    def fetch(file: str) -> str:
        submitted.wait(60)
        asked.append(file)
        if file != "ok:1":
            raise ClusterError("gone")
        return file

    pool = DecoderPool(decode, 1, patience_s=30.0, size_px=4, fetch=fetch)
    images = [pool.submit(file) for file in ["ok:1", *["ok:2"] * 20]]
    asked_before: list[int] = []

    images[0].add_done_callback(lambda _: asked_before.append(len(asked)))
    submitted.set()
    for image in images[1:]:
        with pytest.raises(ClusterError, match="gone"):
            image.result(60)
    assert images[0].result(60).pixels[0, 0] == 1
    assert asked_before[0] <= 3
    pool.close()


def test_storage_that_stalls_is_waited_for_and_a_decoder_that_hangs_is_not(tmp_path: Path) -> None:
    stalled = tmp_path / "fifo"
    os.mkfifo(stalled)

    def read(name: str) -> None:
        if name.startswith("stalled:"):
            stalled.read_bytes()

    pool = DecoderPool(decode, 1, patience_s=20.0, size_px=4, read=read)
    assert outcomes(pool, ["ok:1"]) == [1]
    pool._patience_s = 1.0
    image = pool.submit(f"stalled:{stalled}")
    time.sleep(4.0)
    assert not image.done()
    with stalled.open("wb") as writer:
        time.sleep(0.1)  # for both to have opened it
        writer.write(b"image")
    assert image.result(30).pixels[0, 0] in (8, 9)  # either has the bytes
    assert outcomes(pool, ["hang:", "ok:2"]) == ["decoder_hung", 2]
    pool.close()
