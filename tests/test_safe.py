"""Text from elsewhere: no password is shown, no name steers a terminal or leaves its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.safe import file_stem, has_password, is_loopback, masked, open_words, printable

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:s3cr3t@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:s3cr3t/x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:a@s3cr3t@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:s3cr3t@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?user=me&password=s3cr3t", "postgresql://host/db?user=me&password=***"),
        ("mysql://h/d?PASSWD=s3cr3t&x=1", "mysql://h/d?PASSWD=***&x=1"),
        ("postgresql://h/d?sslpassword=s3cr3t&x=1", "postgresql://h/d?sslpassword=***&x=1"),
        ("postgresql://me:s3cr3t@h:port/d?password=s3cr3t", "postgresql://me:***@h:port/d?password=***"),
        ("me:s3cr3t@host/db", "me:***@host/db"),
        ("http://me:s3cr3t@proxy:13000", "http://me:***@proxy:13000"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert SECRET not in masked(url)
    assert has_password(url)
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "url", ["sqlite:///q.db", "sqlite:///a:b.db", "sqlite:////tmp/x@y/a:b.db", "postgresql://me@host:5432/db"]
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert masked(url) == url
    assert not has_password(url)


@given(st.text(max_size=60))
def test_printable_text_has_no_control_character_and_json_keeps_its_meaning(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


def test_printable_text_is_otherwise_untouched() -> None:
    assert printable("λ = 0.2 → 漢字\tb\n") == "λ = 0.2 → 漢字\tb\n"
    assert printable("\x1b[2J\u202egpj\x9b1m\udcff") == "\\u001b[2J\\u202egpj\\u009b1m\\udcff"


@given(st.text(min_size=1, max_size=300))
def test_a_name_never_leaves_its_folder(name: str) -> None:
    stem = file_stem(name)
    assert (Path("/home/log") / f"{stem}.log").resolve().parent == Path("/home/log")
    assert len(stem) <= 120
    assert "\0" not in stem


def test_ordinary_names_are_their_own_file_names() -> None:
    for name in ("demo", "a1-14m", "x_y.z", "a..b"):
        assert file_stem(name) == name
    assert file_stem("../../etc/x") == "%2E.%2F..%2Fetc%2Fx"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.9.1", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("example.org", False), ("127.0.0.1.evil.org", False),
    ],
)  # fmt: skip
def test_only_loopback_is_closed_to_others(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    assert re.search("no password is asked; leave --host out", open_words(host))
