"""Limits of a site that were read lately: who asks again, and when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpoctl.backends.slurm import kept

from ..conftest import FakeProgram

CONFIG = "echo 'SLURM_VERSION = 24.05.1'; echo 'MaxArraySize = 11'"


@pytest.fixture
def calls(fake_program: FakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose commands note each call."""
    noted = tmp_path / "calls"
    noted.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("sinfo", "sacctmgr"):
        fake_program(name, f"echo {name} >> {noted}")
    fake_program("scontrol", f"echo scontrol >> {noted}; {CONFIG}")
    return noted


def asked(calls: Path) -> int:
    return len(calls.read_text().split())


def test_what_was_read_lately_is_not_asked_for_again(calls: Path) -> None:
    begun = time.time()
    first = kept.read(begun)
    assert (first.tasks_per_array, asked(calls)) == (11, 6)
    assert kept.read(begun - 600) == first
    assert asked(calls) == 6
    kept.read(time.time())
    assert asked(calls) == 12


def test_another_cluster_has_limits_of_its_own(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.read(0.0)
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    kept.read(0.0)
    assert asked(calls) == 12


def test_a_question_without_an_answer_is_asked_again_the_next_time(
    calls: Path, fake_program: FakeProgram
) -> None:
    away = "echo 'Unable to contact slurm controller' >&2; exit 1"
    fake_program("scontrol", f"echo scontrol >> {calls}; {away}")
    assert kept.read(0.0).tasks_per_array is None
    fake_program("scontrol", CONFIG)
    assert kept.read(0.0).tasks_per_array == 11


def test_a_site_without_accounting_is_kept_too(calls: Path, fake_program: FakeProgram) -> None:
    none = "You are not running a supported accounting_storage plugin"
    fake_program("sacctmgr", f"echo sacctmgr >> {calls}; echo '{none}' >&2; exit 1")
    kept.read(0.0)
    kept.read(0.0)
    assert asked(calls) == 6


def test_a_site_that_shows_nobody_what_is_used_is_kept_without_its_grants(
    calls: Path, fake_program: FakeProgram
) -> None:
    qos = "case \"$*\" in *'show qos'*) printf 'Name|GrpTRESMins\nnormal|cpu=9\n';; esac"
    denied = "case \"$*\" in *assoc_mgr*) echo 'Access/permission denied' >&2; exit 1;; esac"
    fake_program("sacctmgr", f"echo sacctmgr >> {calls}; {qos}")
    fake_program("scontrol", f"echo scontrol >> {calls}; {denied}; {CONFIG}")
    first = kept.read(0.0)
    assert [(known.name, known.caps) for known in first.qos] == [("normal", ())]
    assert kept.read(0.0) == first
    assert asked(calls) == 7


def test_a_file_that_is_torn_or_cannot_be_written_costs_a_question(
    calls: Path, tmp_path: Path
) -> None:
    kept.read(0.0)
    (file,) = (tmp_path / "state" / "hpoctl").glob("limits-*.json")
    file.write_text('{"asked_at": 1')
    assert kept.read(0.0).tasks_per_array == 11
    file.unlink()
    file.mkdir()
    assert kept.read(0.0).tasks_per_array == 11
    assert asked(calls) == 18
