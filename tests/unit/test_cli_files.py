"""Text files that people give to commands, in the encodings that their tools write."""

from pathlib import Path

import pytest

from api.cli.files import read_text
from streams.errors import Invalid

WORDS = "灯是什么颜色？\nAmber.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_says_the_same_in_every_encoding_that_is_read(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "words.txt"
    file.write_text(WORDS, encoding=encoding)
    assert read_text(file) == WORDS


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a\n灯亮".encode("gb18030"), "words.txt line 2: not UTF-8; it seems to be GB18030: write it anew with `iconv -f GB18030"),
        (WORDS.encode("utf-16-le"), "line 1: not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "line 1: it holds the character NUL, which no text holds; it seems to be UTF-16LE"),
        ('{"a": 1}'.encode("utf-16-be"), "it seems to be UTF-16BE: write it anew with `iconv -f UTF-16BE -t UTF-8 words.txt`"),
        (b"one\nt\xe9 two\n", "line 2: not UTF-8"),
        (b"one\ntwo\0\n", "line 2: it holds the character NUL"),
        (bytes(range(256)), "not UTF-8"),
        (b"\xff\xfea\0\n\0b", "line 2: not UTF-16-LE"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_with_its_line_and_what_it_seems_to_be(
    tmp_path: Path, raw: bytes, said: str
) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(raw)
    with pytest.raises(Invalid) as told:
        read_text(file)
    assert said in str(told.value)


def test_nothing_is_guessed_about_a_file_that_may_be_in_any_encoding(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(b"caf\xe9 \xff")
    with pytest.raises(Invalid, match=r"not UTF-8$"):
        read_text(file)
