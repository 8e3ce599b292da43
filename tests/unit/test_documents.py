"""What is read of a document, and why one is refused. Each is read in a process of its own, as the door does it."""

import logging
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from api.documents import reading
from api.documents.faults import Unreadable
from api.documents.formats import text_of
from api.documents.protocol import FILE_BYTES
from api.documents.reading import kind_of, read
from tests.documents import docx, paragraph, pdf

LAW = "第一条　为了保证病区设备的安全，制定本办法。\n第二条　注射泵每七日检查一次，并且记录检查的结果。\n"
HTML = """<html><head><title>no</title><style>b {}</style></head><body><h1>The pump</h1><p>Check it <a href="x">weekly</a>.</p>
<script>alert(1)</script><h2>Filters</h2><table><tr><td>size</td><td>5 *_</td></tr></table><ul><li>one</li></ul></body></html>"""


def found(kind: str, body: bytes) -> list[tuple[str, str]]:
    return [(one.place, one.text) for one in read(kind, body).passages]


def refusal(kind: str, body: bytes) -> tuple[str, str]:
    with pytest.raises(Unreadable) as caught:
        read(kind, body)
    return caught.value.code, str(caught.value)


def test_a_name_or_a_media_type_says_what_a_file_is() -> None:
    assert kind_of("A.PDF") == "pdf"
    assert kind_of("notes.v2.markdown") == "markdown"
    assert kind_of("without", "text/html") == "html"
    for name in ("table.xlsx", "without", ".pdf/x", "old.doc"):
        with pytest.raises(Unreadable, match="it is none of"):
            kind_of(name)


@pytest.mark.parametrize(
    "body",
    [
        LAW.encode(),
        LAW.encode("utf-8-sig"),
        LAW.encode("utf-16"),
        b"\xfe\xff" + LAW.encode("utf-16-be"),
        LAW.encode("utf-32"),
        LAW.encode("gb18030"),
        LAW.replace("\n", "\r\n").encode(),
    ],
    ids=["utf-8", "utf-8 with a mark", "utf-16", "utf-16-be", "utf-32", "gb18030", "lines of Windows"],
)
def test_a_text_is_the_same_in_every_encoding_that_is_told(body: bytes) -> None:
    assert text_of("text", body, most=1000) == LAW


@pytest.mark.parametrize(
    "body",
    [
        "Le ménage à l'été dernier, où il était né.".encode("latin-1"),
        "Die Prüfung der Geräte für Ärzte.".encode("cp1252"),
        "第一條　為了保證病區設備的安全，制定本辦法。".encode("big5"),
        "機器の安全を確保するために、この規則を定める。".encode("shift_jis"),
        "이 규정은 병동 장비의 안전을 위하여 제정한다. 펌프는 매주 점검한다.".encode("euc-kr"),
        "Насос проверяется каждую неделю.".encode("koi8-r"),
        "a pump without a mark".encode("utf-16-le"),
        bytes(range(256)) * 8,
        b"\xff\xfea",
    ],
    ids=[
        "french",
        "german",
        "big5",
        "shift-jis",
        "korean",
        "russian",
        "utf-16 without a mark",
        "no text",
        "half of utf-16",
    ],
)
def test_a_text_in_another_encoding_is_refused_and_not_guessed_at(body: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        text_of("text", body, most=10_000)
    assert caught.value.code == "encoding"


def test_a_page_of_html_becomes_markdown_without_what_nobody_sees() -> None:
    text = read("html", HTML.encode()).text
    assert found("html", HTML.encode()) == [
        ("The pump", "# The pump\n\nCheck it weekly."),
        ("The pump > Filters", "## Filters\n\n| size | 5 *_ |\n| --- | --- |\n\n- one"),
    ]
    assert "alert" not in text and "no" not in text.split()
    chinese = f'<meta charset="gb2312"><h1>检查</h1><p>{LAW}</p>'
    assert found("html", chinese.encode("gb18030"))[0][1].startswith("# 检查")


def test_a_word_document_becomes_markdown() -> None:
    body = docx(
        paragraph("The pump", "Heading1"),
        paragraph("Check it * each_week."),
        paragraph("检查", "Heading2"),
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>size</w:t></w:r></w:p></w:tc></w:tr></w:tbl>",
    )
    assert found("docx", body) == [
        ("The pump", "# The pump\n\nCheck it * each_week."),
        ("The pump > 检查", "## 检查\n\n| size |\n| --- |"),
    ]


def test_the_articles_of_a_pdf_are_found_and_what_has_none_is_placed_by_its_page() -> None:
    law = pdf(
        ["Article 1. A pump is checked every", "week, and no hyphen-", "ated word is torn."], ["Article 2. Records."]
    )
    assert found("pdf", law) == [
        ("Article 1", "Article 1. A pump is checked every\nweek, and no hyphenated word is torn."),
        ("Article 2", "Article 2. Records."),
    ]
    many = ["A line of the manual says what is done."] * 20
    assert {place for place, _ in found("pdf", pdf(many, many))} == {"p. 1", "p. 2"}


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("text", b"", "empty"),
        ("text", b" \n\t ", "empty"),
        ("html", b"<p> </p><script>x</script>", "empty"),
        ("docx", docx(), "empty"),
        ("pdf", pdf(["a"], encrypted=True), "encrypted"),
        ("pdf", pdf([], []), "without_text"),
        ("pdf", pdf(["a"])[:60], "broken"),
        ("pdf", b"words that are no PDF", "broken"),
        ("docx", docx(paragraph("a"))[:-40], "broken"),
        ("docx", b"PK\x03\x04 and nothing more", "broken"),
        ("docx", docx("<w:p>"), "broken"),
        ("docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted"),
        ("docx", docx(document2=b" " * (65 << 20)), "too_large"),
        ("html", b"<div>" * 5000 + b"a", "too_hard"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(kind: str, body: bytes, code: str) -> None:
    assert refusal(kind, body)[0] == code


def test_an_archive_that_is_no_word_document_is_named() -> None:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("xl/workbook.xml", "<a/>")
    assert refusal("docx", made.getvalue()) == ("kind_unknown", "it is an archive, and no Word document")


def test_a_member_that_says_it_is_smaller_than_it_is_unpacks_to_nothing() -> None:
    whole = docx(*[paragraph("a" * 1000)] * 2000)
    with zipfile.ZipFile(BytesIO(whole)) as archive:
        size = archive.getinfo("word/document.xml").file_size
    lying = whole.replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lying != whole
    assert refusal("docx", lying)[0] == "broken"


def test_entities_that_grow_without_end_are_refused() -> None:
    laughs = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))
    prolog = f'<!DOCTYPE a [<!ENTITY e0 "{"ha" * 50_000}">{laughs}]>'
    assert refusal("docx", docx(paragraph("&e8;"), prolog=prolog))[0] in ("broken", "too_hard")


def test_an_entity_that_names_a_file_of_this_machine_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    prolog = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>'
    body = docx(paragraph("before &x; after"), prolog=prolog)
    try:
        assert "secret" not in read("docx", body).text
    except Unreadable as error:
        assert error.code == "broken"


def test_a_file_beyond_the_limit_is_refused_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.subprocess, "Popen", pytest.fail)
    code, message = refusal("text", bytes(FILE_BYTES + 1))
    assert (code, message) == ("too_large", "it has 33,554,433 bytes; at most 33,554,432 are read")


def test_a_document_of_more_passages_than_are_taken_is_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PASSAGES", 3)
    law = "".join(f"Article {n}. A.\n" for n in range(1, 5))
    assert refusal("text", law.encode()) == ("too_large", "it has 4 passages; at most 3 are taken of one document")


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_WALL_S", 0.01)
    assert refusal("text", b"a")[0] == "too_hard"


def test_no_word_of_a_document_reaches_a_log_an_environment_or_a_disk(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    started: list[tuple[list[str], dict[str, str]]] = []
    popen = reading.subprocess.Popen

    def noted(argv: list[str], **more: object) -> object:
        started.append((argv, dict(more["env"])))  # type: ignore[call-overload]
        return popen(argv, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(reading.subprocess, "Popen", noted)
    monkeypatch.setenv("NORIA_SECRET", "a way to a key")
    assert refusal("docx", b"PK the secret of Ann")[0] == "broken"
    [(argv, environ)] = started
    assert argv[1:] == ["-P", "-m", "api.documents.child"]
    assert list(environ) == ["PYTHONPATH"]
    assert "Ann" not in caplog.text


def test_the_process_that_reads_can_open_neither_a_file_nor_a_socket() -> None:
    program = """
import os, socket
from api.documents import child
from api.documents.protocol import Asked
child.limit(Asked("pdf", 60, 1 << 30, 1, 1))
child.lock("pdf")
for attempt in (lambda: open("/etc/hostname"), lambda: socket.socket(), lambda: open("/tmp/x", "w"), lambda: os.memfd_create("x")):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
"""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)
    assert said.stdout.split() == ["24"] * 4, said.stderr


def test_what_asks_for_more_memory_or_work_than_a_document_is_given_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    long = b"A pump is checked each week. " * (1 << 20)
    monkeypatch.setattr(reading, "_MEMORY_BYTES", 120 << 20)
    code, message = refusal("text", long)
    assert code == "too_hard" and message.endswith("takes more memory than a document is given")
    monkeypatch.undo()
    monkeypatch.setattr(reading, "_CPU_S", 1)
    assert refusal("text", long) == ("too_hard", "reading it takes longer than a document is given")
