"""Outages in every phase of a worker's life: none dies, and no trial, result or report is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pymysql
import pytest
from servers import MariaDB, PostgreSQL
from workplace import Workplace, open_workplace, wait_until

from chaos.proxy import CuttingProxy
from hpoctl.record import TrialState
from hpoctl.study.connect import connect
from hpoctl.study.location import parse_url

# The goal is 60; so long it takes half an hour.
OUTAGE_S = float(os.environ.get("HPOCTL_TEST_OUTAGE_S", "1"))
THREE = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 3}}\n"
STORAGE = "storage: {url_env: HPOCTL_STORAGE}\n"
REPORTING = """
from pathlib import Path
def objective(trial):
    with Path("executions").open("a") as lines:
        print(trial.number, file=lines)
    for step in (1, 2):
        trial.report(trial.params["a"] / step, step)
    return trial.params["a"]
"""
# What a worker says in each phase, in both servers' words.
PHASES = {
    "signing on": b"insert into hpoctl_workers",
    "between two trials": b"update hpoctl_workers",
    "claiming": b"skip locked",
    "reporting": b"insert into trial_intermediate_values",
    "telling": b"insert into trial_values",
}


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> PostgreSQL | MariaDB:
    found: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def proxy(server: PostgreSQL | MariaDB) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.port) as proxy:
        yield proxy


def behind(
    proxy: CuttingProxy,
    server: PostgreSQL | MariaDB,
    folder: Path,
    objective: str,
    sweep: str = THREE,
) -> Workplace:
    """A study in a new database, which is reached through the proxy."""
    url = server.create_database().replace(f":{server.port}/", f":{proxy.port}/")
    return open_workplace(folder, objective, sweep + STORAGE, environ={"HPOCTL_STORAGE": url})


def last(seconds: float) -> None:
    """Lets time pass: the length of an outage is what is tested."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 10)


def left(worker: subprocess.Popen[str]) -> str:
    """What a worker printed until it left, in good order."""
    printed, _ = worker.communicate(timeout=60 + OUTAGE_S)
    assert worker.returncode == 0, printed
    return printed


def assert_all_is_there_once(place: Workplace) -> None:
    records = place.records()
    assert [record.state for record in records] == [TrialState.COMPLETE] * 3
    assert [record.values for record in records] == [(1.0,), (2.0,), (3.0,)]
    assert [record.steps for record in records] == [{1: a, 2: a / 2} for a in (1.0, 2.0, 3.0)]
    assert {record.attrs["attempt"] for record in records} == {1}
    assert (place.folder / "executions").read_text().split() == ["0", "1", "2"]
    assert [worker.trials for worker in place.workers()] == [3]
    assert not [*place.run_dir.spool.glob("*")]


@pytest.mark.parametrize("phase", PHASES)
def test_an_outage_in_any_phase_loses_nothing(
    server: PostgreSQL | MariaDB, proxy: CuttingProxy, tmp_path: Path, phase: str
) -> None:
    """Twice: before the server has heard of it, and when only its answer is lost."""
    place = behind(proxy, server, tmp_path, REPORTING)
    proxy.refuse_at(PHASES[phase], reached=False)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until(lambda: proxy.refusing)
        last(OUTAGE_S)
        proxy.refuse_at(PHASES[phase], reached=True)
        proxy.let_through()
        wait_until(lambda: proxy.refusing)
        last(OUTAGE_S)
        proxy.let_through()
        left(worker)
    assert_all_is_there_once(place)


GATED = """
import time
from pathlib import Path
def objective(trial):
    Path("started").touch()
    while not Path("report").exists():
        time.sleep(0.02)
    for step in (1, 2):
        trial.report(trial.params["a"] / step, step)
    Path("reported").touch()
    while not Path("end").exists():
        time.sleep(0.02)
    with Path("executions").open("a") as lines:
        print(trial.number, file=lines)
    return trial.params["a"]
"""


def test_a_trial_runs_on_through_an_outage_and_what_it_reported_is_told_later(
    server: PostgreSQL | MariaDB, proxy: CuttingProxy, tmp_path: Path
) -> None:
    place = behind(proxy, server, tmp_path, GATED, f"{THREE}lease: 2s\n")
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started").exists)
        proxy.refuse()
        (tmp_path / "report").touch()
        wait_until((tmp_path / "reported").exists, 40)
        last(OUTAGE_S)
        (tmp_path / "end").touch()
        wait_until(lambda: [*place.run_dir.spool.glob("*.json")])
        proxy.let_through()
        printed = left(worker)
    assert "the trial goes on, its reports wait" in printed
    assert_all_is_there_once(place)


def test_a_result_that_its_worker_could_not_tell_is_told_with_its_reports_by_the_next(
    server: PostgreSQL | MariaDB, proxy: CuttingProxy, tmp_path: Path
) -> None:
    place = behind(proxy, server, tmp_path, GATED)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started").exists)
        proxy.refuse()
        for gate in ("report", "end"):
            (tmp_path / gate).touch()
        wait_until(lambda: [*place.run_dir.spool.glob("*.json")], 40)
        worker.kill()
    proxy.let_through()
    place.work(HPOCTL_TASK="7_1")
    records = place.records()
    assert [record.steps for record in records] == [{1: a, 2: a / 2} for a in (1.0, 2.0, 3.0)]
    assert [record.attrs["task"] for record in records] == ["7_0", "7_1", "7_1"]
    assert (tmp_path / "executions").read_text().split() == ["0", "1", "2"]


@pytest.mark.parametrize("crash", [False, True], ids=["orderly", "crash"])
def test_a_restart_of_the_server_while_trials_run_and_end_loses_nothing(
    server: PostgreSQL | MariaDB, proxy: CuttingProxy, tmp_path: Path, crash: bool
) -> None:
    place = behind(proxy, server, tmp_path, GATED)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started").exists)
        server.halt(crash=crash)
        try:
            for gate in ("report", "end"):
                (tmp_path / gate).touch()
            wait_until(lambda: [*place.run_dir.spool.glob("*.json")], 40)
        finally:
            server.resume()
        left(worker)
    assert_all_is_there_once(place)


@pytest.mark.parametrize("database", ["postgresql_url", "mariadb_url"])
def test_thirty_two_workers_start_at_once_on_a_new_database(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = request.getfixturevalue(database)
    sweep = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 64}}\n"
    quick = "def objective(trial): return trial.params['a']\n"
    place = open_workplace(tmp_path, quick, sweep + STORAGE, environ={"HPOCTL_STORAGE": url})
    for worker in [place.start(HPOCTL_TASK=f"7_{i}") for i in range(32)]:
        left(worker)
    assert place.counts() == {TrialState.COMPLETE: 64}
    assert len(place.workers()) == 32
    assert sum(worker.trials for worker in place.workers()) == 64


@pytest.fixture(params=["postgresql", "mariadb"])
def cramped_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database on a server that lets ten clients in at most."""
    if request.param == "postgresql":
        own = PostgreSQL(max_connections=10)
        try:
            own.start()
            yield own.create_database()
        finally:
            own.stop()
        return
    url = request.getfixturevalue("mariadb_url")
    with closing(connect(parse_url(url, "a test"))) as connection:
        connection.cursor().execute("set global max_connections = 10", ())
        try:
            yield url
        finally:
            connection.cursor().execute("set global max_connections = 151", ())


def test_workers_wait_for_a_connection_and_say_what_they_wait_for(
    cramped_url: str, tmp_path: Path
) -> None:
    sweep = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 64}}\n"
    environ = {"HPOCTL_STORAGE": cramped_url}
    place = open_workplace(tmp_path, REPORTING, sweep + STORAGE, environ=environ)
    with ExitStack() as stack:
        with pytest.raises((psycopg2.OperationalError, pymysql.OperationalError)):
            while True:
                stack.enter_context(closing(connect(place.location)))
        workers = [place.start(HPOCTL_TASK=f"7_{i}") for i in range(14)]
        for worker in workers:
            assert worker.stdout is not None
            said = worker.stdout.readline()
            assert "all its connections are taken: raise max_connections" in said
    for worker in workers:
        left(worker)
    assert place.counts() == {TrialState.COMPLETE: 64}


HOLDING = """
import os
import time
from pathlib import Path
def objective(trial):
    Path(f"started-{trial.number}").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    inherited = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if
                 os.path.lexists(f"/proc/self/fd/{n}")}
    table = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{row[9]}]" in inherited for row in table)
"""


def test_no_connection_is_held_while_an_objective_runs_and_none_reaches_its_process(
    server: PostgreSQL | MariaDB, proxy: CuttingProxy, tmp_path: Path
) -> None:
    place = behind(proxy, server, tmp_path, HOLDING)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started-0").exists)
        wait_until(lambda: proxy.connections == 0)
        (tmp_path / "go").touch()
        left(worker)
    assert [record.values for record in place.records()] == [(0.0,)] * 3
