"""Arrays are handed over once, in order, as far as there is room, also over kills."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpoctl import arrays
from hpoctl.backends import slurm
from hpoctl.limits import Cap, Measure
from hpoctl.plan import JobArray
from hpoctl.rundir import Run, RunDir, Submission
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Mode

LIMIT = Cap(name="MaxSubmit", holder="you", measure=Measure.SUBMITTED, value=4, mine=True)
PIECES = tuple(JobArray(name=f"r.{k}", tasks=2) for k in (1, 2, 3))
SWEEP = Sweep(
    study="s",
    objective="m:f",
    search_space=SearchSpace({"a": Int(low=1, high=6)}),
    budget={"trials": 6},
)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose sbatch and squeue are a queue in a file: a line a task, `array script`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    queue = tmp_path / "queue"
    queue.touch()
    fake = {
        "sbatch": f"script=${{!#}}; id=$((100 + $(wc -l <{queue})));"
        f' echo "$*" >>{tmp_path}/asked; echo "$id $script" >>{queue};'
        f' echo "$id $script" >>{queue}; echo $id',
        "squeue": f'case "$*" in *%o*) sed "s/ /|/" {queue};; *) cut -d" " -f1 {queue};; esac',
    }
    for name, text in fake.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    made = RunDir(tmp_path / "run")
    made.create("study: s\n", run(tmp_path))
    return made


def run(workdir: Path) -> Run:
    return Run(
        study="s",
        mode=Mode.BATCH,
        backend=BackendName.SLURM,
        trials=6,
        arrays=PIECES,
        overrides=(),
        workdir=workdir,
        created_at=0.0,
        fed=(LIMIT,),
    )


def hand_over(run_dir: RunDir, *, resumed: bool = False) -> Sequence[Submission]:
    name = BackendName.SLURM
    return arrays.hand_over(PIECES, SWEEP, run_dir, name, caps=(LIMIT,), resumed=resumed)


def feeder(run_dir: RunDir, *, waits: bool = True, avoided: Sequence[str] = ()) -> arrays.Feeder:
    return arrays.Feeder(
        run=run_dir.run(),
        run_dir=run_dir,
        sweep=SWEEP,
        waits=lambda: waits,
        avoided=lambda: avoided,
    )


def queue(run_dir: RunDir) -> Path:
    return run_dir.path.parent / "queue"


def test_only_what_there_is_room_for_is_handed_over(run_dir: RunDir) -> None:
    assert [s.array for s in hand_over(run_dir)] == ["r.1", "r.2"]
    assert slurm.room((LIMIT,)) == 0
    assert [array.name for array in arrays.left(run_dir)] == ["r.3"]


def test_a_plan_remembers_the_limits_it_is_fed_under(run_dir: RunDir) -> None:
    assert run_dir.run().fed == (LIMIT,)
    assert run_dir.run().arrays == PIECES


def test_what_ended_makes_room_for_the_next_array_once(run_dir: RunDir) -> None:
    hand_over(run_dir)
    queue(run_dir).write_text("")
    for _ in range(3):
        feeder(run_dir).feed()
    assert [s.array for s in run_dir.submissions()] == ["r.1", "r.2", "r.3"]
    assert len(queue(run_dir).read_text().splitlines()) == 2


def test_what_is_fed_in_keeps_away_from_nodes_that_broke_meanwhile(run_dir: RunDir) -> None:
    hand_over(run_dir)
    queue(run_dir).write_text("")
    feeder(run_dir, avoided=["n2", "n7"]).feed()
    *before, last = (run_dir.path.parent / "asked").read_text().splitlines()
    assert "--exclude=n2,n7" in last
    assert not any("--exclude" in line for line in before)


def test_an_array_that_was_accepted_before_its_submitter_was_killed_is_not_submitted_again(
    run_dir: RunDir,
) -> None:
    queue(run_dir).write_text(f"41 {run_dir.script('r.1')}\n" * 2)
    first, second = hand_over(run_dir, resumed=True)[:2]
    assert (first.id, second.array) == ("41", "r.2")
    assert queue(run_dir).read_text().count("r.1.sh") == 2


def test_nothing_is_fed_where_no_trial_waits_or_after_a_cancel(run_dir: RunDir) -> None:
    hand_over(run_dir)
    queue(run_dir).write_text("")
    assert feeder(run_dir, waits=False).feed() == 0
    run_dir.note_cancel(2e9)
    assert feeder(run_dir).feed() == 0
    assert len(run_dir.submissions()) == 2


def test_what_joined_a_run_is_fed_in_behind_its_plan(run_dir: RunDir) -> None:
    hand_over(run_dir)
    joined = JobArray(name="attached-1", tasks=2, after=("r.3",))
    assert arrays.join(run_dir, lambda: [joined]) == (joined,)
    assert [array.name for array in arrays.left(run_dir)] == ["r.3", "attached-1"]
    queue(run_dir).write_text("")
    assert feeder(run_dir).feed() == 2
    assert [s.array for s in run_dir.submissions()] == ["r.1", "r.2", "r.3", "attached-1"]
    *_, last = (run_dir.path.parent / "asked").read_text().splitlines()
    assert f"--dependency=afterany:{run_dir.submissions()[2].id} " in last


def test_what_was_given_up_is_not_fed_in_and_what_joined_since_is(run_dir: RunDir) -> None:
    hand_over(run_dir)
    arrays.give_up(run_dir)
    assert arrays.left(run_dir) == ()
    assert [array.name for array in arrays.missing(run_dir)] == ["r.3"]
    arrays.join(run_dir, lambda: [JobArray(name="attached-1", tasks=2)])
    queue(run_dir).write_text("")
    assert feeder(run_dir).feed() == 1
    assert [s.array for s in run_dir.submissions()] == ["r.1", "r.2", "attached-1"]


def test_a_worker_does_not_fail_where_compute_nodes_may_not_submit(run_dir: RunDir) -> None:
    hand_over(run_dir)
    queue(run_dir).write_text("")
    sbatch = run_dir.path.parent / "bin" / "sbatch"
    sbatch.write_text('#!/bin/bash\necho "sbatch: error: not from here" >&2; exit 1\n')
    assert feeder(run_dir).feed() == 0


def test_a_plan_of_an_earlier_release_has_one_name_to_wait_for(run_dir: RunDir) -> None:
    text = run_dir.plan_file.read_text().replace('"after": []', '"after": "x"', 1)
    run_dir.plan_file.write_text(text)
    assert run_dir.run().arrays[0].after == ("x",)
