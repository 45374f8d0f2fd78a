"""What `serve` refuses before it listens."""

from __future__ import annotations

import socket

import pytest

from tests.command_line import assert_one_line, spp_det

SMALL = ("backbone.name=zf5_small", "backbone.weights=random", "backbone.scales=[96]")


@pytest.fixture
def folders(tmp_path) -> tuple[str, ...]:
    (tmp_path / "photos").mkdir()
    return ("--photos", str(tmp_path / "photos"), "--labels", str(tmp_path / "labels"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--host", "0.0.0.0"), ("--host 0.0.0.0", "--token", "SPP_DET_TOKEN")),
        (("--host", "::"), ("--host ::", "--token")),
        (("--host", "example.org"), ("--host example.org", "--token")),
        (("--token", "short"), ("--token", "8")),
        (("--token", "with a blank"), ("--token",)),
        (("--token", "ünprintable"), ("--token",)),
        (("--label-studio", "localhost:8080"), ("--label-studio localhost:8080",)),
        (("--model", "none.safetensors"), ("none.safetensors",)),
        (("--port", "65536"), ("--port",)),
        (("--score", "2"), ("--score",)),
    ],
)
def test_a_mistake_ends_in_a_line(folders, options, named, monkeypatch):
    monkeypatch.delenv("SPP_DET_TOKEN", raising=False)
    assert_one_line(spp_det("serve", "squeezenet_svm", *SMALL, *folders, *options), *named)


@pytest.mark.parametrize("setting", ["finetune.enabled=true", "features=rcnn"])
def test_a_recipe_that_learns_slowly_is_refused(folders, setting):
    ended = spp_det("serve", "squeezenet_svm", *SMALL, "fc.layer=fc7", setting, *folders)
    assert_one_line(ended, setting.partition("=")[0])


def test_a_folder_of_photos_must_be_there(tmp_path):
    folders = ("--photos", tmp_path / "none", "--labels", tmp_path / "labels")
    assert_one_line(spp_det("serve", "squeezenet_svm", *SMALL, *folders), "none", "no such folder")


def test_a_port_in_use_is_named(folders):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = spp_det("serve", "squeezenet_svm", *SMALL, *folders, "--port", port)
    assert_one_line(ended, f"--port {port}", "in use")


def test_two_servers_do_not_share_their_labels(folders, tmp_path):
    from spp_det.runtime.run_folder import alone_in

    with alone_in(tmp_path / "labels"):
        assert_one_line(spp_det("serve", "squeezenet_svm", *SMALL, *folders), "another run is at work")


def test_without_its_packages_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert_one_line(spp_det("serve", "squeezenet_svm", *SMALL, *folders), "pip install spp_det[serve]")
