"""A database that does not answer: one line that names it, the cause, and no password."""

from __future__ import annotations

import json

import pytest
from conftest import Hpoctl
from servers import Server, free_port

from hpoctl.errors import StudyError
from hpoctl.plan import queue
from hpoctl.study import store
from hpoctl.study.location import parse_url
from hpoctl.study.summary import summarize
from study.conftest import MakeSweep

WRONG = "wr0ng@zQz"


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def unreachable(server: Server, how: str) -> str:
    match how:
        case "wrong password":
            return server.url("test_0", password=WRONG)
        case "missing database":
            return server.url("nowhere")
        case _:
            own = server.url("test_0")
            return f"{own.rpartition(':')[0]}:{free_port()}/test_0"


@pytest.mark.parametrize("how", ["wrong password", "missing database", "server down"])
def test_every_door_names_it_in_one_line(
    server: Server, make_sweep: MakeSweep, hpoctl: Hpoctl, how: str
) -> None:
    url = unreachable(server, how)
    location, sweep = parse_url(url, "a test"), make_sweep()
    said = []
    for ask in (
        lambda: summarize(location, sweep.study),
        lambda: store.open_(location, sweep),
        lambda: store.create(location, sweep, queue(sweep), owner="/x"),
    ):
        with pytest.raises(StudyError) as refused:
            ask()
        said.append(str(refused.value))
    sweep_file = hpoctl.folder / "sweep.yaml"
    sweep_file.write_text(
        json.dumps(
            {
                "study": "x",
                "objective": "hpoctl.objectives.toy",
                "search_space": {"n": {"type": "int", "min": 1, "max": 9}},
                "budget": {"trials": 2},
                "backend": "local",
                "storage": {"url_env": "HPOCTL_STORAGE"},
            }
        )
    )
    hpoctl.env["HPOCTL_STORAGE"] = url
    done = hpoctl("submit", "sweep.yaml", code=4)
    said.append(done.stderr.removesuffix("\n").removeprefix("hpoctl: "))
    assert done.stdout == ""
    assert not (hpoctl.folder / "runs").exists()
    for line in said:
        assert line.startswith(("postgresql://hpo:***@", "mysql://hpo:***@"))
        assert "\n" not in line
        assert "zQz" not in line
        assert server.password not in line
        assert url.partition(":")[2].split("@")[0].split(":")[1] not in line
        if how == "missing database":
            assert "nowhere" in line.partition(" ")[2]


def test_the_command_line_says_that_a_variable_is_not_set(hpoctl: Hpoctl) -> None:
    hpoctl.folder.joinpath("sweep.yaml").write_text(
        "study: x\nobjective: hpoctl.objectives.toy\nsearch_space: {n: {type: int, min: 1, max: 9}}"
        "\nbudget: {trials: 2}\nbackend: local\nstorage: {url_env: HPOCTL_STORAGE}\n"
    )
    done = hpoctl("submit", "sweep.yaml", code=4)
    assert done.stderr.startswith("hpoctl: storage.url_env: HPOCTL_STORAGE is not set")
    assert done.stderr.count("\n") == 1
