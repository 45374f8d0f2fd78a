"""What a machine sees on which OpenCV does not import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import spp_det.runtime.opencv
from spp_det.errors import UserError


def import_afresh() -> None:
    """Run the module again, beside the one that the other tests use."""
    spec = importlib.util.spec_from_file_location("opencv_again", Path(spp_det.runtime.opencv.__file__))
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


class MissingLibrary:
    """A finder that fails on cv2 as the dynamic linker does."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file:\nNo such file or directory")


def test_missing_system_library_is_one_line_with_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.setattr(sys, "meta_path", [MissingLibrary(), *sys.meta_path])
    with pytest.raises(UserError) as caught:
        import_afresh()
    assert isinstance(caught.value, ImportError)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("libGL.so.1", "libgl1", "libglib2.0-0", "opencv-contrib-python-headless"):
        assert part in message


def test_build_without_selective_search_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    with pytest.raises(UserError, match=r"no cv2\.ximgproc.*opencv-contrib-python-headless"):
        import_afresh()
