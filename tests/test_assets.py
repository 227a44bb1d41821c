"""Files that come with the package, in the wheel or beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpoctl import assets


def test_a_file_is_read_from_the_checkout_where_there_is_no_wheel() -> None:
    beside = Path(__file__).parents[1] / "slurm" / "worker.sh"
    assert assets.read("slurm/worker.sh") == beside.read_text(encoding="utf-8")


def test_a_file_in_the_wheel_goes_before_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, text in ((tmp_path / "hpoctl/_assets", "wheel"), (tmp_path, "checkout")):
        (folder / "slurm").mkdir(parents=True)
        (folder / "slurm/worker.sh").write_text(text)
    monkeypatch.setattr(assets, "files", lambda package: tmp_path / package)
    assert assets.read("slurm/worker.sh") == "wheel"
    (tmp_path / "hpoctl/_assets/slurm/worker.sh").unlink()
    assert assets.read("slurm/worker.sh") == "checkout"


def test_a_folder_can_be_listed() -> None:
    assert "sweep.yaml" in {entry.name for entry in assets.asset("templates/starter").iterdir()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_text_is_utf_8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(assets, "files", lambda package: tmp_path / package)
    (tmp_path / "hpoctl").mkdir(exist_ok=True)
    (tmp_path / "note.txt").write_bytes(text.encode())
    assert assets.read("note.txt") == text.replace("\r\n", "\n").replace("\r", "\n")
