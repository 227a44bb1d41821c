"""Connections as drivers make them: TLS, the drivers' own password files, and what errors show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from certificates import make_authority, sign_server
from servers import MariaDB, PostgreSQL, Server

from hpoctl.errors import StudyError
from hpoctl.plan import queue
from hpoctl.record import TrialState
from hpoctl.study import store
from hpoctl.study.database import Database
from hpoctl.study.location import Location, parse_url
from hpoctl.study.summary import summarize
from study.claimers import make_worker
from study.conftest import MakeSweep

KINDS = ["postgresql", "mariadb"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: nobody's ~/.pgpass or ~/.my.cnf is meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with server.crt and server.key, right.crt that signed them, and wrong.crt."""
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)
    sign_server(folder, make_authority(folder, "right"))
    make_authority(folder, "wrong")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def tls_server(request: pytest.FixtureRequest, certificates: Path) -> Iterator[Server]:
    """Each kind of server in turn, with a certificate."""
    kind = PostgreSQL if request.param == "postgresql" else MariaDB
    made = kind(tls=certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def fails(location: Location) -> str:
    """What is said of a connection that is not made; the same by each of the two ways in."""
    said = []
    for ask in (lambda: summarize(location, "s"), lambda: Database(location).run(("select 1", ()))):
        with pytest.raises(StudyError) as refused:
            ask()
        said.append(str(refused.value))
    assert said[0] == said[1]
    return said[0]


def runs_a_trial(location: Location, make_sweep: MakeSweep) -> None:
    """Optuna makes the tables, the store takes a trial, the login node counts."""
    sweep = make_sweep()
    made = store.create(location, sweep, queue(sweep), owner="x")
    claim = made.claim(make_worker("7_0"))
    assert claim is not None
    made.complete(claim, [1.0], {})
    assert summarize(location, "a study").counts[TrialState.COMPLETE] == 1


def tls_words(server: Server, authority: Path) -> str:
    if isinstance(server, PostgreSQL):
        return f"sslmode=verify-full&sslrootcert={authority}"
    return f"ssl_ca={authority}"


class TestTls:
    def test_a_server_with_the_right_authority_is_used_by_all_ways_in(
        self, tls_server: Server, certificates: Path, make_sweep: MakeSweep
    ) -> None:
        words = tls_words(tls_server, certificates / "right.crt")
        location = parse_url(f"{tls_server.create_database()}?{words}", "a test")
        runs_a_trial(location, make_sweep)
        assert encrypted(location)

    def test_a_server_of_another_authority_is_refused(
        self, tls_server: Server, certificates: Path, make_sweep: MakeSweep
    ) -> None:
        words = tls_words(tls_server, certificates / "wrong.crt")
        location = parse_url(f"{tls_server.create_database()}?{words}", "a test")
        assert "certificate verify failed" in fails(location)
        with pytest.raises(StudyError, match="certificate verify failed"):
            store.create(location, make_sweep(), (), owner="x")

    def test_a_server_of_another_name_is_refused(
        self, tls_server: Server, certificates: Path
    ) -> None:
        words = tls_words(tls_server, certificates / "right.crt")
        url = tls_server.create_database().replace("@127.0.0.1:", "@localhost:")
        assert "localhost" in fails(parse_url(f"{url}?{words}", "a test")).partition(": ")[2]

    def test_a_missing_authority_is_named(self, tls_server: Server, tmp_path: Path) -> None:
        words = tls_words(tls_server, tmp_path / "none.crt")
        location = parse_url(f"{tls_server.create_database()}?{words}", "a test")
        assert f"{tmp_path / 'none.crt'}" in fails(location)

    def test_an_authority_in_my_cnf_is_used(
        self, mariadb_tls: MariaDB, certificates: Path, home: Path
    ) -> None:
        location = parse_url(mariadb_tls.create_database(), "a test")
        write_secret(home / ".my.cnf", f"[client]\nssl-ca = {certificates / 'right.crt'}\n")
        assert encrypted(location)
        write_secret(home / ".my.cnf", f"[client]\nssl-ca = {certificates / 'wrong.crt'}\n")
        assert "certificate verify failed" in fails(location)
        plain = parse_url(f"{location.url}?ssl_disabled=true", "a test")
        assert not encrypted(plain)


@pytest.fixture(scope="module")
def mariadb_tls(certificates: Path) -> Iterator[MariaDB]:
    """A MariaDB with a certificate."""
    made = MariaDB(tls=certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def encrypted(location: Location) -> bool:
    """Whether the server says that our connection is."""
    questions = {
        "postgresql": "select ssl::int from pg_stat_ssl where pid = pg_backend_pid()",
        "mysql": "select length(variable_value) from information_schema.session_status"
        " where variable_name = 'Ssl_cipher'",
    }
    database = Database(location)
    try:
        return bool(database.run((questions[location.kind.value], ()))[0][0])
    finally:
        database.rest()


class TestOwnFiles:
    def test_the_password_comes_from_the_drivers_own_file(
        self, server: Server, home: Path, make_sweep: MakeSweep
    ) -> None:
        location = without_password(server)
        write_own_file(server, home)
        runs_a_trial(location, make_sweep)

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
    def test_a_file_that_others_can_read_is_refused(
        self, server: Server, home: Path, mode: int, make_sweep: MakeSweep
    ) -> None:
        location = without_password(server)
        path = write_own_file(server, home)
        path.chmod(mode)
        said = fails(location)
        assert said.endswith(f": {path} can be read by others: chmod 600 {path}")
        with pytest.raises(StudyError, match=f"chmod 600 {path}"):
            store.create(location, make_sweep(), (), owner="x")

    def test_pgpass_may_lie_elsewhere(
        self, postgresql: PostgreSQL, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        location = without_password(postgresql)
        path = write_own_file(postgresql, home).rename(home / "my pgpass")
        monkeypatch.setenv("PGPASSFILE", str(path))
        assert Database(location).run(("select 1", ()))
        path.chmod(0o644)
        assert f"chmod 600 {path}" in fails(location)

    def test_my_cnf_names_the_user_too_but_never_the_server(
        self, mariadb: MariaDB, home: Path
    ) -> None:
        url = mariadb.create_database()
        scheme, _, rest = url.partition("://")
        lines = ["[mysqldump]", "quick", "[client]", "user=hpo", f'password="{mariadb.password}"']
        text = "\n".join([*lines, "socket=/nowhere", "host=nowhere", "!includedir /nowhere", ""])
        write_secret(home / ".my.cnf", text)
        location = parse_url(f"{scheme}://{rest.rpartition('@')[2]}", "a test")
        assert Database(location).run(("select current_user()", ()))[0][0] == "hpo@%"

    def test_a_password_in_the_url_comes_first(self, server: Server, home: Path) -> None:
        location = parse_url(server.create_database(), "a test")
        write_own_file(server, home, password="another")
        assert Database(location).run(("select 1", ()))

    def test_a_broken_my_cnf_is_named_and_not_quoted(self, mariadb: MariaDB, home: Path) -> None:
        write_secret(home / ".my.cnf", "password=zQz\n")
        said = fails(without_password(mariadb))
        assert said == f"{home / '.my.cnf'}: cannot be read: its first line should be [client]"


def write_secret(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def write_own_file(server: Server, home: Path, *, password: str | None = None) -> Path:
    """The password in the file where the server's own programs look for it."""
    password = password or server.password
    if isinstance(server, PostgreSQL):
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        return write_secret(home / ".pgpass", f"127.0.0.1:*:*:hpo:{escaped}\n")
    return write_secret(home / ".my.cnf", f"[client]\npassword={password}\n")


def without_password(server: Server) -> Location:
    url = server.create_database()
    return parse_url(url.replace(f":{quote(server.password, safe='')}@", "@"), "a test")


class TestErrors:
    """A connection that is not made says why, and never with the password."""

    def test_no_error_shows_the_password(self, server: Server, make_sweep: MakeSweep) -> None:
        secret = "zQz%äß ''\\\"&=;"
        written = quote(secret, safe="")
        right = server.create_database()
        port = right.rpartition(":")[2].partition("/")[0]
        scheme = right.partition("://")[0]
        wrong = [
            server.url("test_0", password=secret),
            right.rpartition("/")[0] + "/no_such_database",
            f"{scheme}://hpo:{written}@127.0.0.1:1/x",
            f"{scheme}://hpo:{written}@no-such-host.invalid/x",
            f"{scheme}://hpo:{written}@127.0.0.1:{port}/x?connect_timeout=9",
            f"{scheme}://nobody:{written}@127.0.0.1:{port}/x",
        ]
        for url in wrong:
            location = parse_url(url, "a test")
            for said in (fails(location), _said_by_create(location, make_sweep)):
                assert said.count("\n") == 0
                assert said.startswith(f"{scheme}://")
                for form in (secret, written, "zQz", server.password):
                    assert form not in said

    @pytest.mark.parametrize("bytes_", ["%00", "%zz", "["])
    def test_what_a_driver_would_quote_is_refused_before(self, server: Server, bytes_: str) -> None:
        scheme = server.create_database().partition("://")[0]
        for url in (f"{scheme}://u:zQz{bytes_}@h/d", f"{scheme}://u@h/d?ssl_ca=zQz{bytes_}"):
            if bytes_ == "[" and "?" in url:
                continue
            with pytest.raises(StudyError) as refused:
                parse_url(url, "a test")
            assert "zQz" not in str(refused.value)


def _said_by_create(location: Location, make_sweep: MakeSweep) -> str:
    with pytest.raises(StudyError) as refused:
        store.create(location, make_sweep(), (), owner="x")
    return str(refused.value)
