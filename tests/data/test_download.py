"""Downloading Pascal VOC with the network cut at its edge: torchvision's own code, a server of ours."""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from spp_det.data.download import DEVKIT, download_voc, missing_file
from spp_det.data.joined import read_voc_splits
from spp_det.data.synthetic import generate_voc
from spp_det.errors import UserError

SPLITS = ("VOC2007:trainval", "VOC2007:test")


class Server:
    """Stands for the internet: what it holds by file name, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.error: Exception | None = None

    def urlopen(self, request, *_, **__):
        if self.error is not None:
            raise self.error
        name = request.full_url.rsplit("/", 1)[1]
        if request.get_header("Method") != "HEAD":
            self.asked.append(name)
        if name not in self.files:
            raise HTTPError(request.full_url, 404, "Not Found", {}, None)
        answer = io.BytesIO(self.files[name])
        answer.url, answer.length = request.full_url, len(self.files[name])
        return answer


def archive_of(root: Path, split: str) -> bytes:
    """A tar like the devkit's: the images, annotations and list of one split."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            if path.stem == split or path.name.startswith(f"{split}_"):
                tar.add(path, f"{DEVKIT}/VOC2007/{path.relative_to(root)}")
    return whole.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    """It has small archives of generated photos under the names, and with checksums, of VOC 2007's."""
    server = Server()
    generate_voc(tmp_path / "photos", {"trainval": 3, "test": 2}, sizes=((100, 96),))
    for key, split in (("2007", "trainval"), ("2007-test", "test")):
        data = archive_of(tmp_path / "photos", split)
        server.files[DATASET_YEAR_DICT[key]["filename"]] = data
        monkeypatch.setitem(DATASET_YEAR_DICT[key], "md5", hashlib.md5(data).hexdigest())
    monkeypatch.setattr("urllib.request.urlopen", server.urlopen)
    return server


def refusal(folder: Path, *splits: str) -> str:
    with pytest.raises(UserError) as caught:
        download_voc(folder, splits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_fetched_is_a_data_set(server, tmp_path):
    download_voc(tmp_path / "new" / "voc", SPLITS)
    dataset = read_voc_splits(tmp_path / "new" / "voc" / DEVKIT, SPLITS)
    assert [record.image_id for record in dataset.records] == [
        *(f"trainval_{i:05d}" for i in range(3)),
        *(f"test_{i:05d}" for i in range(2)),
    ]
    assert all(record.path.is_file() for record in dataset.records)
    assert server.asked == ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"]
    assert not list((tmp_path / "new" / "voc").glob(".*"))


def test_what_is_there_is_not_fetched_again(server, tmp_path, caplog):
    download_voc(tmp_path, SPLITS)
    server.error = URLError("no network")
    for archive in tmp_path.glob("*.tar"):
        archive.unlink()
    with caplog.at_level(logging.INFO, logger="spp_det"):
        download_voc(tmp_path, SPLITS)
    assert [f"{split} is in {tmp_path / DEVKIT}" for split in SPLITS] == caplog.messages


def test_a_file_that_is_gone_is_unpacked_again_from_the_archive(server, tmp_path):
    download_voc(tmp_path, SPLITS)
    gone = tmp_path / DEVKIT / "VOC2007" / "Annotations" / "test_00001.xml"
    gone.unlink()
    assert missing_file(tmp_path / DEVKIT, "VOC2007:test") == gone
    download_voc(tmp_path, SPLITS)
    assert gone.is_file()
    assert len(server.asked) == 2


def test_an_unpacking_that_was_killed_is_done_again(server, tmp_path, monkeypatch):
    """Though the last file that it wrote, cut short, is there."""
    last = tmp_path / DEVKIT / "VOC2007" / "Annotations" / "trainval_00002.xml"

    def killed(*_, **__):
        with tarfile.open(fileobj=io.BytesIO(server.files["VOCtrainval_06-Nov-2007.tar"])) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later have it
            tar.extractall(tmp_path)
        last.write_text("<annot")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.VOCDetection", killed)
        with pytest.raises(KeyboardInterrupt):
            download_voc(tmp_path, SPLITS[:1])
    assert missing_file(tmp_path / DEVKIT, SPLITS[0]) is None
    download_voc(tmp_path, SPLITS[:1])
    assert len(read_voc_splits(tmp_path / DEVKIT, SPLITS[:1])) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError(OSError(-3, "Temporary failure in name resolution")), "Temporary failure"),
        (URLError("unknown url"), "unknown url"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(), "OSError"),
    ],
)
def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(server, tmp_path, error, reason):
    server.error = error
    message = refusal(tmp_path / "voc", *SPLITS)
    archive = DATASET_YEAR_DICT["2007"]
    for part in (
        reason,
        archive["url"],
        archive["filename"],
        archive["md5"],
        f"by hand into {tmp_path / 'voc'}",
    ):
        assert part in message


def test_a_page_that_is_not_there_is_named(server, tmp_path):
    server.files.clear()
    message = refusal(tmp_path, "VOC2012:trainval")
    assert "Not Found" in message
    assert "VOCtrainval_11-May-2012.tar" in message


def test_an_archive_put_there_by_hand_needs_no_network(server, tmp_path):
    for name, data in server.files.items():
        (tmp_path / name).write_bytes(data)
    server.error = URLError("no network")
    with pytest.raises(UserError, match="could not fetch"):
        download_voc(tmp_path, ["VOC2012:trainval"])
    download_voc(tmp_path, SPLITS)
    assert len(read_voc_splits(tmp_path / DEVKIT, SPLITS)) == 5


@pytest.mark.parametrize("damage", ["half", "page", "empty"])
def test_what_is_not_the_archive_is_refused_and_fetched_again_next_time(server, tmp_path, damage):
    name = DATASET_YEAR_DICT["2007"]["filename"]
    whole = server.files[name]
    server.files[name] = {"half": whole[: len(whole) // 2], "page": b"<html>moved", "empty": b""}[damage]
    message = refusal(tmp_path, *SPLITS)
    assert f"{tmp_path / name} is not what" in message
    assert "remove it and try again" in message
    server.files[name] = whole
    download_voc(tmp_path, SPLITS)
    assert len(read_voc_splits(tmp_path / DEVKIT, SPLITS)) == 5


def test_an_archive_that_lacks_a_file_is_named(server, tmp_path, monkeypatch):
    data = archive_of(tmp_path / "photos", "test")
    archive = DATASET_YEAR_DICT["2007"]
    server.files[archive["filename"]] = data
    monkeypatch.setitem(archive, "md5", hashlib.md5(data).hexdigest())
    assert "trainval.txt" in refusal(tmp_path / "voc", *SPLITS)


def test_a_split_that_nobody_offers_is_named_before_any_is_fetched(server, tmp_path):
    message = refusal(tmp_path / "voc", "VOC2007:trainval", "VOC2012:test")
    assert "'VOC2012:test'" in message
    assert "VOC2007:trainval, VOC2007:test, VOC2012:trainval" in message
    assert server.asked == []
    assert not (tmp_path / "voc").exists()
