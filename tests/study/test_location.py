"""Where a study lives: what may be named, what is refused, and that no password is ever shown."""

from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.errors import StudyError
from hpoctl.study.location import Kind, Location, locate, parse_url, redact
from hpoctl.sweep import Storage

# A marker of characters that stand nowhere else in the URL, amid anything that one can type.
_TYPED = st.text(string.ascii_letters + string.digits + string.punctuation + " äß", max_size=8)
_PASSWORDS = st.builds("{}zQz{}".format, _TYPED, _TYPED)
_SCHEMES = st.sampled_from(["postgresql", "postgres", "mysql", "mariadb", "mysql+pymysql"])


def find(storage: Storage, folder: Path, **environ: str) -> Location:
    return locate(storage, workdir=folder, journal=folder / "own.journal", environ=environ)


@given(scheme=_SCHEMES, password=_PASSWORDS, encoded=st.booleans())
def test_a_password_is_never_shown(scheme: str, password: str, encoded: bool) -> None:
    written = quote(password, safe="") if encoded else password
    url = f"{scheme}://user:{written}@host:5432/database?sslmode=require"
    for shown in (redact(url), _what_is_said_of(url)):
        assert "zQz" not in shown
        assert written not in shown


@given(password=_PASSWORDS)
def test_a_password_in_the_query_is_never_shown(password: str) -> None:
    url = f"mysql://user@host/database?password={quote(password, safe='')}"
    assert "zQz" not in _what_is_said_of(url)


def _what_is_said_of(url: str) -> str:
    try:
        location = parse_url(url, "HPOCTL_STORAGE")
        return f"{location} {location!r}"
    except StudyError as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example:5432/hpo", "postgresql://me:***@db.example:5432/hpo"),
        ("mysql+pymysql://me:secret@db/hpo?charset=utf8mb4", "mysql://me:***@db/hpo"),
        ("postgresql://me@db/hpo", "postgresql://me@db/hpo"),
        ("postgresql://db/hpo", "postgresql://db/hpo"),
        ("postgresql:///hpo", "postgresql:///hpo"),
        ("/home/me/study.journal", "/home/me/study.journal"),
    ],
)
def test_all_but_the_password_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("url", "kind", "start"),
    [
        ("postgres://me@db/hpo", Kind.POSTGRESQL, "postgresql+psycopg2://"),
        ("postgresql+asyncpg://me@db/hpo", Kind.POSTGRESQL, "postgresql+psycopg2://"),
        ("mariadb://me@db/hpo", Kind.MYSQL, "mysql+pymysql://"),
        ("sqlite:////var/study.db", Kind.SQLITE, "/var/study.db"),
        ("sqlite:///study.db", Kind.SQLITE, "study.db"),
        ("  postgresql://me@db/hpo\n", Kind.POSTGRESQL, "postgresql+psycopg2://"),
    ],
)
def test_a_url_gets_the_driver_that_is_installed(url: str, kind: Kind, start: str) -> None:
    location = parse_url(url, "storage.url")
    assert location.kind is kind
    assert location.url.startswith(start)
    assert location.url == location.url.strip()


@pytest.mark.parametrize("url", ["oracle://me:zQz@db/hpo", "me:zQz@db", "", "://zQz"])
def test_an_unknown_url_is_refused_unshown(url: str) -> None:
    with pytest.raises(StudyError, match="HPOCTL_STORAGE: not a URL that hpoctl knows") as refused:
        parse_url(url, "HPOCTL_STORAGE")
    assert "zQz" not in str(refused.value)


def test_without_storage_the_study_lives_in_the_run_directory(tmp_path: Path) -> None:
    location = find(Storage(), tmp_path)
    assert (location.kind, location.path) == (Kind.JOURNAL, tmp_path / "own.journal")


def test_a_file_is_found_from_the_folder_of_the_submission(tmp_path: Path) -> None:
    assert find(Storage(sqlite="a/study.db"), tmp_path).path == tmp_path / "a" / "study.db"
    assert find(Storage(journal="/var/x.journal"), tmp_path).path == Path("/var/x.journal")


@pytest.mark.parametrize("environ", [{}, {"HPOCTL_STORAGE": ""}])
def test_a_variable_that_is_not_set_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(StudyError, match="HPOCTL_STORAGE is not set: export HPOCTL_STORAGE="):
        find(Storage(url_env="HPOCTL_STORAGE"), tmp_path, **environ)


def test_a_variable_holds_the_url(tmp_path: Path) -> None:
    url = "postgresql://me:zQz@db/hpo"
    location = find(Storage(url_env="HPOCTL_STORAGE"), tmp_path, HPOCTL_STORAGE=url)
    assert location.url == "postgresql+psycopg2://me:zQz@db/hpo"


def test_a_file_holds_the_url(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mysql://me:zQz@db/hpo\n")
    secret.chmod(0o600)
    assert find(Storage(url_file="url"), tmp_path).url == "mysql+pymysql://me:zQz@db/hpo"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "url"
    secret.write_text("mysql://me:zQz@db/hpo\n")
    secret.chmod(mode)
    with pytest.raises(StudyError, match=f"chmod 600 {secret}") as refused:
        find(Storage(url_file="url"), tmp_path)
    assert "zQz" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"url_file: .*/url: No such file"):
        find(Storage(url_file="url"), tmp_path)
