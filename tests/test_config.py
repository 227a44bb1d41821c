"""The sweep file: what it takes, and every complaint with its file, line, key and way out."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hpoctl import config
from hpoctl.errors import ConfigError
from hpoctl.pruners import Asha
from hpoctl.samplers import Manual, Tpe
from hpoctl.space import Categorical, Float, Int
from hpoctl.sweep import Gpus, Sweep
from hpoctl.words import Cause, Mode, Policy

BASE = """\
study: s
objective: m:f
search_space:
  lr: {type: uniform, min: 0, max: 1}
budget: {trials: 3}
"""
HEAD = "study: s\nobjective: m:f\nbudget: {trials: 3}\nsearch_space:\n"
ALL_KEYS = ", ".join(Sweep.model_fields)

NESTED_GROUPS = """\
study: course
objective: m:f
budget: {trials: 10}
search_space:
  training:
    learning_rate:
      type: "log_uniform"
      min: 1e-6
      max: 1e-4
    batch_size:
      type: "categorical"
      values: [1, 2, 4, 8]
    num_train_epochs:
      type: "int"
      min: 1
      max: 5
    warmup_ratio:
      type: "uniform"
      min: 0.03
      max: 0.1
    weight_decay:
      type: "log_uniform"
      min: 0.001
      max: 0.1

  lora:
    r:
      type: "categorical"
      values: [8, 16, 32, 64]
    alpha:
      type: "categorical"
      values: [16, 32, 64, 128]
    dropout:
      type: "uniform"
      min: 0.0
      max: 0.2
"""


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        config.parse(text, "sweep.yaml", overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_nested_groups_of_the_four_types_are_taken_as_they_stand() -> None:
    assert config.parse(NESTED_GROUPS, "sweep.yaml").search_space.parameters == {
        "training.learning_rate": Float(low=1e-6, high=1e-4, log=True),
        "training.batch_size": Categorical(choices=(1, 2, 4, 8)),
        "training.num_train_epochs": Int(low=1, high=5),
        "training.warmup_ratio": Float(low=0.03, high=0.1),
        "training.weight_decay": Float(low=0.001, high=0.1, log=True),
        "lora.r": Categorical(choices=(8, 16, 32, 64)),
        "lora.alpha": Categorical(choices=(16, 32, 64, 128)),
        "lora.dropout": Float(low=0.0, high=0.2),
    }


def test_every_key_of_the_contract_is_taken() -> None:
    sweep = config.parse(
        """\
study: gpt2-lr
objective: hpoctl.objectives.causal_lm
objective_args: {dataset: {path: data/train.jsonl}, model: {from_scratch: gpt2}}
metrics: [{name: eval_loss, goal: minimize}]
search_space: {training: {learning_rate: {type: log_uniform, min: 1e-6, max: 1e-4}}}
sampler: tpe
pruner: {name: asha, min_resource: 100, reduction_factor: 3}
mode: async
workers: 8
trials_per_task: 4
budget: {trials: 60, gpu_hours: 40.0, time: 12h}
resources: {partition: alvis, account: NAISS2026-1-1, gpus: A100:1, cpus: 16, time: 2h,
            setup: ["module load PyTorch"]}
storage: {url_env: HPOCTL_STORAGE}
seed: 0
""",
        "sweep.yaml",
    )
    assert sweep.pruner == Asha(min_resource=100, reduction_factor=3)
    assert sweep.mode is Mode.ASYNC
    assert sweep.budget.time == timedelta(hours=12)
    assert sweep.resources.gpus == Gpus(count=1, type="A100")
    assert sweep.resources.setup == ("module load PyTorch",)
    assert sweep.objective_args["dataset"] == {"path": "data/train.jsonl"}


def test_whole_gpu_hours_are_taken_as_a_number() -> None:
    sweep = config.parse(BASE.replace("trials: 3", "trials: 3, gpu_hours: 40"), "s.yaml")
    assert sweep.budget.gpu_hours == 40.0


def test_yaml_is_1_2_so_numbers_need_no_dot_and_no_is_a_word() -> None:
    text = f"{HEAD}  a: {{type: categorical, values: [1e-6, 0o17, no, on, yes, true, null, '1']}}\n"
    (choices,) = config.parse(text, "s.yaml").search_space.parameters.values()
    assert choices == Categorical(choices=(1e-6, 15, "no", "on", "yes", True, None, "1"))


def test_clock_times_need_no_quotes() -> None:
    text = f"{BASE}resources: {{time: 1:30:00}}\nestimate: {{trial: 12:30}}\n"
    sweep = config.parse(text, "s.yaml")
    assert sweep.resources.time == timedelta(minutes=90)
    assert sweep.estimate is not None
    assert sweep.estimate.trial == timedelta(minutes=12, seconds=30)


def test_low_high_and_choices_are_other_names_of_min_max_and_values() -> None:
    theirs = "  a: {type: int, low: 1, high: 9}\n  b: {type: categorical, choices: [x, y]}\n"
    ours = "  a: {type: int, min: 1, max: 9}\n  b: {type: categorical, values: [x, y]}\n"
    one, other = (config.parse(HEAD + text, "s.yaml") for text in (theirs, ours))
    assert one.search_space == other.search_space


def test_float_with_log_is_log_uniform() -> None:
    text = "  a: {type: float, low: 1e-5, high: 1e-3, log: true}\n"
    parameters = config.parse(HEAD + text, "s.yaml").search_space.parameters
    assert parameters["a"] == Float(low=1e-5, high=1e-3, log=True)


def test_a_group_may_hold_a_parameter_that_is_called_type() -> None:
    text = "  optimizer: {type: {type: categorical, values: [adam, sgd]}}\n"
    parameters = config.parse(HEAD + text, "s.yaml").search_space.parameters
    assert list(parameters) == ["optimizer.type"]


def test_manual_points_are_nested_as_the_space_and_become_flat() -> None:
    text = NESTED_GROUPS.split("search_space")[0] + (
        "search_space: {a: {b: {type: int, min: 1, max: 3}}}\n"
        "sampler: {name: manual, points: [{a: {b: 1}}, {a: {b: 3}}]}\n"
    ).replace("budget: {trials: 10}\n", "")
    sweep = config.parse(text.replace("budget: {trials: 10}\n", ""), "s.yaml")
    assert isinstance(sweep.sampler, Manual)
    assert [dict(point) for point in sweep.sampler.points] == [{"a.b": 1}, {"a.b": 3}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        # unknown keys
        ("wokers: 3", "wokers: unknown key; did you mean 'workers'?"),
        ("zzz: 3", f"zzz: unknown key; known: {ALL_KEYS}"),
        ("resources: {tiem: 2h}", "resources.tiem: unknown key; did you mean 'time'?"),
        (
            "sampler: {name: tpe, n_startup: 3}",
            "sampler.n_startup: unknown key; did you mean 'n_startup_trials'?",
        ),
        # wrong types
        ("workers: two", "workers: should be a valid integer, not 'two'"),
        ("workers: true", "workers: should be a valid integer, not True"),
        ("workers: 0", "workers: should be greater than or equal to 1, not 0"),
        ("seed: 1.5", "seed: should be a valid integer, not 1.5"),
        ("seed: -1", "seed: should be greater than or equal to 0, not -1"),
        ("resources: {cpus: '4'}", "resources.cpus: should be a valid integer, not '4'"),
        ("trials_per_task: 0", "trials_per_task: should be greater than or equal to 1, not 0"),
        # words
        ("sampler: tpee", "sampler: 'tpee' is not known; did you mean 'tpe'?"),
        (
            "sampler: zzz",
            "sampler: 'zzz' is not known; known: grid, random, qmc, manual, tpe, gp, cmaes, nsga2,"
            " pbt",
        ),
        ("pruner: mdian", "pruner: 'mdian' is not known; did you mean 'median'?"),
        ("mode: asnyc", "mode: 'asnyc' is not known; did you mean 'async'?"),
        (
            "metrics: [{name: a, goal: minimise}]",
            "metrics.0.goal: 'minimise' is not known; did you mean 'minimize'?",
        ),
        ("sampler: {nam: tpe}", "sampler: needs a 'name'"),
        # times and GPUs
        (
            "resources: {time: 2 hours}",
            "resources.time: '2 hours' is not a time: write 30m, 2h, 1h 30m or 1-12:00:00",
        ),
        (
            "resources: {time: 30}",
            "resources.time: 30 is not a time: write 30m, 2h, 1h 30m or 1-12:00:00",
        ),
        ("resources: {time: 0s}", "resources.time: a time of zero leaves nothing to run"),
        (
            "resources: {gpus: many}",
            "resources.gpus: 'many' is not a number of GPUs: write 1, or A100:1",
        ),
        # storage
        (
            "storage: {url: 'postgresql://me:secret@host/db'}",
            "storage.url: a password must not stand here: use url_env, url_file or ~/.pgpass",
        ),
        ("storage: {sqlite: a.db, journal: b}", "storage: give only one of sqlite, journal"),
        # what belongs together
        ("metrics: []", "metrics: is empty: name at least one metric"),
        ("metrics: [{name: a}, {name: a}]", "metrics: 'a' stands twice: names must differ"),
        ("metrics: [{goal: minimize}]", "metrics.0.name: is missing"),
        ("estimate: {}", "estimate.trial: is missing"),
        (
            "pruner: asha\nmetrics: [{name: a}, {name: b}]",
            "pruner: a pruner compares one metric: leave it out, or give the metrics weights",
        ),
        # manual points
        (
            "sampler: {name: manual, points: []}",
            "sampler: manual: 'points' is empty: list at least one",
        ),
        (
            "sampler: {name: manual, points: [{lr: 2}]}",
            "sampler.points.0: 'lr' is 2, outside its range: 0 to 1",
        ),
        (
            "sampler: {name: manual, points: [{lrr: 1}]}",
            "sampler.points.0: 'lrr' is not in the search space; did you mean 'lr'?",
        ),
        (
            "sampler: {name: manual, points: [{}]}",
            "sampler.points.0: a point is a mapping, nested as the search space is",
        ),
        # what would break out of a line of the script
        (
            'resources: {setup: ["a\\nb"]}',
            "resources.setup.0: must be one line, without control characters",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_line(more: str, message: str) -> None:
    assert complaint(f"{BASE}{more}\n") == f"sweep.yaml:6: {message}"


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("{type: uniform, min: 1, max: 0}", "lr: min 1 is above max 0: swap them"),
        (
            "{type: log_uniform, min: 0, max: 1}",
            "lr: min is 0: a logarithm needs a min above 0",
        ),
        ("{type: int, min: 1, mxa: 2}", "lr.mxa: unknown key; did you mean 'max'?"),
        ("{type: unifrom, min: 0}", "lr.type: unknown type 'unifrom'; did you mean 'uniform'?"),
        (
            "{type: gauss}",
            "lr.type: unknown type 'gauss'; known: log_uniform, uniform, float, int, categorical",
        ),
        ("{type: int, min: 1}", "lr: 'max' is missing"),
        ("{type: categorical}", "lr: 'values' is missing"),
        ("{type: categorical, values: []}", "lr: values is empty: list at least one"),
        ("{type: categorical, values: [a, b, a]}", "lr: value 'a' stands twice"),
        ("{type: int, min: 0.5, max: 2}", "lr.min: should be a valid integer, not 0.5"),
        ("{type: int, min: x, max: 2}", "lr.min: should be a valid integer, not 'x'"),
        (
            "{type: int, min: 1, max: 2, when: {a: b}}",
            "lr.when.a: 'a' is not in the search space; known: ok, lr",
        ),
        (
            "{type: int, min: 1, low: 2, max: 3}",
            "lr.low: is given twice, under two names: keep one",
        ),
        ("{type: uniform, min: 0, max: .inf}", "lr: min and max must be finite numbers"),
        ("{type: uniform, min: 0, max: 1, step: 0}", "lr: step is 0: it must be above 0"),
        (
            "{type: uniform, min: 1, max: 2, step: 1, log: true}",
            "lr: log and step exclude each other: leave one out",
        ),
        (
            "3",
            "lr: neither a group nor a parameter with a 'type'; fixed values go to objective_args",
        ),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named_with_its_line(
    parameter: str, message: str
) -> None:
    text = f"{HEAD}  ok: {{type: int, min: 1, max: 2}}\n  lr: {parameter}\n"
    assert complaint(text) == f"sweep.yaml:6: search_space.{message}"


def test_a_complaint_names_the_line_deep_in_nested_groups() -> None:
    text = NESTED_GROUPS.replace("      max: 5", "      mxa: 5")
    assert complaint(text) == (
        "sweep.yaml:16: search_space.training.num_train_epochs.mxa: unknown key;"
        " did you mean 'max'?"
    )


@pytest.mark.parametrize("name", ["1lr", "a b", "ä"])
def test_a_name_that_no_variable_can_bear_is_refused(name: str) -> None:
    text = f"{HEAD}  {name}: {{type: int, min: 1, max: 2}}\n"
    assert complaint(text) == (
        f"sweep.yaml:5: search_space.{name}: a name is letters, digits, _ and -, a letter first"
    )


def test_a_duplicate_key_is_refused_at_its_second_line() -> None:
    assert complaint(f"{BASE}study: t\n") == 'sweep.yaml:6: found duplicate key "study"'
    one = "  lr: {type: int, min: 1, max: 2}\n"
    assert complaint(HEAD + one + one) == 'sweep.yaml:6: found duplicate key "lr"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sweep.yaml:1: a sweep is a mapping of keys: 'study: my-sweep' and so on"),
        ("- a\n", "sweep.yaml:1: a sweep is a mapping of keys: 'study: my-sweep' and so on"),
        ("hello\n", "sweep.yaml:1: a sweep is a mapping of keys: 'study: my-sweep' and so on"),
        ("study: s\n", "sweep.yaml:1: search_space: is missing"),
        (BASE.replace("study: s\n", ""), "sweep.yaml:1: study: is missing"),
        (
            BASE.replace("objective: m:f\n", ""),
            "sweep.yaml:1: objective: give either 'objective' or 'command'",
        ),
        (
            f"{BASE}command: [python]\n",
            "sweep.yaml:2: objective: give either 'objective' or 'command'",
        ),
        (
            BASE.replace("budget: {trials: 3}\n", ""),
            "sweep.yaml:1: budget: 'trials' is missing: tpe needs a number of trials",
        ),
        (
            BASE.replace("study: s", 'study: "a\\nb"'),
            "sweep.yaml:1: study: must be one line, without control characters",
        ),
        (
            "study: s\nsearch_space: {}\n",
            "sweep.yaml:2: search_space: is empty: name at least one parameter",
        ),
        (
            "study: s\nsearch_space: {type: int, min: 1, max: 2}\n",
            "sweep.yaml:2: search_space.type: a parameter needs a name: write it one level deeper",
        ),
    ],
)
def test_what_is_missing_or_empty_is_named(text: str, message: str) -> None:
    assert complaint(text) == message


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a:\n\t- b\n", 2, "indented by a tab: YAML takes spaces only"),
        ("a: 1\nx: [1, 2\n", 3, "expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nx: 'abc\n", 3, "found unexpected end of stream"),
        ("a: 1\n- b\n", 2, "expected <block end>, but found '-'"),
    ],
)
def test_what_is_no_yaml_is_refused_at_its_line(text: str, line: int, problem: str) -> None:
    assert complaint(text) == f"sweep.yaml:{line}: {problem}"


def test_a_grid_over_a_continuous_range_names_the_parameter() -> None:
    message = complaint(f"{BASE}sampler: grid\n")
    assert message.startswith("sweep.yaml:4: search_space.lr: a continuous range has no grid")
    assert "give it a step, or list the values" in message


def test_a_budget_that_contradicts_the_grid_or_the_list_is_refused() -> None:
    space = "  a: {type: int, min: 1, max: 4}\n"
    assert complaint(f"{HEAD}{space}sampler: grid\n") == (
        "sweep.yaml:3: budget: the grid has 4 cells, not 3: leave 'trials' out"
    )
    manual = "sampler: {name: manual, points: [{a: 1}]}\n"
    assert complaint(f"{HEAD}{space}{manual}") == (
        "sweep.yaml:3: budget: the list has 1 points, not 3: leave 'trials' out"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "[train, '--lr={lrr}']",
            "command: {lrr} is not in the search space; did you mean 'lr'?",
        ),
        (
            "[train, '{trial.numbr}']",
            "command: {trial.numbr} is not in the search space; did you mean 'trial.number'?",
        ),
        (
            "[train, '{epochs}']",
            "command: {epochs} is not in the search space;"
            " known: lr, trial.number, trial.dir, trial.seed, trial.params",
        ),
        ("[]", "command: is empty: name a program, [python, train.py]"),
        ("[train, 3]", "command.1: should be a valid string, not 3"),
    ],
)
def test_a_command_that_cannot_be_filled_is_refused(command: str, message: str) -> None:
    text = BASE.replace("objective: m:f", f"command: {command}")
    assert complaint(text) == f"sweep.yaml:2: {message}"


def test_a_command_may_use_parameters_variables_of_the_shell_and_doubled_braces() -> None:
    words = "[train, '{lr}', '{trial.dir}', '${HOME}', '{{\"a\": 1}}', '{}']"
    text = BASE.replace("objective: m:f", f"command: {words}")
    assert config.parse(text, "s.yaml").command is not None


# --set


def test_set_changes_a_key_adds_one_and_reads_yaml() -> None:
    sweep = config.parse(
        BASE, "s.yaml", ("budget.trials=7", "resources.time=2h", "workers=2", "sampler={name: tpe}")
    )
    assert sweep.trials == 7
    assert sweep.resources.time == timedelta(hours=2)
    assert sweep.workers == 2
    assert sweep.sampler == Tpe()


def test_set_reaches_into_lists() -> None:
    text = f"{BASE}metrics: [{{name: a}}, {{name: b}}]\n"
    sweep = config.parse(text, "s.yaml", ("metrics.1.goal=maximize",))
    assert [metric.goal for metric in sweep.metrics] == ["minimize", "maximize"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers", "--set workers: write it as key.key=value"),
        ("=3", "--set =3: write it as key.key=value"),
        ("a..b=3", "--set a..b=3: write it as key.key=value"),
        ("workers=two", "workers (on the command line): should be a valid integer, not 'two'"),
        ("mode=asinc", "mode (on the command line): 'asinc' is not known; did you mean 'async'?"),
        (
            "resources.tiem=2h",
            "resources.tiem (on the command line): unknown key; did you mean 'time'?",
        ),
        (
            "search_space.lr.mni=5",
            "search_space.lr.mni (on the command line): unknown key; did you mean 'min'?",
        ),
        (
            "search_space.lr.min=5",
            "sweep.yaml:4: search_space.lr (with search_space.lr.min of the command line):"
            " min 5 is above max 1: swap them",
        ),
        ("study.x=3", "--set study.x: there is no such place, or no such value"),
        ("workers=[", "--set workers: there is no such place, or no such value"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named_instead_of_the_file(
    override: str, message: str
) -> None:
    assert complaint(BASE, override) == message


def test_a_flag_may_fill_a_mapping_that_is_empty_in_the_file() -> None:
    assert complaint(f"{BASE}resources: {{}}\n", "resources.tiem=2h") == (
        "resources.tiem (on the command line): unknown key; did you mean 'time'?"
    )


def test_a_wrong_key_in_the_file_keeps_its_line_next_to_a_flag() -> None:
    assert complaint(f"{BASE}wokers: 3\n", "seed=3") == (
        "sweep.yaml:6: wokers: unknown key; did you mean 'workers'?"
    )


# files


def test_a_missing_file_is_named_with_the_way_to_a_starter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load(tmp_path / "no.yaml")
    assert str(refused.value) == (
        f"{tmp_path}/no.yaml: no such file; 'hpoctl init' writes a starter sweep"
    )


def test_a_binary_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "model.bin"
    binary.write_bytes(b"\x80\x81\xff\x00")
    for path, said in ((binary, ":1: is not UTF-8: save"), (tmp_path, ": is a folder: name the")):
        with pytest.raises(ConfigError, match=f"^{path}{said}"):
            config.load(path)


def test_a_list_or_a_mapping_that_is_none_is_refused_with_one_that_would_do() -> None:
    for wrong, said in (
        ("metrics: eval_loss", "metrics: should be a list, such as [{name: eval_loss}], not"),
        ("metrics: [eval_loss]", "metrics.0: should be a mapping of keys and values, such as {"),
        ("budget: 10", "budget: should be a mapping of keys and values, such as {trials: 60}, "),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            config.parse(f"study: s\n{SPACE_ONLY}{wrong}\n", "sweep.yaml")


def test_what_the_command_line_changes_can_be_written_out_with_the_comments_kept() -> None:
    text = "a: {b: 1}  # why\n# and more\nc: 1e-4\n"
    changed = config.overridden(text, "s", ["a.b=2", "d.e=[x]"])
    assert "# why\n# and more" in changed
    assert config.read(changed, "s") == {"a": {"b": 2}, "c": 1e-4, "d": {"e": ["x"]}}


SPACE_ONLY = "search_space: {x: {type: uniform, min: 0, max: 1}}\n"
WORDS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=20)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), WORDS),
        lambda inner: st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=4,
    )
)
def test_what_is_dumped_reads_back_as_the_same(value: object) -> None:
    assert YAML(typ="safe", pure=True).load(config.dump({"a": value})) == {"a": value}


@given(st.text(max_size=200))
def test_any_text_is_a_sweep_or_a_config_error_of_one_line(text: str) -> None:
    try:
        config.parse(text, "sweep.yaml")
    except ConfigError as refused:
        assert str(refused).startswith("sweep.yaml:")


@pytest.mark.parametrize(
    "storage",
    [
        "{url: 'postgresql://u:canary@h/d'}",
        "{url: 'postgresql://h/d?password=canary'}",
        "{url: 'postgresql://u:canary@[h/d'}",
        "'postgresql://u:canary@h/d'",
        "{url: [canary]}",
        "{url_env: 'postgresql://u:canary@h/d'}",
    ],
)
def test_a_password_in_the_file_is_refused_and_never_repeated(storage: str) -> None:
    refused = complaint(f"{BASE}storage: {storage}\n")
    assert refused.startswith("sweep.yaml:6: storage")
    assert "canary" not in refused
    assert "canary" not in complaint(BASE, f"storage={storage}")


def test_policies_for_failures_replace_those_that_nobody_named() -> None:
    sweep = config.parse(f"{BASE}on: {{cuda_oom: fail, node_fail: requeue}}\n", "sweep.yaml")
    assert sweep.policy(Cause.CUDA_OOM) is Policy.FAIL
    assert sweep.policy(Cause.NODE_FAIL) is Policy.REQUEUE
    assert sweep.policy(Cause.TIMEOUT) is Policy.RETRY
    plain = config.parse(BASE, "sweep.yaml")
    assert plain.policy(Cause.CUDA_OOM) is Policy.INFEASIBLE
    assert [plain.policy(cause) for cause in Cause]


def test_memory_that_has_a_limit_makes_a_trial_infeasible_that_uses_it_up() -> None:
    text = f"{BASE}constraints: [{{name: host_memory_gb, max: 4}}]\n"
    assert config.parse(BASE, "sweep.yaml").policy(Cause.HOST_OOM) is Policy.FAIL
    assert config.parse(text, "sweep.yaml").policy(Cause.HOST_OOM) is Policy.INFEASIBLE
    told = f"{text}on: {{host_oom: retry}}\n"
    assert config.parse(told, "sweep.yaml").policy(Cause.HOST_OOM) is Policy.RETRY


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("constraints: [{name: a}]", "constraints.0: needs 'max' or 'min'"),
        (
            "constraints: [{name: a, min: 2, max: 1}]",
            "constraints.0: 'min' is above 'max': nothing fits",
        ),
        (
            "constraints: [{name: a, max: .inf}]",
            "constraints.0.max: should be a finite number, not inf",
        ),
        (
            "constraints: [{name: a, min: 2}, {name: a, max: 3}]",
            "constraints: 'a' stands twice: give it 'min' and 'max' in one place",
        ),
        (
            "metrics: [{name: a, weight: 1}, {name: b}]",
            "metrics: some have a 'weight' and some have none: weight all, or none",
        ),
        ("metrics: [{name: a, weight: 0}]", "metrics.0.weight: should be greater than 0, not 0"),
    ],
)
def test_a_constraint_or_a_weight_that_says_nothing_is_refused(line: str, message: str) -> None:
    assert complaint(f"{BASE}{line}\n") == f"sweep.yaml:6: {message}"


def test_a_study_of_weighted_metrics_compares_one_value_and_may_be_pruned() -> None:
    text = f"{BASE}metrics: [{{name: a, weight: 1}}, {{name: b, goal: maximize, weight: 2}}]\n"
    sweep = config.parse(f"{text}pruner: median\n", "sweep.yaml")
    assert [(metric.name, metric.goal) for metric in sweep.objectives] == [("weighted", "minimize")]
    assert sweep.gist.metrics == ("weighted",)
    assert sweep.gist.shown == ("a", "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("on: {cuda_om: fail}", "on.cuda_om: 'cuda_om' is not known; did you mean 'cuda_oom'?"),
        ("on: {nan: retri}", "on.nan: 'retri' is not known; did you mean 'retry'?"),
        ("on: fail", "on: should be a mapping, such as {cuda_oom: infeasible}"),
        (
            "resources: {time: 10m, warning: 6m}",
            "resources.warning: leaves less than half of resources.time to trials: shorten it",
        ),
        (
            "resources: {sbatch: [--nice, --time=9-0]}",
            "resources.sbatch: '--time' has a key of its own, by which limits are checked:"
            " give 'time'",
        ),
        (
            "resources: {sbatch: ['--cpus-per-task 4']}",
            "resources.sbatch: '--cpus-per-task' has a key of its own, by which limits are"
            " checked: give 'cpus'",
        ),
        (
            "resources: {sbatch: [--array=0-9]}",
            "resources.sbatch: '--array' is for hpoctl to set: leave it out",
        ),
    ],
)
def test_a_policy_or_a_flag_that_cannot_stand_is_named(line: str, message: str) -> None:
    assert complaint(f"{BASE}{line}\n") == f"sweep.yaml:6: {message}"
