"""What is there is not fetched again."""

from __future__ import annotations

import shutil

from tests.command_line import assert_one_line, spp_det


def test_a_download_of_what_is_there_needs_no_network_and_another_names_what_there_is(cli_folder, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    shutil.copytree(cli_folder / "voc", tmp_path / "VOCdevkit" / "VOC2007")
    ended = spp_det("download", tmp_path)
    assert ended.code == 0, ended.err
    assert f"VOC2007:test is in {tmp_path / 'VOCdevkit'}" in ended.err
    assert_one_line(spp_det("download", tmp_path, "VOC2012:test"), "VOC2012:test", "VOC2012:trainval")
