"""Documents over HTTP: entered once, replaced by name, taken out, and gone with the domain's key."""

import json
from itertools import count
from typing import Any

import httpx
import pytest

from api.client import Address, Door
from api.documents import reading, routes
from api.documents.protocol import FILE_BYTES
from streams.errors import LogUnavailable
from streams.events import DOMAINS
from streams.passages import Passage
from tests.documents import docx, paragraph, pdf
from tests.door_world import World, wait_until
from tests.integration.by_hand import rows

LAW = "# Ward Devices Act\n\nArticle 1. A pump is checked weekly.\n\nArticle 2. 检查的结果应当记录。\n"


def post(
    world: World, domain: str, name: str, body: bytes, media_type: str = "application/octet-stream"
) -> httpx.Response:
    path = f"/v1/domains/{domain}/documents"
    return world.as_data.post(path, params={"name": name}, content=body, headers={"Content-Type": media_type})


def add(world: World, domain: str, name: str, body: bytes) -> dict[str, Any]:
    """Enter a document, and let the projections have it."""
    answer = post(world, domain, name, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    if found["position"] is not None:
        world.caught_up(found["position"])
    return found


def shown(world: World, domain: str, document_id: str, **asked: Any) -> Any:
    return world.as_data.get(f"/v1/domains/{domain}/documents/{document_id}", params=asked).json()


def names(world: World, domain: str) -> list[str]:
    return [row["name"] for row in world.as_data.get(f"/v1/domains/{domain}/documents").json()["data"]]


def test_a_document_is_entered_sealed_and_shown_passage_by_passage(world: World) -> None:
    domain = world.domain()
    added = add(world, domain, "act.md", LAW.encode())
    assert (added["known"], added["replaces"], added["passages"]) == (False, None, 2)
    (listed,) = world.as_data.get(f"/v1/domains/{domain}/documents").json()["data"]
    assert (listed["name"], listed["title"], listed["by"]) == ("act.md", "Ward Devices Act", "key:curator")
    found = shown(world, domain, added["document_id"])
    assert [one["place"] for one in found["data"]] == ["Article 1", "Article 2"]
    assert all(LAW[one["start"] : one["end"]] == one["text"] for one in found["data"])
    assert found["next"] is None
    first = shown(world, domain, added["document_id"], limit=1)
    assert [one["number"] for one in first["data"]] == [0] and first["next"] == 1
    assert shown(world, domain, added["document_id"], since=1)["data"] == found["data"][1:]
    on_the_log = json.dumps(world.events(domain), ensure_ascii=False)
    stored = str([rows(world.database, f"SELECT * FROM {table}") for table in ("documents", "passages")])
    for words in ("act.md", "Ward Devices", "checked weekly", "检查", "Article 1"):
        assert words not in on_the_log and words not in stored


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.pdf", pdf(["Article 1. A pump.", "Article 2. Records."])),
        ("a.docx", docx(paragraph("Article 1. A pump."), paragraph("Article 2. Records."))),
        ("a.html", b"<p>Article 1. A pump.</p><p>Article 2. Records.</p>"),
        ("a.txt", "Article 1. A pump.\nArticle 2. Records.".encode("utf-16")),
    ],
    ids=["pdf", "docx", "html", "txt"],
)
def test_each_kind_of_file_goes_in(world: World, name: str, body: bytes) -> None:
    domain = world.domain()
    added = add(world, domain, name, body)
    found = shown(world, domain, added["document_id"])
    assert [(one["place"], one["text"]) for one in found["data"]] == [
        ("Article 1", "Article 1. A pump."),
        ("Article 2", "Article 2. Records."),
    ]
    assert found["title"] == "a"


def test_the_same_file_again_changes_nothing(world: World) -> None:
    domain = world.domain()
    first = add(world, domain, "act.md", LAW.encode())
    before = world.events(domain)
    again = add(world, domain, "act.md", LAW.encode())
    assert again == first | {"known": True, "position": None}
    assert world.events(domain) == before
    other = add(world, domain, "copy.md", LAW.encode())  # under another name it is another document
    assert other["document_id"] != first["document_id"]


def test_a_new_version_takes_the_place_of_the_one_before_by_its_name(world: World) -> None:
    domain = world.domain()
    first = add(world, domain, "act.md", LAW.encode())
    second = add(world, domain, "act.md", LAW.replace("weekly", "daily").encode())
    assert second["replaces"] == first["document_id"]
    assert names(world, domain) == ["act.md"]
    assert "daily" in shown(world, domain, second["document_id"])["data"][0]["text"]
    assert shown(world, domain, first["document_id"])["retired"] == "replaced by a newer version"
    back = add(world, domain, "act.md", LAW.encode())  # what was replaced comes again as a new one
    assert back["known"] is False and back["replaces"] == second["document_id"]
    assert back["document_id"] not in (first["document_id"], second["document_id"])
    assert names(world, domain) == ["act.md"]


def test_a_document_is_removed_once_and_comes_again_as_a_new_one(world: World) -> None:
    domain = world.domain()
    first = add(world, domain, "act.md", LAW.encode())
    path = f"/v1/domains/{domain}/documents/{first['document_id']}"
    gone = world.as_data.delete(path, params={"reason": "out of date"}).json()
    world.caught_up(gone["position"])
    assert names(world, domain) == []
    (event,) = world.events(domain, "document_removed")
    assert event["data"]["reason"] == "out of date" and event["data"]["by"] == "key:curator"
    assert world.as_data.delete(path).json() == {"document_id": first["document_id"], "known": True, "position": None}
    again = add(world, domain, "act.md", LAW.encode())
    assert again["known"] is False and again["document_id"] != first["document_id"]
    assert names(world, domain) == ["act.md"]
    nowhere = world.as_data.delete(f"/v1/domains/{domain}/documents/{'0' * 32}")
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "document_not_found")


def test_a_document_is_its_domains_alone(world: World) -> None:
    here, there = world.domain(), world.domain()
    added = add(world, here, "act.md", LAW.encode())
    path = f"/v1/domains/{there}/documents/{added['document_id']}"
    assert world.as_data.get(path).status_code == world.as_data.delete(path).status_code == 404
    assert add(world, there, "act.md", LAW.encode())["known"] is False


def test_with_the_domains_key_its_documents_are_gone_and_the_same_file_comes_again_as_a_new_one(world: World) -> None:
    domain = world.domain()
    first = add(world, domain, "act.md", LAW.encode())
    world.services.keyring.destroy(f"domain:{domain}")
    listed = world.as_data.get(f"/v1/domains/{domain}/documents").json()
    assert (listed["data"], listed["erased"]) == ([], 1)
    answer = world.as_data.get(f"/v1/domains/{domain}/documents/{first['document_id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "erased")
    again = add(world, domain, "act.md", LAW.encode())
    assert again["known"] is False and again["document_id"] != first["document_id"]
    assert names(world, domain) == ["act.md"]


def test_what_breaks_off_in_the_middle_does_not_count_and_the_same_again_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = world.domain()
    law = "".join(f"Article {n}. Words of it.\n\n" for n in range(1, 8)).encode()
    monkeypatch.setattr(routes, "APPENDED_AT_ONCE", 3)
    say, calls = routes.say, 0

    def breaks_off(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise LogUnavailable("the log does not answer")
        return say(*given, **more)

    monkeypatch.setattr(routes, "say", breaks_off)
    answer = post(world, domain, "long.md", law)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "incomplete")
    assert "6 of 7 passages" in answer.json()["error"]["message"]
    assert names(world, domain) == []
    added = add(world, domain, "long.md", law)
    assert [one["number"] for one in shown(world, domain, added["document_id"])["data"]] == list(range(7))
    assert len(rows(world.database, "SELECT 1 FROM passages WHERE domain = :domain", domain=domain)) == 7
    assert names(world, domain) == ["long.md"]


def test_passages_that_other_code_cut_are_not_taken_for_a_documents_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = world.domain()
    read, say = routes.read, routes.say

    def cut_otherwise(kind: str, body: bytes) -> reading.Reading:
        found = read(kind, body)
        more = Passage(2, "Article 2", 40, 50, found.text[40:50])
        return reading.Reading(found.text, [*found.passages, more])

    def no_document(services: Any, events: Any, *more: Any, **named: Any) -> Any:
        if len(events) == 1 and type(events[0][1]).__name__ == "DocumentAdded":
            raise LogUnavailable("the log does not answer")
        return say(services, events, *more, **named)

    monkeypatch.setattr(routes, "read", cut_otherwise)
    monkeypatch.setattr(routes, "say", no_document)
    assert post(world, domain, "act.md", LAW.encode()).status_code == 503
    monkeypatch.undo()
    added = add(world, domain, "act.md", LAW.encode())
    assert [one["number"] for one in shown(world, domain, added["document_id"])["data"]] == [0, 1]


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("scan.pdf", pdf([]), "document_without_text"),
        ("locked.pdf", pdf(["a"], encrypted=True), "document_encrypted"),
        ("empty.md", b"", "document_empty"),
        ("table.xlsx", b"PK", "document_kind_unknown"),
        ("torn.docx", docx(paragraph("a"))[:-40], "document_broken"),
        ("old.txt", "geprüft für Größe".encode("latin-1"), "document_encoding"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_leaves_nothing(
    world: World, caplog: pytest.LogCaptureFixture, name: str, body: bytes, code: str
) -> None:
    domain = world.domain()
    answer = post(world, domain, name, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert error["message"].startswith(f"{name}: it")
    assert not world.events(domain, "passage_added") and name not in caplog.text


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(world: World) -> None:
    domain = world.domain()
    answer = post(world, domain, "large.txt", bytes(FILE_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_name_is_asked_for_and_a_media_type_says_what_a_file_without_an_ending_is(world: World) -> None:
    domain = world.domain()
    for wrong in ("", " a.md", "a\x07.md", "a" * 256):
        answer = post(world, domain, wrong, b"a")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
    assert post(world, domain, "notes", b"a").status_code == 422
    assert post(world, domain, "notes", b"a", "text/plain; charset=utf-8").status_code == 200


def test_a_client_sees_all_pages_as_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "PAGE_PASSAGES", 2)
    domain = world.domain()
    law = "".join(f"Article {n}. Words of it.\n\n" for n in range(1, 6)).encode()
    with Door(Address(world.door_url, world.data_key)) as door:
        added = door.add_document(domain, "法 & more.md", law)
        world.caught_up(added["position"])
        (listed,) = door.documents(domain)["data"]
        found = door.document(domain, listed["document_id"])
        assert (found["name"], [one["number"] for one in found["data"]]) == ("法 & more.md", list(range(5)))
        gone = door.remove_document(domain, listed["document_id"], "no use")
        world.caught_up(gone["position"])
        assert door.documents(domain) == {"data": [], "erased": 0, "retired": 1}


def test_a_document_is_not_taken_while_nobody_knows_which_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = world.domain()
    monkeypatch.setattr(routes, "BEHIND_S", 0.1)
    numbers = count()

    def falls_behind() -> bool:
        question = {"question": f"Who is number {next(numbers)}?", "answer": "She.", "kind": "general"}
        world.as_data.post(f"/v1/domains/{domain}/exam", json=[question])
        return not world.services.recorder.wait_for_ends(DOMAINS, 0.2)

    world.following.clear()
    try:
        wait_until(falls_behind)  # what the stream had in hand when it was stopped, it takes in yet
        answer = post(world, domain, "act.md", LAW.encode())
    finally:
        world.following.set()
    assert answer.status_code == 503 and "not known yet" in answer.json()["error"]["message"]
