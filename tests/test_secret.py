"""Secrets: from a file or the environment, and nowhere told."""

import pytest

from carbon_exporter.model import ConfigurationError
from carbon_exporter.secret import Secret

WORD = "t0ken-of-mine"


def test_a_file_wins_and_is_read_anew_each_time(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{WORD}\n")
    secret = Secret(file, "CARBON_X", {"CARBON_X": "other"})
    assert (secret.read(), bool(secret)) == (WORD, True)
    file.write_text("rotated")
    assert secret.read() == "rotated"
    assert WORD not in repr(secret)
    assert str(file) in repr(secret)


def test_without_a_file_the_environment_tells_or_there_is_none():
    assert Secret(None, "CARBON_X", {"CARBON_X": f" {WORD}\n"}).read() == WORD
    nothing = Secret(None, "CARBON_X", {})
    assert (nothing.read(), bool(nothing)) == ("", False)
    assert "CARBON_X" in repr(nothing)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is empty"), (" \n", "is empty"), (f"{WORD} and more", "more than one word"), (f"{WORD}\nB: c", "one word")],
)
def test_what_cannot_stand_in_a_header_is_refused_without_quoting_it(tmp_path, content, words):
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        Secret(file, "CARBON_X", {}).read()
    assert WORD not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_password_may_have_blanks_and_a_file_must_be_there(tmp_path):
    file = tmp_path / "password"
    file.write_text("correct horse")
    assert Secret(file, "CARBON_X", {}).read(one_word=False) == "correct horse"
    with pytest.raises(ConfigurationError, match=r"FileNotFoundError.*make it a text file"):
        Secret(tmp_path / "none", "CARBON_X", {}).read()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UnicodeDecodeError"):
        Secret(file, "CARBON_X", {}).read()
