from __future__ import annotations

import csv
import json
import os
import shutil
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hpoctl import report
from hpoctl.errors import HpoctlError
from hpoctl.hours import Line
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report import Report
from hpoctl.sweep import Metric

LOSS = Metric(name="eval_loss")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEST = TrialRecord(
    number=0,
    state=TrialState.COMPLETE,
    values=(3.0,),
    params={"training.lr": 1e-06},
    steps={10: 4.0, 20: 3.0},
    started=NOON,
    ended=NOON + timedelta(seconds=5),
    attrs={"seed": 1, "gpus": 1, "node": "n1", "task": "1_0"},
)
FAILED = TrialRecord(
    number=1,
    state=TrialState.FAILED,
    params={"training.lr": 1e-05},
    started=NOON,
    ended=NOON,
    attrs={"error": "Traceback\nValueError: no\n"},
)
RUNNING = TrialRecord(number=2, state=TrialState.RUNNING, started=NOON, steps={10: 5.0})
WAITING = TrialRecord(number=3, state=TrialState.WAITING)
ALL = (BEST, FAILED, RUNNING, WAITING)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory whose path has a space and whose first trial left everything it can."""
    path = tmp_path / "my runs" / "gpt2"
    left = path / "trials" / "00000"
    (left / "checkpoint").mkdir(parents=True)
    (left / "checkpoint" / "model.bin").write_bytes(b"weights")
    (left / "log.txt").write_text("a line\n")
    lines = ({"step": s, "value": v, "train_loss": v + 1} for s, v in BEST.steps.items())
    (left / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write(run_dir: Path, records: Sequence[TrialRecord] = ALL) -> Report:
    return report.write(
        records,
        [LOSS],
        report_dir=run_dir / "report",
        results_dir=run_dir / "trial_results",
        trials_dir=run_dir / "trials",
    )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file under the folder by name, with its inode: a file that was replaced has another."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def texts_of(folder: Path) -> dict[str, bytes]:
    """The content of every file under the folder by name."""
    return {name: text for name, (_, text) in contents(folder).items()}


def test_a_report_is_where_it_says(run_dir: Path) -> None:
    written = write(run_dir)
    assert written == Report(
        report_dir=run_dir / "report",
        best_config=run_dir / "report" / "best_config.yaml",
        trials_summary=run_dir / "report" / "trials_summary.csv",
        gpu_hours=None,
        index=run_dir / "report" / "index.html",
        optimization_plot=run_dir / "report" / "optimization_plot.png",
        pareto_front=None,
        pareto_plot=None,
        trial_results=run_dir / "trial_results",
    )
    assert sorted(path.name for path in written.report_dir.iterdir()) == [
        "best_config.yaml",
        "index.html",
        "optimization_plot.png",
        "trials_summary.csv",
    ]
    assert written.best_config is not None
    assert written.best_config.read_text().startswith("# trial 0: eval_loss 3.0\n")
    with written.trials_summary.open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == [r.state.value for r in ALL]


def test_what_was_allocated_is_a_table_of_its_own(run_dir: Path) -> None:
    line = Line(
        task="7_0",
        node=None,
        gpus=2,
        started_at=0.0,
        allocated_s=10.0,
        startup_s=2.0,
        training_s=7.0,
        trials=1,
        reason=None,
        known_from="sacct",
    )
    written = report.write(
        ALL,
        [LOSS],
        report_dir=run_dir / "report",
        results_dir=run_dir / "trial_results",
        trials_dir=run_dir / "trials",
        ledger=[line],
    )
    assert written.gpu_hours is not None
    assert written.gpu_hours.read_text() == (
        "task,node,gpus,started,allocated_s,startup_s,training_s,idle_s,trials,known_from,reason\n"
        "7_0,,2,1970-01-01T00:00:00.000Z,10.0,2.0,7.0,1.0,1,sacct,\n"
    )


def test_every_trial_that_has_started_has_a_folder(run_dir: Path) -> None:
    results = write(run_dir).trial_results
    assert sorted(path.name for path in results.iterdir()) == ["trial_0", "trial_1", "trial_2"]
    assert sorted(path.name for path in (results / "trial_0").iterdir()) == [
        "checkpoint",
        "config.yaml",
        "log.txt",
        "metrics.csv",
    ]
    assert (results / "trial_0" / "metrics.csv").read_text() == (
        "step,value,train_loss\n10,4.0,5.0\n20,3.0,4.0\n"
    )
    assert (results / "trial_1" / "error.txt").read_text() == "Traceback\nValueError: no\n"


def test_log_and_checkpoint_are_relative_links_that_survive_a_move(run_dir: Path) -> None:
    write(run_dir)
    moved = run_dir.rename(run_dir.parent / "moved")
    folder = moved / "trial_results" / "trial_0"
    assert not (folder / "log.txt").readlink().is_absolute()
    assert (folder / "log.txt").read_text() == "a line\n"
    assert (folder / "checkpoint" / "model.bin").read_bytes() == b"weights"


def test_links_hold_where_the_results_stand_behind_a_symbolic_link(
    run_dir: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "scratch" / "deep" / "results"
    elsewhere.mkdir(parents=True)
    (run_dir / "trial_results").symlink_to(elsewhere)
    write(run_dir)
    assert (elsewhere / "trial_0" / "log.txt").read_text() == "a line\n"


def test_a_second_report_of_the_same_trials_changes_nothing(run_dir: Path) -> None:
    write(run_dir)
    before, texts = contents(run_dir), texts_of(run_dir)
    write(run_dir)
    after = contents(run_dir)
    assert {name: text for name, (_, text) in after.items()} == texts
    folders = [name for name in before if name.startswith("trial_results")]
    assert [after[name] for name in folders] == [before[name] for name in folders]


def test_without_a_complete_trial_there_is_no_best_configuration(run_dir: Path) -> None:
    assert write(run_dir).best_config is not None
    assert write(run_dir, [FAILED, RUNNING]).best_config is None
    assert not (run_dir / "report" / "best_config.yaml").exists()


def test_a_study_without_trials_has_a_report_too(run_dir: Path) -> None:
    written = write(run_dir, [])
    assert written.best_config is None
    assert written.trials_summary.read_text().startswith("number,state,eval_loss,")
    assert written.optimization_plot.stat().st_size > 0
    assert list(written.trial_results.iterdir()) == []


def test_a_running_trial_is_followed_to_its_end(run_dir: Path) -> None:
    folder = run_dir / "trial_results" / "trial_2"
    write(run_dir)
    further = TrialRecord(number=2, state=TrialState.RUNNING, started=NOON, steps={10: 5, 20: 4})
    write(run_dir, [further])
    assert (folder / "metrics.csv").read_text() == "step,value\n10,5\n20,4\n"
    (run_dir / "trials" / "00002").mkdir()
    (run_dir / "trials" / "00002" / "log.txt").write_text("started\n")
    write(run_dir, [further])
    assert (folder / "log.txt").read_text() == "started\n"


def test_a_failed_trial_that_is_run_again_loses_its_error(run_dir: Path) -> None:
    write(run_dir)
    write(run_dir, [TrialRecord(number=1, state=TrialState.COMPLETE, values=(1.0,), started=NOON)])
    assert not (run_dir / "trial_results" / "trial_1" / "error.txt").exists()


def test_a_checkpoint_that_was_cleaned_up_leaves_no_dead_link(run_dir: Path) -> None:
    write(run_dir)
    checkpoint = run_dir / "trials" / "00000" / "checkpoint"
    (checkpoint / "model.bin").unlink()
    checkpoint.rmdir()
    write(run_dir)
    assert not (run_dir / "trial_results" / "trial_0" / "checkpoint").is_symlink()


def test_what_somebody_copied_in_the_place_of_a_link_stays(run_dir: Path) -> None:
    folder = run_dir / "trial_results" / "trial_0"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "kept.bin").write_bytes(b"mine")
    write(run_dir)
    assert (folder / "checkpoint" / "kept.bin").read_bytes() == b"mine"


def test_a_traceback_that_is_not_unicode_is_written(run_dir: Path) -> None:
    odd = TrialRecord(number=4, state=TrialState.FAILED, attrs={"error": "no file \udcff"})
    write(run_dir, [odd])
    assert (run_dir / "trial_results" / "trial_4" / "error.txt").read_text() == "no file \\udcff\n"


@pytest.mark.parametrize("whole_files", range(5))
def test_a_report_killed_half_way_leaves_every_file_old_or_new_and_whole(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, whole_files: int
) -> None:
    more = [*ALL, TrialRecord(number=9, state=TrialState.COMPLETE, values=(1.0,), started=NOON)]
    write(run_dir, more)
    new = texts_of(run_dir)
    shutil.rmtree(run_dir / "trial_results")
    write(run_dir)
    old = texts_of(run_dir)
    write_bytes, written = Path.write_bytes, list[Path]()

    def half(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) <= whole_files:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        write(run_dir, more)
    left = texts_of(run_dir)
    assert all(text in (old.get(name), new.get(name)) for name, text in left.items())
    assert set(old) <= set(left) <= set(new)
    assert sum(left.get(name) != old.get(name) for name in new) == whole_files


def test_a_folder_whose_writing_was_broken_off_is_completed_by_the_next_report(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def no_config(path: Path, content: bytes) -> int:
        if "config.yaml" in path.name and "best" not in path.name:
            raise KeyboardInterrupt
        return whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_config)
        with pytest.raises(KeyboardInterrupt):
            write(run_dir)
    folder = run_dir / "trial_results" / "trial_0"
    (folder / "metrics.csv").write_text("step,va")
    write(run_dir)
    assert (folder / "metrics.csv").read_text().startswith("step,value,train_loss\n10,")
    assert (folder / "config.yaml").exists()


def test_a_place_that_cannot_be_written_is_named(run_dir: Path) -> None:
    (run_dir / "report").write_text("a file")
    with pytest.raises(HpoctlError, match=r"gpt2/report: File exists; the report is not complete"):
        write(run_dir)


def test_a_report_can_be_read_by_whom_the_umask_allows(run_dir: Path) -> None:
    old = os.umask(0o027)
    try:
        written = write(run_dir)
    finally:
        os.umask(old)
    assert stat.S_IMODE(written.trials_summary.stat().st_mode) == 0o640
