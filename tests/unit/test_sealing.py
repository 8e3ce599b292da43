"""Sealing: words that any JOSE reader opens with the key and nobody without it; the file of the master key."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwe
from joserfc.jwk import OctKey
from joserfc.registry import HeaderParameter
from msgspec.structs import replace

from streams.errors import Erased, Invalid
from streams.sealed import Sealed
from streams.sealing import MasterKey, PersonKey, common_digest, digest, open_sealed, seal
from tests.keyring import Ring

WORDS = "Prune the old canes in February. 二月剪枝。 🌿"
REF = "0f8fad5b-d9cb-469f-a165-70867728950e#text"
ANA, BEN = PersonKey("key-of-ana", bytes(range(32))), PersonKey("key-of-ben", bytes(range(32, 64)))


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# Words


@pytest.mark.parametrize(
    "words", [WORDS, "", " \n\t", "x" * 70_000, "园" * 200_000, '{"role": "user"}', "\x00"], ids=lambda w: w[:8]
)
def test_words_come_back_as_they_were(words: str) -> None:
    assert open_sealed(seal(words, ANA, REF), Ring(ANA)) == words


def test_a_sealed_text_is_a_compact_jwe_that_names_its_key_and_where_it_was_said() -> None:
    sealed = seal(WORDS, ANA, REF)
    header, key, nonce, _, tag = sealed.jwe.split(".")
    assert json.loads(unpadded(header)) == {"alg": "dir", "enc": "A256GCM", "kid": "key-of-ana", "ref": REF}
    assert key == "" and len(unpadded(nonce)) == 12 and len(unpadded(tag)) == 16
    assert (sealed.kid, sealed.ref) == ("key-of-ana", REF)


def test_the_words_cannot_be_read_from_what_is_kept() -> None:
    sealed = seal(WORDS, ANA, REF)
    kept = sealed.jwe.encode() + b"".join(unpadded(part) for part in sealed.jwe.split("."))
    assert not [word for word in WORDS.split() if len(word) > 2 and word.encode() in kept]


def test_the_same_words_sealed_twice_do_not_look_alike() -> None:
    assert seal(WORDS, ANA, REF).jwe.split(".")[2:] != seal(WORDS, ANA, REF).jwe.split(".")[2:]


def test_another_jose_library_opens_it() -> None:
    registry = jwe.JWERegistry({"ref": HeaderParameter("Where", "str")}, algorithms=["dir", "A256GCM"])
    opened = jwe.decrypt_compact(seal(WORDS, ANA, REF).jwe, OctKey.import_key(ANA.secret), registry=registry)
    assert opened.plaintext is not None and opened.plaintext.decode() == WORDS


def test_rfc_7516_read_by_hand_opens_it() -> None:
    header, _, nonce, body, tag = seal(WORDS, ANA, REF).jwe.split(".")
    opened = AESGCM(ANA.secret).decrypt(unpadded(nonce), unpadded(body) + unpadded(tag), header.encode())
    assert opened.decode() == WORDS


def test_a_token_that_was_sealed_by_hand_as_the_rfc_says_is_opened() -> None:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    header = part(json.dumps({"alg": "dir", "enc": "A256GCM", "kid": ANA.kid, "ref": REF}).encode())
    body = AESGCM(ANA.secret).encrypt(b"n" * 12, WORDS.encode(), header.encode())
    token = ".".join((header, "", part(b"n" * 12), part(body[:-16]), part(body[-16:])))
    assert open_sealed(Sealed(ANA.kid, REF, token), Ring(ANA)) == WORDS


# What does not open


def test_the_words_of_a_person_whose_key_was_destroyed_are_gone() -> None:
    sealed = seal(WORDS, ANA, REF)
    with pytest.raises(Erased):
        open_sealed(sealed, Ring(BEN))


def test_a_text_moved_to_another_place_does_not_open() -> None:
    sealed = seal(WORDS, ANA, REF)
    with pytest.raises(Invalid, match="was moved"):
        open_sealed(replace(sealed, ref=REF.replace("#text", "#messages")), Ring(ANA))


def test_a_text_under_the_name_of_another_key_does_not_open_even_if_the_secret_is_the_same() -> None:
    with pytest.raises(Invalid, match="does not open"):
        open_sealed(replace(seal(WORDS, ANA, REF), kid=BEN.kid), Ring(ANA, BEN))
    twin = PersonKey("twin", ANA.secret)
    with pytest.raises(Invalid, match="was moved"):
        open_sealed(replace(seal(WORDS, ANA, REF), kid="twin"), Ring(ANA, twin))


@pytest.mark.parametrize("part", [0, 2, 3, 4])
def test_a_text_that_was_changed_anywhere_does_not_open(part: int) -> None:
    sealed = seal(WORDS, ANA, REF)
    parts = sealed.jwe.split(".")
    parts[part] = ("A" if parts[part][0] != "A" else "B") + parts[part][1:]
    with pytest.raises(Invalid, match="does not open"):
        open_sealed(replace(sealed, jwe=".".join(parts)), Ring(ANA))


@pytest.mark.parametrize(
    "token",
    ["", "....", "words", "a.b.c.d", "é.é.é.é.é", "e30....", "bnVsbA....", "\x00", "{}", "eyJhbGciOiJub25lIn0.."],
)
def test_a_token_that_is_none_is_invalid_and_nothing_else_is_raised(token: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_sealed(Sealed(ANA.kid, REF, token), Ring(ANA))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("alg", "enc"), [("dir", "A128GCM"), ("A256KW", "A256GCM"), ("dir", "A256CBC-HS512")])
def test_a_token_of_another_algorithm_does_not_open(alg: str, enc: str) -> None:
    key = os.urandom({"A128GCM": 16, "A256GCM": 32, "A256CBC-HS512": 64}[enc])
    header = {"alg": alg, "enc": enc, "kid": ANA.kid, "ref": REF}
    registry = jwe.JWERegistry({"ref": HeaderParameter("Where", "str")}, algorithms=[alg, enc])
    token = jwe.encrypt_compact(header, b"words", OctKey.import_key(key), registry=registry)
    with pytest.raises(Invalid):
        open_sealed(Sealed(ANA.kid, REF, token), Ring(PersonKey(ANA.kid, key)))


def test_the_reason_names_where_it_was_said_and_repeats_no_words() -> None:
    sealed = seal("only between us", ANA, "elsewhere#text")
    with pytest.raises(Invalid) as caught:
        open_sealed(replace(sealed, ref=REF), Ring(ANA))
    assert REF in str(caught.value) and "between" not in str(caught.value)


def test_a_digest_is_keyed_by_whose_words_they_are_and_a_common_one_by_a_key_of_its_own() -> None:
    assert digest(b"yes", ANA) == digest(b"yes", ANA) != digest(b"no", ANA)
    assert digest(b"yes", ANA) != digest(b"yes", BEN)
    assert len(digest(b"yes", ANA)) == 64
    one, other = (Ring(PersonKey("noria:digest", letter * 32)) for letter in (b"k", b"q"))
    assert common_digest(b"yes", one) == common_digest(b"yes", one) != common_digest(b"no", one)
    assert common_digest(b"yes", one) != common_digest(b"yes", other)


# The master key


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def add_line(path: Path, name: str = "newer") -> None:
    with path.open("a") as file:
        file.write(f"{name}:{base64.b64encode(os.urandom(32)).decode()}\n")


def test_the_master_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "master.key"
    before = os.umask(0)
    try:
        MasterKey.made(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["master.key"], "nothing is left lying beside it"
    (line,) = lines(path)
    MasterKey.made(path)
    assert lines(path) == [line]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_master_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    MasterKey.made(path)
    path.chmod(mode)
    with pytest.raises(Invalid, match="0600"):
        MasterKey.made(path)


def test_of_processes_that_start_together_the_first_makes_the_master_key_and_the_others_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = tmp_path / "master.key", tmp_path / "first" / "master.key"
    MasterKey.made(first)
    link = os.link

    def late(source: Path, target: Path) -> None:
        link(first, target)  # the other process comes in between
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert MasterKey.made(path).active == MasterKey.made(first).active
    assert path.read_text() == first.read_text() and [file.name for file in tmp_path.glob("*.*")] == ["master.key"]


@pytest.mark.parametrize(
    "content", ["", "no colon", "id:not base64!", "id:c2hvcnQ=", f"id:{base64.b64encode(b'x' * 33).decode()}"]
)
def test_a_master_key_file_that_holds_no_key_is_refused_without_repeating_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(Invalid, match="master key file") as caught:
        MasterKey.made(path)
    assert not content.partition(":")[2] or content.partition(":")[2] not in str(caught.value)


def test_a_wrapped_key_unwraps_under_its_own_name_only(tmp_path: Path) -> None:
    master = MasterKey.made(tmp_path / "master.key")
    wrapped = master.wrap(ANA.secret, ANA.kid)
    assert ANA.secret not in wrapped and master.unwrap(wrapped, ANA.kid) == ANA.secret
    with pytest.raises(Invalid, match="key-of-ben does not unwrap"):
        master.unwrap(wrapped, BEN.kid)
    with pytest.raises(Invalid, match="does not unwrap"):
        master.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), ANA.kid)


def test_a_line_added_to_the_file_is_in_force_and_what_the_old_one_wrapped_still_unwraps(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    old = MasterKey.made(path)
    wrapped = old.wrap(ANA.secret, ANA.kid)
    assert old.is_current(wrapped)
    add_line(path)
    rotated = MasterKey.made(path)
    assert rotated.unwrap(wrapped, ANA.kid) == ANA.secret and not rotated.is_current(wrapped)
    anew = rotated.wrap(ANA.secret, ANA.kid)
    assert anew.startswith(b"newer:") and rotated.is_current(anew)
    assert old.unwrap(anew, ANA.kid) == ANA.secret, "a process that runs finds in the file what it does not know"
    assert old.wrap(ANA.secret, ANA.kid).startswith(b"newer:")


def test_once_everything_is_wrapped_anew_the_old_line_can_go_and_then_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    wrapped = MasterKey.made(path).wrap(ANA.secret, ANA.kid)
    add_line(path)
    rotated = MasterKey.made(path)
    anew = rotated.wrap(rotated.unwrap(wrapped, ANA.kid), ANA.kid)
    path.write_text(lines(path)[-1] + "\n")
    last = MasterKey.made(path)
    assert last.unwrap(anew, ANA.kid) == ANA.secret
    with pytest.raises(Invalid, match="which the file does not hold"):
        last.unwrap(wrapped, ANA.kid)
