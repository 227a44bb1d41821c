"""The run directory: its ledger survives a crash, and a study is found by any of its names."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpoctl import rundir
from hpoctl.errors import StudyError
from hpoctl.plan import JobArray
from hpoctl.rundir import Extension, Run, RunDir, Submission, slug
from hpoctl.words import BackendName, Gist, Mode, StorageKeys

STUDIES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=200)
FIRST = Submission(array="round-1", id="7", tasks=3, backend=BackendName.SLURM, at=1.5)
SECOND = Submission(array="round-2", id="8", tasks=3, backend=BackendName.SLURM, at=2.5)


def make_run(study: str, workdir: Path) -> Run:
    return Run(
        study=study,
        mode=Mode.BATCH,
        backend=BackendName.SLURM,
        trials=6,
        arrays=(JobArray(name="round-1", tasks=3), JobArray(name="round-2", tasks=3, after=("x",))),
        overrides=("workers=2",),
        workdir=workdir,
        created_at=1.25,
        gist=Gist(metrics=("b", "a"), gpu_hours=1.5, storage=StorageKeys(url_env="URL")),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """An environment of its own, in an empty folder."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


def submit(study: str, path: Path, environ: Mapping[str, str] | None = None) -> RunDir:
    made = RunDir(path)
    made.create(f"study: {study}\n", make_run(study, path.parent))
    if environ is not None:
        rundir.remember(made, environ)
    return made


def test_what_submit_decided_comes_back(tmp_path: Path) -> None:
    made = RunDir(tmp_path / "r")
    made.create("study: 'ä  '\n", make_run("s", tmp_path))
    assert made.run() == make_run("s", tmp_path)
    assert made.sweep_file.read_text(encoding="utf-8") == "study: 'ä  '\n"


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"^{tmp_path}: not a run directory, plan.json is missing"):
        RunDir(tmp_path).run()


def test_the_ledger_gives_submissions_in_their_order(tmp_path: Path) -> None:
    made = RunDir(tmp_path)
    assert made.submissions() == ()
    made.append(FIRST)
    made.append(SECOND)
    assert made.submissions() == (FIRST, SECOND)
    assert [json.loads(line)["id"] for line in made.ledger.read_text().splitlines()] == ["7", "8"]


@given(cut=st.integers(1, 60))
def test_a_line_torn_by_a_crash_is_not_written_and_the_next_one_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    made = RunDir(tmp_path_factory.mktemp("torn"))
    made.append(FIRST)
    made.append(SECOND)
    whole = made.ledger.read_text()
    made.ledger.write_text(whole[: -1 - cut])
    assert made.submissions() == (FIRST,)
    made.append(SECOND)
    assert made.submissions() == (FIRST, SECOND)


def test_trials_sort_as_their_numbers(tmp_path: Path) -> None:
    assert RunDir(tmp_path).trial(7) == tmp_path / "trials" / "00007"


def test_a_study_is_found_by_name_by_path_and_as_the_last(
    home: Mapping[str, str], tmp_path: Path
) -> None:
    first = submit("one", tmp_path / "a" / "one", home)
    second = submit("two", tmp_path / "b" / "two", home)
    assert rundir.find("one", home) == first
    assert rundir.find(str(first.path), home) == first
    assert rundir.find("last", home) == second
    assert rundir.find("../b/two", home).path.resolve() == second.path


def test_a_name_that_was_used_again_means_the_newest(
    home: Mapping[str, str], tmp_path: Path
) -> None:
    submit("one", tmp_path / "a", home)
    newer = submit("one", tmp_path / "b", home)
    assert rundir.find("one", home) == newer


def test_a_study_of_this_folder_is_found_without_the_index(home: Mapping[str, str]) -> None:
    made = submit("my sweep", Path.cwd() / "runs" / slug("my sweep"))
    assert rundir.find("my sweep", home) == made
    assert rundir.find("last", home) == made


def test_a_run_that_was_deleted_is_not_found(home: Mapping[str, str], tmp_path: Path) -> None:
    made = submit("one", tmp_path / "a", home)
    made.plan_file.unlink()
    with pytest.raises(StudyError):
        rundir.find("one", home)


def test_an_unknown_study_is_refused_with_the_known_ones(
    home: Mapping[str, str], tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as refused:
        rundir.find("one", home)
    assert str(refused.value) == "no study 'one' found; 'hpoctl submit SWEEP' starts one"
    submit("one", tmp_path / "a", home)
    submit("two", tmp_path / "b", home)
    with pytest.raises(StudyError) as refused:
        rundir.find("three", home)
    assert str(refused.value) == "no study 'three' found; known: two, one"


def test_a_home_that_cannot_be_written_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    submit("one", tmp_path / "a", {"XDG_STATE_HOME": str(tmp_path / "file")})
    assert "cannot be written" in caplog.text


def test_the_index_is_in_the_home_where_xdg_says_nothing(
    home: Mapping[str, str], tmp_path: Path
) -> None:
    submit("one", tmp_path / "a", {"HOME": str(tmp_path)})
    assert (tmp_path / ".local/state/hpoctl/runs").read_text() == f"{tmp_path}/a\n"


def test_a_name_that_is_safe_is_its_own_slug() -> None:
    assert slug("gpt2-lr_v1.2") == "gpt2-lr_v1.2"


def test_names_that_look_alike_have_different_slugs() -> None:
    names = ["my sweep", "my-sweep", "my  sweep", "my_sweep", "my-sweep-", "-my-sweep", "My-sweep"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("x" * 100) != slug("x" * 101)


@given(STUDIES, STUDIES)
def test_different_names_have_different_slugs(one: str, other: str) -> None:
    assume(one != other)
    assert slug(one) != slug(other)


@given(STUDIES)
def test_a_slug_is_always_a_safe_name_of_a_file(study: str) -> None:
    name = slug(study)
    assert name and name not in (".", "..") and not name.startswith("-")
    assert len(name) <= 67
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert Path(name).name == name and os.sep not in name


def test_the_budget_of_a_run_is_the_one_of_its_last_extend(tmp_path: Path) -> None:
    made = submit("s", tmp_path / "r")
    assert made.extension() is None
    larger = Extension(asked="+4", trials=10, at=2.5, done=False)
    made.note_extension(larger)
    assert (made.extension(), made.run().trials) == (larger, 10)
    with made.extensions_file.open("a") as torn:
        torn.write('{"asked": "+9", "tri')
    assert made.run().trials == 10
    done = dataclasses.replace(larger, done=True)
    made.note_extension(done)
    assert made.extension() == done


def test_a_run_is_locked_by_one_at_a_time_and_free_after_a_kill(tmp_path: Path) -> None:
    made = submit("s", tmp_path / "r")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from hpoctl.rundir import RunDir\n"
            "with RunDir(Path(sys.argv[1])).locked(): print(flush=True); sys.stdin.read()",
            str(made.path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder, (made.path / "lock").open("w") as lock:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait()
        with made.locked():
            pass
