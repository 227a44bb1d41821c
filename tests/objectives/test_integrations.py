"""Programs that talk to their trial by the library: alone, on ranks, with their own Trainer."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from workplace import wait_until

from hpoctl.errors import ConfigError
from hpoctl.failures import TrialFailed
from hpoctl.integrations import current_trial, rank_of
from hpoctl.objectives import command
from hpoctl.trial import Checkpointed, Infeasible, Outcome, Pruned
from hpoctl.words import Cause

from .conftest import FakeTrial

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node=2", "--max-restarts=0"),
)
LOOP = """
    import os, signal, sys
    from pathlib import Path
    from hpoctl.integrations import run
    from hpoctl.trial import Checkpointed, Infeasible, Pruned

    def train(trial):
        state = trial.dir / "state"
        first = int(state.read_text()) if trial.resumed else 0
        for step in range(first + 1, 7):
            trial.report(trial.params["lr"] * step, step, other=2 * step)
            if trial.should_prune():
                raise Pruned
            if trial.should_checkpoint():
                state.write_text(str(step))
                raise Checkpointed
        return {"loss": 0.5, "seed": trial.seed}

    run(train)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def write(program: Path, text: str) -> None:
    program.write_text(textwrap.dedent(text), encoding="utf-8")


def trial_of(tmp_path: Path, **values: object) -> FakeTrial:
    folder = tmp_path / "the trial"
    folder.mkdir(exist_ok=True)
    trial = FakeTrial(dir=folder, params={"lr": 0.1}, args={}, seed=7)
    for name, value in values.items():
        setattr(trial, name, value)
    return trial


def run(trial: FakeTrial, *words: str, metrics: Sequence[str] = ("loss",)) -> Outcome:
    return command.runner(words, metrics)(trial)


def test_a_function_runs_as_a_program(tmp_path: Path, program: Path) -> None:
    write(program, LOOP)
    trial = trial_of(tmp_path)
    # What was reported beside the metric stays with the trial too.
    assert run(trial, sys.executable, str(program)) == {"loss": 0.5, "seed": 7.0, "other": 12.0}
    assert trial.values == pytest.approx({step: 0.1 * step for step in range(1, 7)})
    assert trial.extras[3] == {"other": 6.0}


def test_a_program_that_is_pruned_leaves_in_peace(tmp_path: Path, program: Path) -> None:
    write(program, LOOP)
    trial = trial_of(tmp_path, prune_at=3)
    with pytest.raises(Pruned):
        run(trial, sys.executable, str(program))
    assert list(trial.values) == [1, 2, 3]


def test_a_program_saves_itself_and_goes_on(tmp_path: Path, program: Path) -> None:
    write(program, LOOP.replace("range(first + 1, 7)", "range(first + 1, 10_000_000)"))
    cut = trial_of(tmp_path, ends=True)
    with pytest.raises(Checkpointed):
        run(cut, sys.executable, str(program))
    last = max(cut.values)
    write(program, LOOP.replace("range(first + 1, 7)", "range(first + 1, first + 3)"))
    again = trial_of(tmp_path, attempt=2)
    run(again, sys.executable, str(program))
    assert list(again.values) == [last + 1, last + 2]


@pytest.mark.parametrize(
    ("returned", "outcome"),
    [("0.25", {"loss": 0.25}), ("[0.25]", {"loss": 0.25}), ("{'loss': 1, 'b': 2}", None)],
)
def test_a_result_may_have_any_shape_that_an_objective_returns(
    returned: str, outcome: Outcome | None, tmp_path: Path, program: Path
) -> None:
    write(program, f"from hpoctl.integrations import run\nrun(lambda trial: {returned})\n")
    found = run(trial_of(tmp_path), sys.executable, str(program))
    assert found == (outcome or {"loss": 1.0, "b": 2.0})


def test_parameters_that_the_program_cannot_use_are_infeasible(
    tmp_path: Path, program: Path
) -> None:
    write(
        program,
        """
        from hpoctl.integrations import run
        from hpoctl.trial import Infeasible

        def train(trial):
            raise Infeasible("3 heads for 32")

        run(train)
        """,
    )
    with pytest.raises(Infeasible, match="3 heads for 32"):
        run(trial_of(tmp_path), sys.executable, str(program))


def test_the_library_loads_neither_torch_nor_the_study(tmp_path: Path, program: Path) -> None:
    write(
        program,
        """
        import sys
        from hpoctl.integrations import run
        heavy = {"torch", "numpy", "optuna", "sqlalchemy", "pydantic", "hpoctl.study"}
        run(lambda trial: len(heavy & set(sys.modules)))
        """,
    )
    assert run(trial_of(tmp_path), sys.executable, str(program)) == {"loss": 0.0}


def test_outside_of_a_trial_it_says_so() -> None:
    with pytest.raises(ConfigError, match=r"outside of a trial \(HPOCTL_SOCKET is not set\)"):
        current_trial({})


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # a batch script
    ],
)
def test_ranks_are_those_of_the_launcher(environ: dict[str, str], rank: tuple[int, int]) -> None:
    assert rank_of(environ) == rank


# ranks of torchrun

RANKS = """
    import os, sys, time
    from pathlib import Path
    from hpoctl.integrations import run
    from hpoctl.trial import Checkpointed, Pruned

    def train(trial):
        Path(trial.dir, f"pid-{trial.rank}").write_text(str(os.getpid()))
        steps = trial.dir / f"steps-{trial.rank}"
        for step in range(1, 4 if trial.resumed else 10_000):
            steps.write_text(str(step))
            trial.report(step * (1 + trial.rank), step)
            if trial.should_prune():
                raise Pruned
            if trial.should_checkpoint():
                raise Checkpointed
            if trial.rank == 0:
                time.sleep(0.01)
        return step

    run(train)
"""


class EndsAfterFive(FakeTrial):
    def should_checkpoint(self) -> bool:
        return len(self.values) >= 5


def steps(trial: FakeTrial) -> list[str]:
    return [(trial.dir / f"steps-{rank}").read_text() for rank in (0, 1)]


def is_alive(pid: str) -> bool:
    return Path("/proc", pid).exists()


def test_both_ranks_hear_what_rank_0_is_told(tmp_path: Path, program: Path) -> None:
    write(program, RANKS)
    pruned = trial_of(tmp_path, prune_at=5)
    with pytest.raises(Pruned):
        run(pruned, *TORCHRUN, str(program))
    assert pruned.values == {step: float(step) for step in range(1, 6)}
    assert steps(pruned) == ["5", "5"]


def test_both_ranks_save_at_the_same_step_and_go_on(tmp_path: Path, program: Path) -> None:
    write(program, RANKS)
    cut = EndsAfterFive(**vars(trial_of(tmp_path)))
    with pytest.raises(Checkpointed):
        run(cut, *TORCHRUN, str(program))
    assert steps(cut) == ["5", "5"]
    again = trial_of(tmp_path, attempt=2)
    assert run(again, *TORCHRUN, str(program)) == {"loss": 3.0}


def test_the_death_of_a_rank_ends_the_program(tmp_path: Path, program: Path) -> None:
    write(program, RANKS)
    trial = trial_of(tmp_path)
    pids = [trial.dir / f"pid-{rank}" for rank in (0, 1)]

    def kill() -> None:
        wait_until(lambda: all(pid.exists() and pid.read_text() for pid in pids), 60)
        os.kill(int(pids[1].read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TrialFailed, match="left with exit code 1"):
        run(trial, *TORCHRUN, str(program))
    killer.join()
    assert [pid.read_text() for pid in pids if is_alive(pid.read_text())] == []


LEAVING = """
    import torch
    from hpoctl.integrations import run
    from hpoctl.trial import Infeasible

    def train(trial):
        torch.distributed.init_process_group("gloo")
        trial.report(1.0, 1)
        if trial.rank == 1:
            raise RAISED
        torch.distributed.barrier()
        return 0.5

    run(train)
"""


def test_a_full_gpu_of_rank_1_is_that_of_the_trial(tmp_path: Path, program: Path) -> None:
    write(program, LEAVING.replace("RAISED", "torch.OutOfMemoryError('CUDA out of memory.')"))
    logged = ("bash", "-c", 'exec "$@" 2>"$HPOCTL_TRIAL_DIR/log.txt"', "-")  # as a worker does it
    with pytest.raises(TrialFailed) as failed:
        run(trial_of(tmp_path), *logged, *TORCHRUN, str(program))
    assert failed.value.cause is Cause.CUDA_OOM


def test_what_rank_1_finds_infeasible_is_so_for_the_trial(tmp_path: Path, program: Path) -> None:
    write(program, LEAVING.replace("RAISED", "Infeasible('too large for this GPU')"))
    with pytest.raises(Infeasible, match="too large for this GPU"):
        run(trial_of(tmp_path), *TORCHRUN, str(program))


# a Trainer of one's own

TRAINER = """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

    from hpoctl.integrations import current_trial
    from hpoctl.integrations.transformers import HpoctlCallback

    trial = current_trial()
    set_seed(trial.seed)
    torch.set_num_threads(1)
    rows = [{"input_ids": torch.randint(0, 50, (16,)), "labels": None} for _ in range(48)]
    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]
    callback = HpoctlCallback()
    trainer = Trainer(
        model=GPT2LMHeadModel(GPT2Config(
            n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0,
            eos_token_id=0,
        )),
        args=TrainingArguments(
            output_dir=str(trial.dir), seed=trial.seed, learning_rate=trial.params["lr"],
            per_device_train_batch_size=8, num_train_epochs=3, use_cpu=True, disable_tqdm=True,
            eval_strategy="epoch", save_strategy="no", report_to="none", ddp_backend=BACKEND,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        eval_dataset=rows[:8],
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=callback.checkpoint())
"""


def test_a_trainer_of_ones_own_reports_and_goes_on_where_it_was(
    tmp_path: Path, program: Path
) -> None:
    write(program, TRAINER.replace("BACKEND", "None"))
    whole = trial_of(tmp_path)
    result = run(whole, sys.executable, str(program), metrics=("eval_loss",))
    assert list(whole.values) == [6, 12, 18]
    assert isinstance(result, dict) and result["eval_loss"] == whole.values[18]
    cut = trial_of(tmp_path, ends=True)
    with pytest.raises(Checkpointed):
        run(cut, sys.executable, str(program), metrics=("eval_loss",))
    assert [kept.name for kept in cut.dir.glob("checkpoint-*")] == ["checkpoint-1"]
    again = trial_of(tmp_path, attempt=2)
    run(again, sys.executable, str(program), metrics=("eval_loss",))
    assert again.values == whole.values


def test_a_trainer_on_two_ranks_is_pruned_on_both(tmp_path: Path, program: Path) -> None:
    write(program, TRAINER.replace("BACKEND", '"gloo"'))
    trial = trial_of(tmp_path, prune_at=6)
    with pytest.raises(Pruned):
        run(trial, *TORCHRUN, str(program), metrics=("eval_loss",))
    assert list(trial.values) == [3, 6]
