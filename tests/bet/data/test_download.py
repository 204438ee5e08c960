"""A data set is in its place whole, opened once and recorded, or not at all; what changed since is noticed."""

import dataclasses
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

from bet import tasks
from bet.config import ConfigError, make_config
from bet.data.download import DOWNLOADS_JSON, SOURCES, Remote, Source, download, source
from bet.data.episodes import DataError
from bet.data.fetch import DownloadError, Patience
from bet.data.formats import load
from bet.data.lerobot import LeRobotVersion
from bet.data.lerobot_writer import save_lerobot
from bet.data.pusht_zarr import load_pusht_zarr
from bet.layouts import PushTLayout
from tests.bet.data.samples import pusht as pusht_episodes
from tests.bet.data.server import File, Server, serving, serving_paths

QUICK = Patience(connect_seconds=5, read_seconds=1, tries=3, pause_seconds=0.01)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def replay_buffer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A zip of a small replay buffer, zarr v2, as Diffusion Policy publishes it."""
    folder = tmp_path_factory.mktemp("buffer")
    group = zarr.open_group(folder / "pusht" / "pusht_cchi_v7_replay.zarr", mode="w", zarr_format=2)
    for key, array in {
        "data/state": RNG.uniform(0, 6, (400, 5)).astype(np.float32),
        "data/action": RNG.uniform(0, 512, (400, 2)).astype(np.float32),
        "data/img": RNG.uniform(0, 255, (400, 16, 16, 3)).astype(np.float32),
        "meta/episode_ends": np.array([150, 400]),
    }.items():
        group.create_array(key, data=array, chunks=(100, *array.shape[1:]))
    shutil.make_archive(str(folder / "pusht"), "zip", folder, "pusht")
    return (folder / "pusht.zip").read_bytes()


def tarball(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def moved(found: Source, server: Server, sha256: dict[str, str] | None = None) -> Source:
    """A registered source as served here: the same paths on another host, without published digests."""
    return dataclasses.replace(
        found,
        files=tuple(
            Remote(server.url + urlsplit(remote.url).path, remote.path, (sha256 or {}).get(remote.path))
            for remote in found.files
        ),
    )


@pytest.fixture
def pusht(replay_buffer: bytes) -> Iterator[tuple[Source, Server, File]]:
    """The `pusht` source, its server and what it serves."""
    file = File(replay_buffer)
    with serving_paths({urlsplit(SOURCES["pusht"].files[0].url).path: file}) as server:
        yield moved(SOURCES["pusht"], server), server, file


def test_an_archive_becomes_a_data_set_that_its_task_loads(
    tmp_path: Path, pusht: tuple[Source, Server, File], replay_buffer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, server, _ = pusht
    done = download(found, tmp_path)
    assert done.fresh
    assert done.path == tmp_path / "pusht" / "pusht_cchi_v7_replay.zarr"
    assert done.digests == {found.files[0].url: hashlib.sha256(replay_buffer).hexdigest()}
    monkeypatch.setenv(tasks.DATA_DIR, str(tmp_path))
    episodes = tasks.get("pusht").load(make_config("pusht").data)
    assert episodes.lengths.tolist() == [150, 250]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{DOWNLOADS_JSON}.lock", DOWNLOADS_JSON, "pusht"]
    assert [path.name for path in (tmp_path / "pusht").iterdir()] == ["pusht_cchi_v7_replay.zarr"]
    again = download(found, tmp_path)
    assert not again.fresh
    assert again.digests == done.digests
    assert len(server.asked) == 1


def test_the_record_names_what_was_fetched_and_every_file_of_it(
    tmp_path: Path, pusht: tuple[Source, Server, File]
) -> None:
    found, *_ = pusht
    done = download(found, tmp_path)
    record = json.loads((tmp_path / DOWNLOADS_JSON).read_text())["pusht"]
    assert record["downloads"] == done.digests
    ends = done.path / "meta/episode_ends/0"
    assert record["files"]["meta/episode_ends/0"] == hashlib.sha256(ends.read_bytes()).hexdigest()
    assert len(record["files"]) == sum(path.is_file() for path in done.path.rglob("*"))


@pytest.mark.parametrize("what", ["was changed", "is missing", "was added"])
def test_what_changed_on_disk_is_noticed_and_mended_by_force(
    tmp_path: Path, pusht: tuple[Source, Server, File], what: str
) -> None:
    found, *_ = pusht
    path = download(found, tmp_path).path
    file = path / ("data/state/9.9" if what == "was added" else "data/state/1.0")
    if what == "is missing":
        file.unlink()
    else:
        file.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=what) as error:
        download(found, tmp_path)
    assert str(error.value).startswith(str(file))
    assert "--force" in str(error.value)
    assert download(found, tmp_path, force=True).fresh
    assert not download(found, tmp_path).fresh


def test_a_folder_that_was_put_there_by_hand_is_left_alone(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, server, _ = pusht
    mine = tmp_path / found.target / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(DataError, match="is there already, but not by a download"):
        download(found, tmp_path)
    assert mine.exists()
    assert not server.asked


def test_a_publisher_who_changes_an_archive_is_noticed(
    tmp_path: Path, pusht: tuple[Source, Server, File], replay_buffer: bytes
) -> None:
    found, _, file = pusht
    path = download(found, tmp_path).path
    before = load_pusht_zarr(path).digest
    file.content = replay_buffer + b"\0"
    with pytest.raises(DownloadError, match="as at the first download") as error:
        download(found, tmp_path, force=True)
    for content in (file.content, replay_buffer):
        assert hashlib.sha256(content).hexdigest() in str(error.value)
    assert load_pusht_zarr(path).digest == before  # what was there stays
    file.content = replay_buffer
    assert download(found, tmp_path, force=True).fresh


def test_a_published_digest_is_held_against_the_first_download(
    tmp_path: Path, pusht: tuple[Source, Server, File]
) -> None:
    _, server, _ = pusht
    with pytest.raises(DownloadError, match="as published"):
        download(moved(SOURCES["pusht"], server, {"pusht.zip": "0" * 64}), tmp_path)
    assert not (tmp_path / DOWNLOADS_JSON).exists()


def test_an_archive_that_its_loader_refuses_is_set_aside_and_not_trusted(
    tmp_path: Path, pusht: tuple[Source, Server, File], replay_buffer: bytes
) -> None:
    found, _, file = pusht
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("pusht/pusht_cchi_v7_replay.zarr/.zgroup", '{"zarr_format": 2}')
    file.content = made.getvalue()
    with pytest.raises(DataError, match="no array data/state") as error:
        download(found, tmp_path)
    assert ".rejected" in str(error.value)
    assert not (tmp_path / found.target).exists()
    file.content = replay_buffer
    assert download(found, tmp_path).fresh


def test_an_archive_without_the_folder_is_refused(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, _, file = pusht
    file.content = tarball({"elsewhere/a": b"1"})
    with pytest.raises(DataError, match="has no folder pusht/pusht_cchi_v7_replay"):
        download(found, tmp_path)


def test_a_malicious_archive_leaves_nothing_outside(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, _, file = pusht
    file.content = tarball({"../../../escaped": b"1"})
    with pytest.raises(DataError, match="points outside the archive"):
        download(found, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


def test_a_download_killed_with_kill_9_goes_on_where_it_was(
    tmp_path: Path, pusht: tuple[Source, Server, File], replay_buffer: bytes
) -> None:
    found, server, file = pusht
    file.pause = 0.05
    code = (
        "import dataclasses, sys; from pathlib import Path; from bet.data.download import Remote, SOURCES, download\n"
        "file = Remote(sys.argv[1], 'pusht.zip')\n"
        "download(dataclasses.replace(SOURCES['pusht'], files=(file,)), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, found.files[0].url, str(tmp_path)])
    deadline = time.monotonic() + 60
    while server.sent < 200_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = tmp_path.rglob("*.part")
    have = part.stat().st_size
    assert not (tmp_path / found.target).exists()
    server.asked.clear()
    file.pause = 0.0
    assert download(found, tmp_path).fresh
    assert server.ranges() == [f"bytes={have}-"]
    assert server.sent == len(replay_buffer) - have


def test_what_was_fetched_whole_is_not_fetched_again_after_a_kill_in_the_middle_of_unpacking(
    tmp_path: Path, pusht: tuple[Source, Server, File], replay_buffer: bytes
) -> None:
    found, server, _ = pusht
    work = (tmp_path / found.target).with_name(".pusht_cchi_v7_replay.zarr.download")
    (work / "unpacked" / "pusht").mkdir(parents=True)
    (work / "unpacked" / "pusht" / "half").write_bytes(b"1")
    (work / "fetched").mkdir()
    (work / "fetched" / "pusht.zip").write_bytes(replay_buffer)
    assert download(found, tmp_path).fresh
    assert not server.asked
    assert not work.exists()


def test_a_second_download_at_the_same_time_is_told_so(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, server, file = pusht
    file.pause = 0.1
    first = threading.Thread(target=download, args=(found, tmp_path))
    first.start()
    while not server.asked:
        time.sleep(0.01)
    with pytest.raises(DownloadError, match="another download into it is running"):
        download(found, tmp_path)
    file.pause = 0.0
    first.join()
    assert not download(found, tmp_path).fresh


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, *_ = pusht
    (tmp_path / DOWNLOADS_JSON).write_text("{")
    with pytest.raises(DataError, match=DOWNLOADS_JSON):
        download(found, tmp_path)


def test_a_data_folder_that_is_a_file_is_one_clear_error(tmp_path: Path, pusht: tuple[Source, Server, File]) -> None:
    found, *_ = pusht
    (tmp_path / "data").write_text("")
    with pytest.raises(DownloadError, match="data"):
        download(found, tmp_path / "data")


def lerobot(folder: Path, layout: PushTLayout = PushTLayout.AGENT) -> dict[str, bytes]:
    """The files of a small LeRobot data set."""
    save_lerobot(pusht_episodes(layout), folder, LeRobotVersion.V30)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "layout"),
    [("lerobot/pusht", PushTLayout.AGENT), ("lerobot/pusht_keypoints", PushTLayout.KEYPOINTS8)],
)
def test_the_files_of_a_hugging_face_data_set_are_fetched_one_by_one(
    tmp_path: Path, name: str, layout: PushTLayout
) -> None:
    contents = lerobot(tmp_path / "published", layout)
    paths = {remote.path: urlsplit(remote.url).path for remote in SOURCES[name].files}
    assert paths.keys() == contents.keys()
    files = {f"/blob/{path}": File(content) for path, content in contents.items()}
    for path, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        files[paths[path]] = File(b"", redirect=f"/blob/{path}", headers={"X-Linked-Etag": f'"{digest}"'})
    with serving_paths(files) as server:
        found = moved(SOURCES[name], server, {"meta/info.json": hashlib.sha256(contents["meta/info.json"]).hexdigest()})
        files["/blob/meta/stats.json"].statuses = [404]
        with pytest.raises(DownloadError, match="404"):
            download(found, tmp_path, patience=QUICK)
        asked = len(server.asked)
        done = download(found, tmp_path)
        assert len(server.asked) - asked == 4  # the two missing files, each over a redirect
    assert done.path == tmp_path / name
    assert {file: (done.path / file).read_bytes() for file in contents} == contents
    assert sum(path.is_file() for path in done.path.rglob("*")) == len(contents)


def test_a_file_once_rejected_is_not_installed_beside_the_sound_one(tmp_path: Path) -> None:
    contents = lerobot(tmp_path / "published")
    paths = {remote.path: urlsplit(remote.url).path for remote in SOURCES["lerobot/pusht"].files}
    files = {paths[path]: File(content) for path, content in contents.items()}
    digest = hashlib.sha256(contents["meta/info.json"]).hexdigest()
    with serving_paths(files) as server:
        found = moved(SOURCES["lerobot/pusht"], server, {"meta/info.json": digest})
        files[paths["meta/info.json"]].content = b"{}"
        with pytest.raises(DownloadError, match="set aside"):
            download(found, tmp_path)
        files[paths["meta/info.json"]].content = contents["meta/info.json"]
        done = download(found, tmp_path)
    assert {path.relative_to(done.path).as_posix() for path in done.path.rglob("*") if path.is_file()} == set(contents)


def test_a_hugging_face_data_set_of_another_length_is_refused(tmp_path: Path) -> None:
    contents = lerobot(tmp_path / "published")
    info = json.loads(contents["meta/info.json"])
    contents["meta/info.json"] = json.dumps(info | {"total_frames": info["total_frames"] + 1}).encode()
    paths = {remote.path: urlsplit(remote.url).path for remote in SOURCES["lerobot/pusht"].files}
    files = {paths[path]: File(content) for path, content in contents.items()}
    with (
        serving_paths(files) as server,
        pytest.raises(DataError, match=r"meta/info\.json says .* set aside"),
    ):
        download(moved(SOURCES["lerobot/pusht"], server), tmp_path)
    assert not (tmp_path / "lerobot/pusht").exists()


def test_demonstrations_of_another_task_are_refused(tmp_path: Path) -> None:
    contents = lerobot(tmp_path / "published")
    with serving_paths({f"/{path}": File(content) for path, content in contents.items()}) as server:
        files = tuple(Remote(f"{server.url}/{path}", path) for path in contents)
        found = dataclasses.replace(SOURCES["lerobot/pusht"], files=files, tasks={"kitchen": ""})
        with pytest.raises(DataError, match="holds demonstrations of 'pusht', expected 'kitchen'"):
            download(found, tmp_path)


BET = {
    "blockpush/multimodal_push_observations": np.zeros((4, 7, 16)),
    "blockpush/multimodal_push_actions": np.zeros((4, 7, 2)),
    "blockpush/multimodal_push_masks": np.tile(np.arange(7) < 5, (4, 1)).astype(float),
    "kitchen/observations_seq": np.zeros((9, 3, 60)),  # time first
    "kitchen/actions_seq": np.zeros((9, 3, 9)),
    "kitchen/existence_mask": np.ones((9, 3)),
}


def test_the_release_of_bet_is_unpacked_without_its_carla_data(tmp_path: Path) -> None:
    members = {f"bet_data_release/{name}.npy": npy(array) for name, array in BET.items()}
    members["bet_data_release/carla/all_observations.pth"] = b"\0" * 1000
    path = urlsplit(SOURCES["bet-release"].files[0].url).path
    with serving(a=File(tarball(members))) as server:
        server.files[path] = File(b"", redirect="/a")
        done = download(moved(SOURCES["bet-release"], server), tmp_path)
    assert done.path == tmp_path / "bet_data_release"
    assert sorted(folder.name for folder in done.path.iterdir()) == ["blockpush", "kitchen"]
    assert load(done.path / "kitchen").lengths.tolist() == [9, 9, 9]
    assert load(done.path / "blockpush").lengths.tolist() == [5, 5, 5, 5]


def test_of_the_release_the_kitchen_alone_may_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"bet_data_release/{name}.npy": npy(array) for name, array in BET.items()}
    files = {urlsplit(SOURCES["kitchen"].files[0].url).path: File(tarball(members))}
    with serving_paths(files) as server:
        download(moved(SOURCES["kitchen"], server), tmp_path)
    assert sorted(file.name for file in (tmp_path / "kitchen").iterdir()) == [
        "actions_seq.npy",
        "existence_mask.npy",
        "observations_seq.npy",
    ]
    monkeypatch.setenv(tasks.DATA_DIR, str(tmp_path))
    assert len(tasks.get("kitchen").load(make_config("kitchen").data)) == 3


@pytest.mark.parametrize("array", [np.zeros((4, 6)), np.array([object()]), None])
def test_a_release_of_bet_whose_arrays_do_not_fit_is_refused(tmp_path: Path, array: np.ndarray | None) -> None:
    members = {f"bet_data_release/{name}.npy": npy(content) for name, content in BET.items()}
    members["bet_data_release/blockpush/multimodal_push_masks.npy"] = b"" if array is None else npy(array)
    files = {urlsplit(SOURCES["bet-release"].files[0].url).path: File(tarball(members))}
    with serving_paths(files) as server, pytest.raises(DataError, match="set aside"):
        download(moved(SOURCES["bet-release"], server), tmp_path)
    assert not (tmp_path / "bet_data_release").exists()


def test_every_source_is_over_https_for_a_task_and_in_a_place_of_its_own() -> None:
    for found in SOURCES.values():
        assert all(remote.url.startswith("https://") for remote in found.files)
        assert all(remote.sha256 is None or len(remote.sha256) == 64 for remote in found.files)
        assert found.tasks
        assert found.unpack is None or len(found.files) == 1
    assert len({found.target for found in SOURCES.values()}) == len(SOURCES)


def test_the_place_of_pusht_is_where_its_task_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tasks.DATA_DIR, str(tmp_path))
    with pytest.raises(DataError) as error:
        tasks.get("pusht").load(make_config("pusht").data)
    assert str(tmp_path / SOURCES["pusht"].target) in str(error.value)


def test_an_unknown_name_gets_a_did_you_mean() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lerobot/pusht_keypoints'"):
        source("lerobot/pusht_keypoint")
