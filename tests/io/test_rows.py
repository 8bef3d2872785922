import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cryo2d.io.rows import TextRows, from_columns, gather, split_words, unquoted


def words_of(text: bytes) -> list[bytes]:
    words = split_words(text)
    return [text[a:b] for a, b in zip(words.start, words.stop, strict=True)]


@settings(max_examples=100)
@given(st.binary().filter(lambda b: not set(b) & set(b"\"'#\0")))
def test_words_without_quotes_are_those_of_python(text: bytes) -> None:
    blank = bytes(range(33))
    table = bytes.maketrans(blank, b" " * 10 + b"\n" + b" " * 22)
    text = text.translate(table)
    words = split_words(text)
    assert words_of(text) == text.split()
    lines = text.split(b"\n")
    expected = [len(line.split()) for line in (lines if lines[-1] else lines[:-1])]
    assert words.per_line.tolist() == expected


def test_quotes_hold_blanks_and_comments_end_lines() -> None:
    text = b"a 'b c' \"d # e\" # comment\n#line\nf#g it's 5' \"\"\n"
    assert words_of(text) == [b"a", b"'b c'", b'"d # e"', b"f#g", b"it's", b"5'", b'""']
    assert split_words(text).per_line.tolist() == [3, 0, 4]


def test_gather_pads_with_nothing() -> None:
    text = np.frombuffer(b"abc defgh i", np.uint8)
    got = gather(text, np.array([0, 4, 10]), np.array([3, 9, 11]))
    assert got.tolist() == [b"abc", b"defgh", b"i"]


def test_unquoted_strips_matching_quotes_only() -> None:
    text = b"'a b' c' \"\" d"
    words = split_words(text)
    got = gather(words.text, *unquoted(words.text, words.start, words.stop))
    assert got.tolist() == [b"a b", b"c'", b"", b"d"]


def test_rows_take_and_columns() -> None:
    columns = {"a": np.array([b"1", b"22", b"333"]), "b": np.array([b"'x y'", b"z", b'""'])}
    rows = from_columns(columns)
    assert isinstance(rows, TextRows)
    assert rows.column("b").tolist() == [b"x y", b"z", b""]
    assert rows.take(np.array([2, 0])).column("a").tolist() == [b"333", b"1"]
    assert rows.take(np.zeros(0, int)).column("a").tolist() == []


def test_columns_over_several_chunks() -> None:
    numbers = np.arange(70000).astype("S")
    rows = from_columns({"n": numbers, "m": numbers[::-1]})
    assert (rows.column("m") == numbers[::-1]).all()
