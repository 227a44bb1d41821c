"""Models and data sets of a hub: fetched where there is one, used where there is none."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from hpoctl.objectives.causal_lm.hub import HubName, read_model

from .conftest import PretrainedFolders
from .fake_hub import FakeHub, Repo
from .tiny_gguf import write_gguf

OLD, NEW = "a" * 40, "b" * 40
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": b"w" * 5000,
    "pytorch_model.bin": b"p" * 7000,
}
NAMES = {"main": NEW, "v1": OLD}
README = b"""---
configs:
- {config_name: long, data_files: [{split: train, path: long/train.%(form)s}]}
- {config_name: short, data_files: [{split: train, path: short/train.%(form)s}]}
---
"""


def sweep(
    *,
    model: Mapping[str, object],
    dataset: Mapping[str, object] | None = None,
    space: Mapping[str, object] | None = None,
) -> str:
    """One trial of one step."""
    rate = {"learning_rate": {"type": "uniform", "min": 0, "max": 1}}
    args = {
        "model": model,
        "dataset": {"builtin": "pydoc"} if dataset is None else dataset,
        "training": {"max_steps": 1, "batch_size": 2},
    }
    return json.dumps(
        {
            "study": "s",
            "objective": "hpoctl.objectives.causal_lm",
            "objective_args": args,
            "metrics": [{"name": "eval_loss"}],
            "search_space": {"training": rate} if space is None else space,
            "budget": {"trials": 1},
        }
    )


class Desk:
    """A folder with a sweep, and a cache of its own for what comes from the hub."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.hub, self.up = folder, hub, ExitStack()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": self.up.enter_context(hub.serving()),
            "HF_HOME": str(folder / "cache"),
        }
        self.write(sweep(model={"pretrained": "acme/tiny"}))

    def write(self, text: str) -> None:
        (self.folder / "sweep.yaml").write_text(text)

    def take_the_hub_away(self) -> None:
        self.up.close()

    def begin(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        begun = self.begin(*command)
        try:
            out, err = begun.communicate(timeout=180)
        finally:
            begun.kill()
        return subprocess.CompletedProcess(command, begun.returncode, out, err)

    def fetch(self) -> list[dict[str, object]]:
        done = self.run("-m", "hpoctl", "prefetch", "sweep.yaml", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    def refused(self) -> str:
        """What `prefetch` says in its one line."""
        done = self.run("-m", "hpoctl", "prefetch", "sweep.yaml")
        assert done.returncode == 1, done.stdout
        (line,) = done.stderr.splitlines()
        return line

    def train(self) -> Mapping[str, object]:
        """The sweep's trial where no hub may be asked; its `hub.json`."""
        self.env["HF_HUB_OFFLINE"] = "1"
        done = self.run("-m", "hpoctl", "run", "sweep.yaml")
        folder = self.folder / "runs/s"
        logs = "\n".join(file.read_text() for file in folder.glob("logs/*.log"))
        assert done.returncode == 0, done.stderr + logs
        origins: Mapping[str, object] = json.loads(
            next(folder.glob("trials/*/hub.json")).read_text()
        )
        return origins

    def try_out(self, *args: Mapping[str, object]) -> list[object]:
        """Trials where no hub may be asked, without a worker: each its `hub.json`, or why not."""
        self.env |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = self.run("-c", TRAIN, json.dumps(args))
        found = [line for line in done.stdout.splitlines() if line.startswith("origins ")]
        assert len(found) == len(args), done.stderr
        return [json.loads(line.removeprefix("origins ")) for line in found]


def parquet(texts: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), written)
    return written.getvalue()


def jsonl(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def words(form: str, age: str) -> dict[str, bytes]:
    """A data set with two subsets; what its texts say tells which one and how old."""
    write = {"parquet": parquet, "jsonl": jsonl}[form]
    subsets = {"long": 300, "short": 100}
    files = {
        f"{name}/train.{form}": write([f"{age} {name} words, number {i}" for i in range(rows)])
        for name, rows in subsets.items()
    }
    return {"README.md": README % {b"form": form.encode()}, **files}


def data_set(form: str) -> Repo:
    return Repo(commits={OLD: words(form, "old"), NEW: words(form, "new")}, names=NAMES)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    repos = {
        "models/acme/tiny": Repo(commits={NEW: FILES, OLD: FILES}, names=NAMES),
        "models/acme/gated": Repo(commits={NEW: FILES}, names=NAMES, gated=True),
        "datasets/acme/parquet": data_set("parquet"),
        "datasets/acme/jsonl": data_set("jsonl"),
        "datasets/acme/gated": Repo(commits={NEW: words("jsonl", "new")}, names=NAMES, gated=True),
    }
    begun = Desk(tmp_path, FakeHub(repos=repos))
    yield begun
    begun.take_the_hub_away()


READY = """
from hpoctl import config, objectives
from hpoctl.objectives.causal_lm import hub
from pathlib import Path
print(hub.go_offline(objectives.hub_names(config.load(Path("sweep.yaml")))))
from huggingface_hub import snapshot_download
print(snapshot_download("acme/tiny", ignore_patterns=["*.bin"]))
"""


def test_a_model_is_fetched_once_in_the_format_that_is_read(desk: Desk) -> None:
    (fetched,) = desk.fetch()
    path = Path(str(fetched["path"]))
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert fetched["size"] == len(FILES["config.json"]) + len(FILES["model.safetensors"])
    assert fetched["commit"] == NEW


def test_a_worker_asks_no_hub_for_what_was_fetched(desk: Desk) -> None:
    desk.fetch()
    desk.hub.asked.clear()
    done = desk.run("-c", READY)
    assert done.stdout.splitlines()[0] == "True", done.stderr
    assert Path(done.stdout.splitlines()[1]).is_dir()
    assert desk.hub.asked == []


def test_a_worker_asks_the_hub_for_what_was_not_fetched(desk: Desk) -> None:
    done = desk.run("-c", READY)
    assert done.stdout.splitlines()[0] == "False", done.stderr
    assert desk.hub.asked


def test_what_was_deleted_since_is_asked_for_again(desk: Desk) -> None:
    (fetched,) = desk.fetch()
    path = Path(str(fetched["path"]))
    path.rename(path.with_name("elsewhere"))
    assert desk.run("-c", READY).stdout.splitlines()[0] == "False"


EACH = """
import json, sys
from hpoctl.objectives.causal_lm.hub import HubName, fetch
for name in json.loads(sys.argv[1]):
    try:
        fetch(HubName(**name))
    except ValueError as wrong:
        print(wrong)
"""


def test_what_a_hub_cannot_give_is_one_line_with_the_way_out(desk: Desk) -> None:
    none, gated = "there is none of this name that you may read", "it is gated: ask for access on"
    said = {
        "model acme/tyni": none,
        "model acme/gated": gated,
        "model acme/tiny@v9": "there is no such revision of it",
        "model acme/tiny": "there is no such file in it",
        "dataset acme/wrods": none,
        "dataset acme/gated": gated,
        "dataset acme/jsonl@v9": "there is no such revision of it",
        "dataset acme/jsonl": "BuilderConfig 'shrot' not found. Available: ['long', 'short']",
    }
    names = []
    for name in said:
        kind, full = name.split()
        plain, _, revision = full.partition("@")
        file = "x.gguf" if name == "model acme/tiny" else None
        config = "shrot" if name == "dataset acme/jsonl" else None
        names.append(
            {"kind": kind, "name": plain, "revision": revision or None}
            | {"file": file, "config": config}
        )
    done = desk.run("-c", EACH, json.dumps(names))
    lines = done.stdout.splitlines()
    assert len(lines) == len(said), done.stdout + done.stderr
    for line, (name, why) in zip(lines, said.items(), strict=True):
        assert line.startswith(f"{name.partition('@')[0]}: {why}")
        if why in (none, gated):
            assert "hf auth login" in line


def test_a_name_that_the_hub_does_not_know_is_told_in_one_line(desk: Desk) -> None:
    desk.write(sweep(model={"pretrained": "acme/gated"}))
    assert "model acme/gated: it is gated" in desk.refused()


def test_a_hub_that_cannot_be_reached_is_told_at_once(desk: Desk) -> None:
    """What is left of another revision is not taken for what is asked for."""
    data = {"kind": "dataset", "name": "acme/parquet", "config": "long"}
    model = {"kind": "model", "name": "acme/tiny"}
    done = desk.run("-c", EACH, json.dumps([{**data, "revision": "v1"}, model]))
    assert not done.stdout
    desk.take_the_hub_away()
    done = desk.run("-c", EACH, json.dumps([data, {**model, "revision": "v1"}]))
    first, second = done.stdout.splitlines()
    why = "the hub cannot be reached from here: is there a network or a proxy"
    assert first.startswith(f"dataset acme/parquet: {why}")
    assert second.startswith(f"model acme/tiny: {why}")
    assert "Retrying" not in done.stderr


def test_every_choice_of_a_searched_model_is_fetched_and_folders_are_not(desk: Desk) -> None:
    (desk.folder / "mine").mkdir()
    choices = ["acme/tiny@v1", "acme/tiny", "mine", "x.gguf", "mine/of/x.gguf"]
    space = {"model": {"pretrained": {"type": "categorical", "values": choices}}}
    desk.write(sweep(model={}, space=space))
    assert [(one["name"], one["commit"]) for one in desk.fetch()] == [
        ("acme/tiny", OLD),
        ("acme/tiny", NEW),
    ]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("gpt2", ("gpt2", None, None)),
        ("gpt2@v1.0", ("gpt2", "v1.0", None)),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1", None)),
        ("a/b/x.Q4_1.gguf", ("a/b", None, "x.Q4_1.gguf")),
        ("a/b@v1/sub/x.gguf", ("a/b", "v1", "sub/x.gguf")),
        ("x.gguf", None),
        ("a/x.gguf", None),
        ("one/two/three", None),
        ("./a/b/x.gguf", None),
        ("here/b/x.gguf", None),
    ],
)
def test_a_name_may_have_a_revision_and_a_file(
    given: str,
    read: tuple[str, str | None, str | None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    found = read_model(given)
    if read is None:
        assert found is None
    else:
        name, revision, file = read
        assert found == HubName(kind="model", name=name, revision=revision, file=file)


def test_what_was_fetched_on_the_login_node_is_trained_on_where_there_is_no_hub(
    desk: Desk,
) -> None:
    dataset = {"hub": "acme/jsonl", "config": "long", "revision": "v1", "max_length": 16}
    desk.write(sweep(model=SMALL, dataset=dataset))
    (fetched,) = desk.fetch()
    assert (fetched["kind"], fetched["name"]) == ("dataset", "acme/jsonl")
    assert fetched["commit"] == OLD
    assert int(str(fetched["size"])) > 0
    desk.take_the_hub_away()
    assert desk.train() == {"dataset": {"name": "acme/jsonl", "commit": OLD}}


TRAIN = """
import json, sys
from pathlib import Path
from hpoctl.objectives import causal_lm
from objectives.conftest import FakeTrial
for i, args in enumerate(json.loads(sys.argv[1])):
    folder = Path(f"trial {i}")
    folder.mkdir()
    args["training"] = {"max_steps": 1, "batch_size": 2, "eval_strategy": "no"}
    try:
        causal_lm.objective(FakeTrial(dir=folder, params={}, args=args))
        print("origins", (folder / "hub.json").read_text().replace("\\n", " "))
    except ValueError as wrong:
        print("origins", json.dumps(str(wrong)))
"""


def test_what_was_fetched_is_read_at_its_commit_whatever_else_is_in_the_cache(
    desk: Desk, pretrained_folder: PretrainedFolders
) -> None:
    """Offline, datasets takes the newest that it has, and transformers what `main` was last."""
    real = contents(pretrained_folder("gpt2"))
    moving = Repo(commits={OLD: real}, names={"main": OLD})
    broken = {**real, "config.json": b"{}"}
    desk.hub.repos["models/acme/moving"] = moving
    desk.hub.repos["models/acme/real"] = Repo(commits={OLD: real, NEW: broken}, names=NAMES)
    words = {"kind": "dataset", "name": "acme/parquet", "config": "long"}
    names = [{"kind": "model", "name": "acme/real", "revision": "v1"}]
    names += [{"kind": "model", "name": "acme/moving"}, {**words, "revision": "v1"}, words]
    assert not desk.run("-c", EACH, json.dumps(names)).stdout
    moving.commits, moving.names = {OLD: real, NEW: {"config.json": b"{}"}}, NAMES
    newer = "from huggingface_hub import snapshot_download; snapshot_download('acme/moving')"
    assert desk.run("-c", newer).returncode == 0
    desk.take_the_hub_away()
    own = {"hub": "acme/parquet", "config": "long", "max_length": 16}
    first, second, third, fourth = desk.try_out(
        {"model": {"pretrained": "acme/real@v1"}, "dataset": PYDOC},
        {"model": {"pretrained": "acme/moving"}, "dataset": PYDOC},
        {"model": SMALL, "dataset": {**own, "revision": "v1"}},
        {"model": SMALL, "dataset": {**own, "revision": NEW[:7]}},
    )
    assert first == {"model": {"name": "acme/real@v1", "commit": OLD}}
    assert second == {"model": {"name": "acme/moving", "commit": OLD}}
    assert third == {"dataset": {"name": "acme/parquet", "commit": OLD}}
    assert str(fourth).startswith("dataset.hub: acme/parquet: its revision was not fetched")


def test_of_a_gguf_file_on_the_hub_nothing_else_is_fetched_and_it_is_trained(
    desk: Desk, pretrained_folder: PretrainedFolders
) -> None:
    write_gguf(pretrained_folder("llama"), desk.folder / "written")
    content = (desk.folder / "written").read_bytes()
    files = {"tiny.Q8_0.gguf": b"not this one", "all/tiny.gguf": content, "config.json": b"{}"}
    desk.hub.repos["models/acme/tiny-GGUF"] = Repo(commits={NEW: files}, names=NAMES)
    desk.write(sweep(model={"pretrained": "acme/tiny-GGUF/all/tiny.gguf"}, dataset=PYDOC))
    (fetched,) = desk.fetch()
    assert fetched["size"] == len(content)
    assert not [path for path in desk.hub.asked if "resolve" in path and "all/tiny" not in path]
    desk.take_the_hub_away()
    model = {"name": "acme/tiny-GGUF/all/tiny.gguf", "commit": NEW}
    args = {"model": {"pretrained": model["name"]}, "dataset": PYDOC}
    assert desk.try_out(args) == [{"model": model}]


def test_a_prefetch_that_was_killed_is_repeated(desk: Desk) -> None:
    model = {"kind": "model", "name": "acme/tiny"}
    dataset = {"kind": "dataset", "name": "acme/jsonl", "config": "long"}
    notes = desk.folder / "cache/hpoctl"
    for stalled, name in (("model.safetensors", model), ("long/train.jsonl", dataset)):
        desk.hub.stalled = stalled
        desk.hub.reached.clear()
        begun = desk.begin("-c", EACH, json.dumps([name]))
        assert desk.hub.reached.wait(60)
        begun.send_signal(signal.SIGKILL)
        begun.communicate(timeout=60)
        assert not list(notes.glob("*"))
    desk.hub.stalled = None
    desk.write(
        sweep(model={"pretrained": "acme/tiny"}, dataset={"hub": "acme/jsonl", "config": "long"})
    )
    first, second = desk.fetch()
    assert first["size"] == len(FILES["config.json"]) + len(FILES["model.safetensors"])
    assert second["commit"] == NEW
    assert len(list(notes.glob("*"))) == 2


SMALL = {"num_layers": 1, "hidden_size": 16, "num_heads": 2}
PYDOC = {"builtin": "pydoc", "max_length": 32, "max_blocks": 20}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_program_of_the_users_own_is_told_what_to_do_instead(desk: Desk) -> None:
    text = (desk.folder / "sweep.yaml").read_text()
    desk.write(text.replace("hpoctl.objectives.causal_lm", "train:objective"))
    done = desk.run("-m", "hpoctl", "prefetch", "sweep.yaml")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE=1 in resources.setup" in done.stderr
