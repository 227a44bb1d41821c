"""The command line as a user meets it: each test starts `hpoctl` in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SWEEP = """\
study: my sweep
objective: hpoctl.objectives.toy
search_space:
  training: {lr: {type: log_uniform, min: 1e-6, max: 1e-4}}
  r: {type: categorical, values: [8, 16]}
sampler: random
budget: {trials: 3}
backend: local
"""
COMMANDS = (
    ["init"], ["check"], ["plan"], ["submit"], ["run"], ["workers"], ["workers", "add"],
    ["workers", "list"], ["workers", "drain"], ["status"], ["trials"], ["logs"], ["best"],
    ["report"], ["retry"], ["extend"], ["cancel"], ["tell"], ["db"], ["db", "up"],
    ["db", "status"], ["db", "url"], ["db", "backup"], ["db", "down"],
)  # fmt: skip
HEAVY = ("torch", "transformers", "datasets", "peft", "optuna", "matplotlib", "submitit", "pandas")


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder with a home of its own, where `hpoctl` is called."""

    folder: Path
    environ: Mapping[str, str]

    def call(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpoctl", *words],
            cwd=self.folder,
            env={**self.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def result(self, *words: str) -> str:
        """What a command that must succeed gave on stdout."""
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*"))


def put(program: Path, text: str) -> None:
    """A bash script to be found on PATH; here for a Slurm that must not be asked."""
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)


def open_desk(folder: Path) -> Desk:
    here = folder / "my desk"
    here.mkdir()
    (here / "sweep.yaml").write_text(SWEEP)
    (folder / "bin").mkdir()
    for name in ("scontrol", "squeue", "sbatch", "scancel", "sinfo"):
        put(folder / "bin" / name, "echo 'no controller' >&2; exit 1")
    put(folder / "bin" / "hpoctl", f'exec {shlex.quote(sys.executable)} -m hpoctl "$@"')
    environ = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # a checkout that is not installed
    }
    return Desk(here, environ)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return open_desk(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with a study that `hpoctl run` has finished."""
    made = open_desk(tmp_path_factory.mktemp("finished"))
    done = made.call("run", "sweep.yaml")
    assert done.returncode == 0, done.stderr
    return made


def imported(desk: Desk, words: Sequence[str], among: Sequence[str] = HEAVY) -> list[str]:
    """The heavy modules that a command has imported at its end."""
    program = (
        "import atexit, json, sys\n"
        f"heavy = {tuple(among)!r}\n"
        "show = lambda: open('../imported', 'w').write("
        "json.dumps([name for name in heavy if name in sys.modules]))\n"
        "atexit.register(show)\n"
        f"sys.argv = ['hpoctl', *{list(words)!r}]\n"
        "from hpoctl.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=desk.folder,
        env=dict(desk.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads((desk.folder.parent / "imported").read_text())
    return names


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(desk: Desk, words: list[str]) -> None:
    shown = desk.result(*words, "--help")
    assert shown.startswith(f"Usage: python -m hpoctl {' '.join(words)} ")
    assert desk.files() == ["sweep.yaml"]


def test_the_help_lists_every_command(desk: Desk) -> None:
    shown = desk.result("--help")
    listed = re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert {words[0] for words in COMMANDS} <= set(listed)
    assert "worker" not in listed
    assert "hpoctl" in desk.result("--version")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["init", "starter"],
        ["check", "sweep.yaml"],
        ["plan", "sweep.yaml"],
        ["submit", "sweep.yaml", "--dry-run"],
        ["status"],
        ["status", "--json"],
        ["workers", "list"],
        ["best"],
        ["logs", "my sweep", "0"],
        ["cancel", "my sweep"],
    ],
    ids=" ".join,
)
def test_a_command_of_the_login_node_imports_nothing_heavy(
    finished: Desk, words: list[str]
) -> None:
    assert imported(finished, words) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["status"],
        ["status", "--json"],
        ["status", "my sweep", "-q"],
        ["workers", "list"],
        ["best", "--json"],
        ["best", "--format", "flags"],
        ["logs", "my sweep", "0"],
        ["cancel", "my sweep"],
    ],
    ids=" ".join,
)
def test_a_command_that_only_reads_a_study_does_not_read_the_sweep_file(
    finished: Desk, words: list[str]
) -> None:
    assert imported(finished, words, among=("pydantic", "pydantic_core", "ruamel", "rich")) == []


def test_a_plan_of_an_earlier_release_is_read_with_its_sweep_file(finished: Desk) -> None:
    (plan,) = finished.folder.glob("runs/*/plan.json")
    before = json.loads(finished.result("status", "--json"))
    kept = plan.read_text()
    try:
        plan.write_text(json.dumps({k: v for k, v in json.loads(kept).items() if k != "gist"}))
        assert json.loads(finished.result("status", "--json")) == before
    finally:
        plan.write_text(kept)


# errors


@pytest.mark.parametrize("command", ["check", "plan", "submit", "run"])
def test_a_wrong_sweep_is_exit_code_2_and_leaves_nothing_behind(desk: Desk, command: str) -> None:
    (desk.folder / "sweep.yaml").write_text(SWEEP.replace("budget", "budgte"))
    done = desk.call(command, "sweep.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("hpoctl: sweep.yaml:7: budgte: unknown key; did you mean 'budget'?\n")
    assert desk.files() == ["sweep.yaml"]
    assert not (desk.folder.parent / "state").exists()


def test_check_plan_and_a_dry_run_write_nothing(desk: Desk) -> None:
    for words in (["check"], ["plan"], ["submit", "--dry-run"]):
        desk.result(*words, "sweep.yaml")
    assert desk.files() == ["sweep.yaml"]
    assert not (desk.folder.parent / "state").exists()


@pytest.mark.parametrize(
    "words", [["nope"], ["check"], ["check", "sweep.yaml", "--nope"], ["logs", "s", "x"]]
)
def test_a_wrong_command_line_is_exit_code_2(desk: Desk, words: list[str]) -> None:
    done = desk.call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("hpoctl: ") and done.stderr.endswith("--help'\n")


@pytest.mark.parametrize("words", [["status"], ["best", "x"], ["cancel", "x"], ["logs", "x", "0"]])
def test_an_unknown_study_is_exit_code_4(desk: Desk, words: list[str]) -> None:
    done = desk.call(*words)
    assert (done.returncode, done.stdout) == (4, "")
    study = words[1] if len(words) > 1 else "last"
    assert done.stderr == f"hpoctl: no study '{study}' found; 'hpoctl submit SWEEP' starts one\n"


def test_a_refusing_slurm_is_exit_code_3_and_leaves_nothing_behind(desk: Desk) -> None:
    complaint = "sbatch: error: Batch job submission failed: Invalid account"
    put(desk.folder.parent / "bin" / "sbatch", f"echo '{complaint}' >&2; exit 1")
    done = desk.call("submit", "sweep.yaml", "--backend", "slurm")
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(
        r"hpoctl: sbatch --parsable \S.*/runs/my-sweep-\w+/round-1\.sh:"
        r" Batch job submission failed: Invalid account\n",
        done.stderr,
    )
    assert not [name for name in desk.files() if "my-sweep" in name]
    assert desk.call("status").returncode == 4


def test_debug_shows_the_traceback_of_an_error(desk: Desk) -> None:
    for done in (desk.call("status", "--debug"), desk.call("status", HPOCTL_DEBUG="1")):
        assert "Traceback" in done.stderr
        assert "StudyError: no study 'last' found" in done.stderr


def test_a_flag_of_a_key_is_refused_as_the_key_is(desk: Desk) -> None:
    done = desk.call("check", "sweep.yaml", "--mode", "asnyc")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'async'?" in done.stderr


def test_tell_outside_a_trial_is_refused(desk: Desk) -> None:
    done = desk.call("tell", "loss=1")
    assert done.returncode == 2
    assert done.stderr == "hpoctl: hpoctl tell works inside a trial: HPOCTL_SOCKET is not set\n"


def test_status_of_a_slurm_that_does_not_answer_shows_what_the_study_knows(desk: Desk) -> None:
    put(desk.folder.parent / "bin" / "sbatch", "echo 4711")
    desk.result("submit", "sweep.yaml", "--backend", "slurm")
    status = json.loads(desk.result("status", "--json"))
    assert status["counts"]["waiting"] == 3
    assert status["workers"] == []
    done = desk.call("cancel", "my sweep")
    assert done.returncode == 3
    assert done.stderr.endswith(": no controller\n")
    assert done.stderr.count("\n") == 1


# results


@pytest.mark.parametrize(
    "words",
    [
        ["check", "sweep.yaml"],
        ["plan", "sweep.yaml"],
        ["status"],
        ["status", "my sweep"],
        ["workers", "list"],
        ["workers", "drain", "my sweep"],
        ["workers", "add", "my sweep", "-n", "2"],
        ["trials"],
        ["trials", "--state", "failed"],
        ["report"],
        ["cancel", "my sweep"],
    ],
    ids=" ".join,
)
def test_json_is_all_that_stands_on_stdout(finished: Desk, words: list[str]) -> None:
    json.loads(finished.result(*words, "--json"))


def test_status_as_json_has_the_promised_keys(finished: Desk) -> None:
    status = json.loads(finished.result("status", "--json"))
    assert {
        "study", "mode", "backend", "storage", "counts", "budget", "gpu_hours", "best", "workers",
        "eta_s",
    } <= set(status)  # fmt: skip
    assert set(status["counts"]) == {"waiting", "running", "complete", "pruned", "failed"}
    assert set(status["budget"]) == {"trials", "gpu_hours"}
    assert set(status["gpu_hours"]) == {"allocated", "training", "startup", "idle", "charged"}
    assert {"number", "values", "params"} <= set(status["best"])
    assert len(status["workers"]) == 3
    for worker in status["workers"]:
        assert {"task", "slurm_state", "node", "trial", "reason"} <= set(worker)
    assert status["study"] == "my sweep"
    assert status["counts"]["complete"] == status["budget"]["trials"] == 3
    assert status["eta_s"] == 0


def test_the_trials_come_as_csv(finished: Desk) -> None:
    lines = finished.result("trials", "--csv").splitlines()
    assert lines[0].startswith("number,state,")
    assert len(lines) == 4
    assert len(finished.result("trials", "--csv", "--state", "failed").splitlines()) == 1


def test_a_place_that_cannot_hold_a_run_is_named(desk: Desk) -> None:
    done = desk.call("submit", "sweep.yaml", "--backend", "local", "--run-dir", "/proc/no/such")
    assert done.returncode == 2
    assert "/proc/no/such: cannot be made: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_quiet_is_ids_only(finished: Desk) -> None:
    assert finished.result("trials", "-q") == "0\n1\n2\n"
    assert finished.result("status", "-q") == "3/3\n"


def test_run_leaves_the_report_and_prints_the_best(desk: Desk) -> None:
    done = desk.call("run", "sweep.yaml", "--set", "budget.trials=2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "training:"
    assert done.stderr.splitlines()[-1].startswith("next: ")
    (report,) = desk.folder.glob("runs/*/report")
    assert {path.name for path in report.iterdir()} >= {
        "best_config.yaml", "trials_summary.csv", "optimization_plot.png",
    }  # fmt: skip
    assert f"runs/{report.parent.name}/report/best_config.yaml" in lines


def test_the_best_parameters_come_in_three_forms(finished: Desk) -> None:
    nested = json.loads(finished.result("best", "--format", "json"))
    best = json.loads(finished.result("status", "--json"))["best"]
    assert nested == {"training": {"lr": best["params"]["training.lr"]}, "r": best["params"]["r"]}
    flags = shlex.split(finished.result("best", "--format", "flags"))
    assert [flag.partition("=")[0] for flag in flags] == ["--lr", "--r"]
    assert finished.result("best").startswith("training:\n  lr: ")


def test_every_command_ends_with_the_next_sensible_one(finished: Desk) -> None:
    nothing = (["retry", "my sweep"], ["extend", "my sweep", "--trials", "3"])
    sweep = (["check", "sweep.yaml"], ["plan", "sweep.yaml"])
    for words in (*sweep, *nothing, ["status"], ["report"]):
        assert finished.call(*words).stderr.splitlines()[-1].startswith("next: "), words
    assert finished.call("status").stderr.endswith("hpoctl report 'my sweep'\n")


def test_a_second_submission_is_refused_with_the_ways_on(finished: Desk) -> None:
    done = finished.call("submit", "sweep.yaml")
    assert done.returncode == 4
    assert "holds study 'my sweep' already: 'hpoctl workers add" in done.stderr


def test_a_dry_run_prints_the_scripts_and_nothing_else(desk: Desk) -> None:
    words = ("submit", "sweep.yaml", "--backend", "slurm", "--dry-run")
    script = desk.result(*words, "--set", "resources.account=NAISS2026-1-1")
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=hpo-my-sweep-")
    assert "#SBATCH --account=NAISS2026-1-1\n" in script
    checked = subprocess.run(
        ["bash", "-n"], input=script, text=True, capture_output=True, timeout=20, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_submit_does_not_hold_the_pipe_that_it_prints_to(desk: Desk) -> None:
    (desk.folder / "sweep.yaml").write_text(f"{SWEEP}objective_args: {{seconds: 600}}\n")
    words = [sys.executable, "-m", "hpoctl", "submit", "sweep.yaml", "--set", "budget.trials=1"]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} | cat"],
        cwd=desk.folder,
        env=dict(desk.environ),
        capture_output=True,
        text=True,
        timeout=30,  # the trial takes ten minutes
        check=False,
    )
    assert done.stdout.startswith("submitted round-1: "), done.stderr
    desk.result("cancel", "my sweep")


def test_init_writes_a_starter_that_check_takes_and_never_over_a_file(desk: Desk) -> None:
    written = desk.result("init", "starter").splitlines()
    assert "starter/sweep.yaml" in written
    desk.result("check", "starter/sweep.yaml", "--backend", "local")
    done = desk.call("init", "starter")
    assert done.returncode == 2
    assert "is there already: give another folder" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(finished: Desk) -> None:
    words = shlex.join([sys.executable, "-m", "hpoctl", "trials", "--json"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -n 1"],
        cwd=finished.folder,
        env={**os.environ, **finished.environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[\n", "")
