"""An archive from elsewhere writes plain files below one folder, or nothing that is used."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bet.data.archive import extract
from bet.data.episodes import DataError

LIMIT = 1_000_000
Maker = Callable[[Path, dict[str, bytes]], Path]


def make_zip(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "a.zip"


def make_tar(folder: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / "a.tar.gz"


def special_zip(folder: Path, mode: int) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("data/odd")
        info.create_system = 3  # Unix
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return folder / "a.zip"


def special_tar(folder: Path, kind: bytes, target: str = "") -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        info = tarfile.TarInfo("data/odd")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return folder / "a.tar"


def refused(archive: Path, into: Path) -> str:
    with pytest.raises(DataError) as error:
        extract(archive, into, ("data",), LIMIT)
    assert str(archive) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[make_zip, make_tar])
def make(request: pytest.FixtureRequest) -> Maker:
    return request.param


def test_the_folders_asked_for_are_unpacked_and_no_others(tmp_path: Path, make: Maker) -> None:
    members = {"data/a": b"1", "data/deep/b": b"22", "database/c": b"3", "__MACOSX/data/a": b"4", "top": b"5"}
    extract(make(tmp_path, members), tmp_path / "out", ("data",), LIMIT)
    assert files(tmp_path / "out") == {"data/a": b"1", "data/deep/b": b"22"}


def test_neither_permissions_nor_owners_are_taken_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("data/a")
        info.mode, info.uid = 0o4777, 12345
        archive.addfile(info)
    extract(tmp_path / "a.tar", tmp_path / "out", ("data",), LIMIT)
    mode = (tmp_path / "out" / "data" / "a").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH)


@pytest.mark.parametrize("name", ["/abs", "../up", "data/../../up", "data/../up", "C:/up", "data\\..\\up"])
def test_a_member_that_points_outside_is_refused(tmp_path: Path, make: Maker, name: str) -> None:
    message = refused(make(tmp_path, {"data/a": b"1", name: b"2"}), tmp_path / "out")
    assert "points outside the archive; refused" in message
    assert set(files(tmp_path)) <= {"a.zip", "a.tar.gz", "out/data/a"}


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "special file")])
def test_a_link_or_device_in_a_zip_is_refused(tmp_path: Path, mode: int, what: str) -> None:
    assert f"'data/odd' is a {what}" in refused(special_zip(tmp_path, mode), tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "target", "what"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "link"),
        (tarfile.SYMTYPE, "a", "link"),
        (tarfile.LNKTYPE, "../../etc/passwd", "link"),
        (tarfile.CHRTYPE, "", "special file"),
        (tarfile.FIFOTYPE, "", "special file"),
    ],
)
def test_a_link_or_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes, target: str, what: str) -> None:
    assert f"'data/odd' is a {what}" in refused(special_tar(tmp_path, kind, target), tmp_path / "out")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path, {f"data/{i}": bytes(400_000) for i in range(10)})
    assert archive.stat().st_size < 20_000
    assert "unpacks to more than 1,000,000 bytes; refused" in refused(archive, tmp_path / "out")
    assert sum(len(content) for content in files(tmp_path / "out").values()) <= LIMIT


def test_a_bomb_whose_header_lies_is_refused_all_the_same(tmp_path: Path) -> None:
    archive = make_zip(tmp_path, {"data/a": bytes(5_000_000)})
    lying = archive.read_bytes().replace((5_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    archive.write_bytes(lying)
    refused(archive, tmp_path / "out")
    assert sum(len(content) for content in files(tmp_path / "out").values()) <= LIMIT


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path, {"data/a": bytes(range(256)) * 1000})
    archive.write_bytes(archive.read_bytes()[:-600])
    assert "not a readable archive" in refused(archive, tmp_path / "out")


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path, {"data/a": bytes(range(256)) * 1000})
    content = bytearray(archive.read_bytes())
    content[200] ^= 0xFF
    archive.write_bytes(content)
    assert "not a readable archive" in refused(archive, tmp_path / "out")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>please log in</html>")
    assert "not a readable archive" in refused(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["data/a", "data/a/b"])
def test_two_members_in_one_place_are_refused(tmp_path: Path, second: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/a", "1")
        archive.writestr(second, "2")
    assert "two members in place of one" in refused(tmp_path / "a.zip", tmp_path / "out")
