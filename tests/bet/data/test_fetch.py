"""A file arrives whole and right or not at all, whatever the server, the line or a kill -9 does."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bet.data.fetch import DownloadError, Expected, Patience, fetch
from tests.bet.data.server import File, serving

CONTENT = np.random.default_rng(0).bytes(1_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64
QUICK = Patience(connect_seconds=5, read_seconds=0.5, tries=3, pause_seconds=0.01)


def refused(url: str, path: Path, expected: Expected | None = None) -> str:
    with pytest.raises(DownloadError) as error:
        fetch(url, path, expected, patience=QUICK)
    assert "\n" not in str(error.value)
    assert not path.exists()
    return str(error.value)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_with_its_digest_and_leaves_nothing_else(tmp_path: Path) -> None:
    seen = []
    with serving(f=File(CONTENT)) as server:
        found = fetch(f"{server.url}/f", tmp_path / "f", progress=lambda done, total: seen.append((done, total)))
    assert found == SHA256
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert left(tmp_path) == {"f"}
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_an_empty_file_arrives(tmp_path: Path) -> None:
    with serving(f=File(b"")) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f") == hashlib.sha256(b"").hexdigest()


def test_a_line_that_breaks_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, cut_after=[400_000, 300_000])) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert server.ranges() == [None, "bytes=400000-", "bytes=700000-"]
    assert server.sent == len(CONTENT)


def test_a_line_that_breaks_often_but_moves_on_is_not_given_up(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, cut_after=[100_000] * 14)) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert len(server.asked) == 15


def test_a_line_that_brings_nothing_new_is_given_up_and_the_next_call_goes_on(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, cut_after=[600_000, 0, 0, 0])) as server:
        message = refused(f"{server.url}/f", tmp_path / "f")
        assert "the same command goes on from there" in message
        assert f"{server.url}/f" in message
        assert (tmp_path / "f.part").stat().st_size == 600_000
        server.files["/f"].cut_after.clear()
        assert fetch(f"{server.url}/f", tmp_path / "f") == SHA256
    assert server.sent == len(CONTENT)
    assert left(tmp_path) == {"f"}


@pytest.mark.parametrize(
    "validator", [{"etag": '"v1"'}, {"etag": "", "last_modified": "Sun, 06 Nov 1994 08:49:37 GMT"}]
)
def test_a_rest_is_asked_for_on_condition_that_nothing_changed(tmp_path: Path, validator: dict[str, str]) -> None:
    with serving(f=File(CONTENT, cut_after=[100_000], **validator)) as server:  # type: ignore[arg-type]
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK)
    assert server.asked[1].headers["If-Range"] == (validator["etag"] or validator["last_modified"])


@pytest.mark.parametrize("etag", ["", 'W/"v1"'], ids=["none", "weak"])
def test_without_a_strong_validator_it_starts_over(tmp_path: Path, etag: str) -> None:
    with serving(f=File(CONTENT, etag=etag, cut_after=[100_000])) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert server.ranges() == [None, None]


def test_a_server_that_ignores_ranges_is_read_from_the_start(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, ranges=False, cut_after=[700_000])) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert [request.status for request in server.asked] == [200, 200]


@pytest.mark.parametrize("if_range", [True, False], ids=["answered whole", "answered with the rest all the same"])
def test_content_that_changed_in_the_middle_starts_over(tmp_path: Path, if_range: bool) -> None:
    new = CONTENT[::-1]
    with serving(f=File(CONTENT, if_range=if_range, cut_after=[700_000, 0, 0, 0])) as server:
        refused(f"{server.url}/f", tmp_path / "f")
        server.files["/f"] = File(new, if_range=if_range)
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == hashlib.sha256(new).hexdigest()
    assert (tmp_path / "f").read_bytes() == new


def test_content_that_became_shorter_than_what_is_here_starts_over(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, etag='"same"', cut_after=[700_000, 0, 0, 0])) as server:
        refused(f"{server.url}/f", tmp_path / "f")
        server.files["/f"] = File(CONTENT[:600_000], etag='"same"')
        found = fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK)
    assert [request.status for request in server.asked[-2:]] == [416, 200]
    assert found == hashlib.sha256(CONTENT[:600_000]).hexdigest()


def test_a_part_of_another_url_is_not_continued(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, cut_after=[700_000, 0, 0, 0]), g=File(CONTENT)) as server:
        refused(f"{server.url}/f", tmp_path / "f")
        fetch(f"{server.url}/g", tmp_path / "f", patience=QUICK)
    assert server.ranges()[-1] is None


def test_a_note_beside_the_part_that_is_torn_starts_over(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, cut_after=[700_000, 0, 0, 0])) as server:
        refused(f"{server.url}/f", tmp_path / "f")
        (tmp_path / "f.part.json").write_text('{"url": ')
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert server.ranges()[-1] is None


def test_a_body_without_a_length_ends_with_the_connection(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, length=False)) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f") == SHA256


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, status: int) -> None:
    with serving(f=File(CONTENT, statuses=[status, status])) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert [request.status for request in server.asked] == [status, status, 200]


def test_a_server_that_says_when_to_come_back_is_heard(tmp_path: Path) -> None:
    patient = Patience(tries=2, pause_seconds=3600)
    with serving(f=File(CONTENT, statuses=[503], headers={"Retry-After": "0"})) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=patient) == SHA256


def test_a_server_that_stays_in_trouble_is_named_with_its_status(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, statuses=[500] * 9)) as server:
        assert "the server says 500 Internal Server Error, tried 3 times" in refused(f"{server.url}/f", tmp_path / "f")
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path: Path, status: int) -> None:
    with serving(f=File(CONTENT, statuses=[status])) as server:
        assert f"/f: the server says {status}" in refused(f"{server.url}/f", tmp_path / "f")
    assert len(server.asked) == 1


def test_a_server_that_falls_silent_is_left_and_taken_up_again(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, stall_after=393_216)) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert server.ranges() == [None, "bytes=393216-", "bytes=786432-", "bytes=1179648-"]


def test_a_server_that_never_speaks_is_one_clear_error(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, stall_after=0)) as server:
        assert "no answer in time, tried 3 times" in refused(f"{server.url}/f", tmp_path / "f")


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with serving() as server:
        url = server.url
    assert refused(f"{url}/f", tmp_path / "f").startswith(f"{url}/f: Connection refused, tried 3 times")


def test_a_wrong_digest_names_both_and_the_file_is_never_used(tmp_path: Path) -> None:
    with serving(f=File(CONTENT)) as server:
        message = refused(f"{server.url}/f", tmp_path / "f", Expected(OTHER, "as published"))
        assert SHA256 in message
        assert OTHER in message
        assert left(tmp_path) == {"f.rejected"}
        assert (tmp_path / "f.rejected").read_bytes() == CONTENT
        refused(f"{server.url}/f", tmp_path / "f", Expected(OTHER, "as published"))
    assert server.ranges() == [None, None]  # what was rejected is not continued


def test_a_digest_announced_on_the_way_is_held_against_the_file(tmp_path: Path) -> None:
    announcing = File(b"", redirect="/blob", headers={"X-Linked-Etag": f'"{OTHER}"'})
    with serving(f=announcing, blob=File(CONTENT, cut_after=[700_000])) as server:
        message = refused(f"{server.url}/f", tmp_path / "f")
        assert f"expected {OTHER} (announced by the server)" in message
        announcing.headers["X-Linked-Etag"] = f'"{SHA256}"'
        assert fetch(f"{server.url}/f", tmp_path / "f") == SHA256


def test_another_digest_announced_than_expected_downloads_nothing(tmp_path: Path) -> None:
    announcing = File(b"", redirect="/blob", headers={"X-Linked-Etag": f'"{SHA256}"'})
    with serving(f=announcing, blob=File(CONTENT)) as server:
        message = refused(f"{server.url}/f", tmp_path / "f", Expected(OTHER, "as published"))
    assert f"the server announces sha256 {SHA256}, expected {OTHER} (as published)" in message
    assert left(tmp_path) == set()


def test_the_etag_of_a_small_file_is_no_digest(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, headers={"X-Linked-Etag": f'"{"a" * 40}"'})) as server:
        assert fetch(f"{server.url}/f", tmp_path / "f") == SHA256


@pytest.mark.parametrize("target", ["http://example.org/f", "ftp://127.0.0.1/f", "file:///etc/passwd"])
def test_a_redirect_off_https_is_refused(tmp_path: Path, target: str) -> None:
    with serving(f=File(b"", redirect=target)) as server:
        assert f"leads to {target}, which is not https; refused" in refused(f"{server.url}/f", tmp_path / "f")


@pytest.mark.parametrize("url", ["http://example.org/f", "ftp://example.org/f", "file:///etc/passwd"])
def test_a_url_off_https_is_refused(tmp_path: Path, url: str) -> None:
    assert "is not https; refused" in refused(url, tmp_path / "f")


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    with serving(f=File(b"", redirect="/g"), g=File(b"", redirect="/f")) as server:
        assert "more than 10 redirects" in refused(f"{server.url}/f", tmp_path / "f")


def test_a_compressed_body_is_refused(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, headers={"Content-Encoding": "gzip"})) as server:
        assert "compressed (gzip) though asked not to" in refused(f"{server.url}/f", tmp_path / "f")
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_disk_that_is_full_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "f.part").symlink_to("/dev/full")
    with serving(f=File(CONTENT)) as server:
        assert "No space left on device; the same command goes on from there" in refused(
            f"{server.url}/f", tmp_path / "f"
        )


def test_a_file_larger_than_the_disk_is_refused_before_it_comes(tmp_path: Path) -> None:
    huge = File(CONTENT, length=False, headers={"Content-Length": str(10**18)})
    with serving(f=huge) as server:
        assert "needs 1,000,000,000,000,000,000 bytes more" in refused(f"{server.url}/f", tmp_path / "f")
    assert left(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="file"):
        fetch("https://example.org/f", tmp_path / "file" / "below" / "f", patience=QUICK)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with serving(f=File(CONTENT)) as server, pytest.raises(DownloadError, match="Permission denied"):
        fetch(f"{server.url}/f", tmp_path / "closed" / "f", patience=QUICK)


def test_a_download_killed_with_kill_9_fetches_only_the_rest(tmp_path: Path) -> None:
    with serving(f=File(CONTENT, pause=0.05)) as server:
        code = (
            "import sys; from pathlib import Path; from bet.data.fetch import fetch\n"
            "fetch(sys.argv[1], Path(sys.argv[2]))"
        )
        process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/f", str(tmp_path / "f")])
        part = tmp_path / "f.part"
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 300_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        have = part.stat().st_size
        assert 300_000 <= have < len(CONTENT)
        server.asked.clear()
        server.files["/f"].pause = 0.0
        assert fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK) == SHA256
    assert server.ranges() == [f"bytes={have}-"]
    assert server.sent == len(CONTENT) - have
    assert left(tmp_path) == {"f"}
