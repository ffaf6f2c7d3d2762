"""Secrets: from a file or the environment, and nowhere told."""

from urllib.parse import quote, quote_plus

import pytest

from carbon_exporter.model import ConfigurationError, ProviderError
from carbon_exporter.secret import Secret, basic_credentials, concealing

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


def test_a_file_that_is_missing_is_named_with_its_key(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^intensity\.x\.token_file: .*/none: FileNotFoundError"):
        Secret(tmp_path / "none", "CARBON_X", {}, "intensity.x.token_file").read()


LONG = "a/long+token='of\\mine'&0123456789"


@pytest.mark.parametrize(
    "told",
    [
        f"key {LONG} is bad, {LONG}",
        f"{LONG!r}",
        f"a redirect to https://x/{quote(LONG, safe='')}/y",
        f"redirect {quote(LONG)}",
        f"redirect {quote(LONG, safe='').lower()}",
        f"answered for {LONG[:20]!r}, not 'CISO'",
        LONG[:8],
    ],
)
def test_what_a_service_repeats_of_a_secret_is_not_told(told):
    with pytest.raises(ProviderError) as caught, concealing("", LONG):
        raise ProviderError("rate_limit", f"https://x/y: {told}: the cure", 7.0)
    message = str(caught.value)
    assert "(the secret)" in message
    assert not [part for part in (LONG[i : i + 6] for i in range(len(LONG) - 5)) if part in message]
    assert (message.startswith("https://x/y: "), message.endswith(": the cure")) == (True, True)
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("rate_limit", 7.0)


def test_what_holds_no_secret_stays_as_it_is():
    with pytest.raises(ConfigurationError, match=r"^zone 'XX' is not served$"), concealing(LONG, "short"):
        raise ConfigurationError("zone 'XX' is not served")
    with pytest.raises(ConfigurationError, match=r"^\(the secret\) and \(the secret\)$"), concealing("two  words", "x"):
        raise ConfigurationError("two words and x")
    with pytest.raises(ConfigurationError, match=r"^\(the secret\)$"), concealing("pä ß"):
        raise ConfigurationError(quote_plus("pä ß"))


def test_credentials_are_in_utf_8():
    assert basic_credentials("ålï", "pä: ß") == "w6Vsw686cMOkOiDDnw=="
