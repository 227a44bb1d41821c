"""The `command:` objective: a program gets its parameters and gives its values as it likes."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.failures import TrialFailed
from hpoctl.objectives import command
from hpoctl.trial import Checkpointed, Infeasible, Outcome, Pruned

from .conftest import FakeTrial, MakeTrial

PARAMS = {"training": {"lr": 1e-5, "name": "ad am", "fast": True}, "r": 8, "none": None}
HPOCTL = f"{sys.executable} -m hpoctl"


def run(trial: FakeTrial, *words: str, metrics: Sequence[str] = ("loss",)) -> Outcome:
    return command.runner(words, metrics)(trial)


def sh(trial: FakeTrial, script: str, *words: str, metrics: Sequence[str] = ("loss",)) -> Outcome:
    return run(trial, "bash", "-c", script, "sh", *words, metrics=metrics)


@pytest.fixture
def trial(make_trial: MakeTrial) -> FakeTrial:
    return make_trial(PARAMS, {})


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# parameters to the program


def test_a_word_with_a_parameter_that_the_trial_has_not_is_left_out() -> None:
    words = ["train", "--method={method}", "--r={lora.r}", "{{lora.r}}"]
    assert command.fill_all(words, {"method": "full"}) == ["train", "--method=full", "{lora.r}"]


def test_placeholders_become_the_values_of_the_trial(trial: FakeTrial) -> None:
    script = 'printf "%s\\n" "$@" > "$HPOCTL_TRIAL_DIR/argv"; echo "{\\"loss\\": 1}"'
    words = ("--lr={training.lr}", "{training.name}", "{r}", "{training.fast}", "{none}")
    own = ("{trial.number}", "{trial.seed}", "{trial.dir}/out", "{trial.params}")
    sh(trial, script.replace("{", "{{").replace("}", "}}"), *words, *own)
    assert (trial.dir / "argv").read_text().splitlines() == [
        "--lr=1e-05",
        "ad am",
        "8",
        "true",
        "null",
        "0",
        "1",
        f"{trial.dir}/out",
        f"{trial.dir}/params.json",
    ]


def test_doubled_braces_are_braces_and_variables_of_the_shell_stay() -> None:
    values = {"lr": 0.1}
    assert command.fill('{{"lr": {lr}}} ${HOME} {} {{lr}}', values) == '{"lr": 0.1} ${HOME} {} {lr}'


@given(st.text(alphabet="{}$ab.", max_size=20))
def test_text_with_its_braces_doubled_comes_back(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    assert command.fill(doubled, {}) == text


def test_a_value_is_never_read_by_a_shell(make_trial: MakeTrial) -> None:
    trial = make_trial({"word": "$(touch pwned); `id` {r}"}, {})
    script = 'printf "{{\\"loss\\": %d}}" ${{#1}}'
    assert sh(trial, script, "{word}") == {"loss": float(len("$(touch pwned); `id` {r}"))}


def test_every_parameter_is_a_variable(trial: FakeTrial) -> None:
    sh(trial, 'env > "$HPOCTL_TRIAL_DIR/env"; echo "{{\\"loss\\": 1}}"')
    lines = (trial.dir / "env").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines if line.startswith("HPOCTL_"))
    assert env.pop("HPOCTL_SOCKET").endswith("/tell")
    assert env.pop("HPOCTL_CHECKPOINT").endswith("/checkpoint")
    assert {key: value for key, value in env.items() if key != "HPOCTL_TASK"} == {
        "HPOCTL_PARAM_TRAINING_LR": "1e-05",
        "HPOCTL_PARAM_TRAINING_NAME": "ad am",
        "HPOCTL_PARAM_TRAINING_FAST": "true",
        "HPOCTL_PARAM_R": "8",
        "HPOCTL_PARAM_NONE": "null",
        "HPOCTL_ARGS": str(trial.dir / "args.json"),
        "HPOCTL_PARAMS": f"{trial.dir}/params.json",
        "HPOCTL_TRIAL": "0",
        "HPOCTL_TRIAL_DIR": str(trial.dir),
        "HPOCTL_METRICS": "eval_loss",
        "HPOCTL_SEED": "1",
        "HPOCTL_ATTEMPT": "1",
        "HPOCTL_CPUS": "1",
        "HPOCTL_PARENT_DIR": "",
        "HPOCTL_HANDS_ON": "",
    }


def test_the_json_file_is_nested_as_the_search_space(trial: FakeTrial) -> None:
    program = (
        "import json, os; params = json.load(open(os.environ['HPOCTL_PARAMS']));"
        "print(json.dumps({{'loss': params['training']['lr'], 'same': params['none'] is None}}))"
    )
    assert run(trial, sys.executable, "-c", program) == {"loss": 1e-5}


# values from the program


def test_a_line_of_json_with_the_metric_is_the_value(trial: FakeTrial) -> None:
    script = 'echo "epoch 1"; echo "{{\\"loss\\": 0.25, \\"accuracy\\": 0.5, \\"who\\": \\"me\\"}}"'
    assert sh(trial, script) == {"loss": 0.25, "accuracy": 0.5}


def test_lines_that_look_like_json_are_passed_over(trial: FakeTrial) -> None:
    script = 'echo "{{loss: 1}}"; echo "{{\\"other\\": 2}}"; echo "{{"; echo "{{\\"loss\\": 3}}"'
    assert sh(trial, script) == {"loss": 3.0}


def test_lines_with_a_step_are_reports_and_the_last_one_is_the_result(trial: FakeTrial) -> None:
    script = (
        'for step in 1 2 3; do echo "{{\\"step\\": $step, \\"loss\\": 0.$step, \\"lr\\": 5}}"; done'
    )
    assert sh(trial, script) == {"loss": 0.3, "lr": 5.0}
    assert trial.values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert trial.extras[3] == {"lr": 5.0}


def test_a_result_goes_before_the_last_report(trial: FakeTrial) -> None:
    script = 'echo "{{\\"loss\\": 9}}"; echo "{{\\"step\\": 1, \\"loss\\": 1}}"'
    assert sh(trial, script) == {"loss": 9.0}


def test_tell_gives_a_report_and_a_result_from_a_shell_script(trial: FakeTrial) -> None:
    script = (
        f'{HPOCTL} tell loss=0.5 lr=2 --step 3 > "$HPOCTL_TRIAL_DIR/said" || exit 1\n'
        f"{HPOCTL} tell loss=0.25 accuracy=1 || exit 1"
    )
    assert sh(trial, script) == {"loss": 0.25, "lr": 2.0, "accuracy": 1.0}
    assert trial.values == {3: 0.5}
    assert (trial.dir / "said").read_text() == "go on\n"


def test_tell_on_another_rank_gets_the_answer_of_rank_0(make_trial: MakeTrial) -> None:
    trial = make_trial(PARAMS, {}, prune_at=1)
    script = (
        "trap : TERM\n"
        f"(RANK=1 WORLD_SIZE=2 {HPOCTL} tell loss=9 --step 1;"
        ' echo $? >> "$HPOCTL_TRIAL_DIR/code")&\n'
        f"RANK=0 WORLD_SIZE=2 {HPOCTL} tell loss=1 --step 1; wait; wait"
    )
    with pytest.raises(Pruned):
        sh(trial, script)
    assert trial.values == {1: 1.0}
    assert (trial.dir / "code").read_text() == "5\n"


def test_two_metrics_may_come_apart(trial: FakeTrial) -> None:
    script = f'echo "{{{{\\"loss\\": 1}}}}"; {HPOCTL} tell accuracy=0.5'
    assert sh(trial, script, metrics=("loss", "accuracy")) == {"loss": 1.0, "accuracy": 0.5}


def test_output_of_the_program_is_output_of_the_trial(
    trial: FakeTrial, capfd: pytest.CaptureFixture[str]
) -> None:
    sh(trial, 'echo to out; echo to err >&2; echo "{{\\"loss\\": 1}}"; printf "\\xff"')
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "to out"
    assert "to err" in err


# endings


def test_a_program_that_fails_is_a_failed_trial_even_with_a_value(trial: FakeTrial) -> None:
    with pytest.raises(RuntimeError, match=r"^bash left with exit code 3: see log\.txt"):
        sh(trial, 'echo "{{\\"loss\\": 1}}"; exit 3')


def test_a_program_that_is_killed_names_the_signal(trial: FakeTrial) -> None:
    with pytest.raises(RuntimeError, match=f"^bash was ended by signal {int(signal.SIGKILL)}"):
        sh(trial, "kill -9 $$")


def test_a_program_that_is_not_there_is_named(trial: FakeTrial) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        run(trial, "no-such-program")


def test_a_program_without_a_value_fails_with_both_ways_to_give_one(trial: FakeTrial) -> None:
    with pytest.raises(ValueError) as refused:
        sh(trial, "echo done", metrics=("loss", "accuracy"))
    assert str(refused.value) == (
        "the command gave no 'loss': let it print {\"loss\": 0.5} on a line of its own,"
        " or call 'hpoctl tell loss=0.5'"
    )


def test_tell_ends_with_5_when_the_trial_should_end(make_trial: MakeTrial) -> None:
    trial = make_trial(PARAMS, {}, prune_at=2)
    # The trap keeps the script on its feet to write down how tell ended.
    script = (
        "trap : TERM\n"
        f'{HPOCTL} tell loss=1 --step 1; echo $? >> "$HPOCTL_TRIAL_DIR/codes"\n'
        f'{HPOCTL} tell loss=1 --step 2; echo $? >> "$HPOCTL_TRIAL_DIR/codes"\n'
    )
    with pytest.raises(Pruned):
        sh(trial, script)
    assert (trial.dir / "codes").read_text().split() == ["0", "5"]


@pytest.mark.parametrize(
    "says",
    [
        'echo "{{\\"infeasible\\": \\"12 heads, size 100\\"}}"',
        f"{HPOCTL} tell --infeasible '12 heads, size 100'",
    ],
)
def test_a_program_says_that_its_parameters_cannot_be_used(trial: FakeTrial, says: str) -> None:
    with pytest.raises(Infeasible, match=r"^12 heads, size 100$"):
        sh(trial, f"{says}; exit 3")


def test_a_line_that_names_infeasible_among_others_is_log(trial: FakeTrial) -> None:
    line = 'echo "{{\\"infeasible\\": 3, \\"trials\\": 9}}"'
    assert sh(trial, f'{line}; echo "{{{{\\"loss\\": 1}}}}"') == {"loss": 1.0}


def test_tell_wants_values_or_why_there_can_be_none(trial: FakeTrial) -> None:
    codes = 'echo $? >> "$HPOCTL_TRIAL_DIR/codes"'
    sh(
        trial,
        f"{HPOCTL} tell; {codes}; {HPOCTL} tell a=1 --infeasible no; {codes};"
        ' echo "{{\\"loss\\": 1}}"',
    )
    assert (trial.dir / "codes").read_text().split() == ["2", "2"]


@pytest.mark.parametrize("ignores", ["", "trap '' TERM; "])
def test_pruning_ends_the_program_also_one_that_does_not_listen(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch, ignores: str
) -> None:
    monkeypatch.setattr(command, "_PRUNED_GRACE_S", 0.2)
    trial = make_trial(PARAMS, {}, prune_at=1)
    script = (
        f'{ignores}echo $$ > "$HPOCTL_TRIAL_DIR/pid"\n'
        'echo "{{\\"loss\\": 1, \\"step\\": 1}}"\nwhile :; do read -t 0.1 <> <(:); done'
    )
    begun = time.monotonic()
    with pytest.raises(Pruned):
        sh(trial, script)
    assert time.monotonic() - begun < 8
    assert not is_alive(int((trial.dir / "pid").read_text()))


def test_a_program_that_ends_itself_when_told_is_pruned_and_not_failed(
    make_trial: MakeTrial,
) -> None:
    trial = make_trial(PARAMS, {}, prune_at=1)
    with pytest.raises(Pruned):
        sh(trial, f"{HPOCTL} tell loss=1 --step 1 || exit 5")


def test_two_trials_after_each_other_have_a_socket_of_their_own(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    script = 'echo $HPOCTL_SOCKET >> sockets; echo "{{\\"loss\\": 1}}"'
    for _ in range(2):
        sh(make_trial(PARAMS, {}), f"cd {tmp_path}; {script}")
    one, other = (tmp_path / "sockets").read_text().split()
    assert one != other
    assert not Path(one).exists() and not Path(one).parent.exists()


@pytest.mark.parametrize(
    ("script", "cause", "said"),
    [
        ("echo 'torch.OutOfMemoryError: CUDA out of memory.' >&2; exit 1", "cuda_oom", "CUDA out"),
        ("echo 'ModuleNotFoundError: No module' >&2; exit 1", "import", "No module"),
        ("echo hello; exit 3", "error", "left with exit code 3 (hello): see log.txt"),
        ("exit 3", "error", "left with exit code 3: see log.txt"),
    ],
)
def test_a_programs_last_words_say_what_it_died_of(
    trial: FakeTrial, script: str, cause: str, said: str
) -> None:
    with pytest.raises(TrialFailed, match=re.escape(said)) as failed:
        sh(trial, f"exec >>'{trial.dir}/log.txt' 2>&1; {script}")
    assert failed.value.cause == cause


def test_exit_code_75_is_a_checkpoint_only_for_a_trial_that_was_asked(trial: FakeTrial) -> None:
    with pytest.raises(TrialFailed, match="left with exit code 75"):
        sh(trial, "exit 75")
    trial.ends = True
    wait = 'while [ ! -e "$HPOCTL_CHECKPOINT" ]; do sleep 0.05; done; exit 75'
    with pytest.raises(Checkpointed):
        sh(trial, wait)
