"""scripts/pretrain_sizes.py in miniature."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "pretrain_sizes.py"


def test_it_trains_at_two_sizes_and_at_one_and_shows_both(tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("pretrain_sizes", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "PHOTO_SIZES", ((300, 260),))
    monkeypatch.setattr(script, "SIZES", {"multi": "[32, 40]", "single": "[40]"})
    small = ("train.epochs=2", "fc.width=8", "test.sizes=[36]", "test.views=[full]", "runtime.device=cpu")
    script.main([str(tmp_path), "--photos", "16", "6", *small])
    shown = capsys.readouterr().out
    assert "objects to train" in shown
    for name, sizes in (("multi", "[32, 40]"), ("single", "[40]")):
        assert f"{name}, trained at {sizes}" in shown
        assert (tmp_path / name / "metrics.json").is_file()
    assert shown.count("full") == 2
