"""The query of a database's URL: known words with their types, and no value in any complaint."""

from __future__ import annotations

import pytest

from hpoctl.errors import StudyError
from hpoctl.study import parameters
from hpoctl.study.location import parse_url


def test_values_have_the_types_that_the_driver_wants() -> None:
    query = "ssl_ca=/a%20b.pem&ssl_disabled=False&ssl_verify_cert=1&read_timeout=30"
    assert parameters.read(query, parameters.MYSQL, "a test") == {
        "ssl_ca": "/a b.pem",
        "ssl_disabled": False,
        "ssl_verify_cert": True,
        "read_timeout": 30,
    }


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u@h/d?sslmod=require", "sslmod: unknown parameter; did you mean 'sslmode'?"),
        ("mysql://u@h/d?ssl_cs=x", "ssl_cs: unknown parameter; did you mean 'ssl_ca'?"),
        ("mysql://u@h/d?sslmode=x", "sslmode: unknown parameter; known: bind_address, charset, "),
        ("mysql://u@h/d?ssl_disabled=maybe-zQz", "ssl_disabled: should be true or false"),
        ("mysql://u@h/d?read_timeout=zQz", "read_timeout: should be a whole number"),
        ("postgresql://u@h/d?password=zQz", "password: write it before the host,"),
        ("mysql://u@h/d?passwd=zQz", "passwd: write it before the host, user:password@host"),
        ("postgresql://u@h/d?sslpassword=zQz%2", "a % behind the ? starts no character"),
    ],
)
def test_what_cannot_be_used_is_named_without_its_value(url: str, complaint: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_url(url, "HPOCTL_STORAGE")
    assert str(refused.value).startswith(f"HPOCTL_STORAGE: {complaint}")
    assert "zQz" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_passphrase_of_a_key_is_a_secret_that_is_not_shown() -> None:
    location = parse_url("postgresql://u@h/d?sslkey=k&sslpassword=zQz", "a test")
    assert f"{location} {location!r}".count("zQz") == 0
    assert str(location) == "postgresql://u@h/d"
