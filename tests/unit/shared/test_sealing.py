import base64

import pytest

from shared.errors import ConfigError, SealBrokenError, SealingKeyError
from shared.sealing import Box, KeyRing, Vault, Wrapped, joint, new_key, token

OLD, NEW = base64.b64encode(b"o" * 32).decode(), base64.b64encode(b"n" * 32).decode()
TEXT, ABOUT, OWNER = b'{"name":"Maria"}', b"payload:7", b"aggregate:1"


def test_what_is_sealed_opens_for_the_same_thing_and_no_other() -> None:
    box = Box(b"k" * 32)
    sealed = box.seal(TEXT, ABOUT)
    assert TEXT not in sealed
    assert sealed != box.seal(TEXT, ABOUT)
    assert box.unseal(sealed, ABOUT) == TEXT
    for other, blob, about in (
        (box, sealed, b"payload:8"),
        (Box(b"x" * 32), sealed, ABOUT),
        (box, sealed[:-1] + bytes([sealed[-1] ^ 1]), ABOUT),
        (box, sealed[:9], ABOUT),
    ):
        with pytest.raises(SealBrokenError):
            other.unseal(blob, about)


def test_the_first_key_wraps_and_every_configured_one_unwraps() -> None:
    old = KeyRing.read(f"2025:{OLD}")
    wrapped = old.wrap(b"d" * 32, OWNER)
    assert wrapped.by == "2025"
    both = KeyRing.read(f"2026:{NEW}, 2025:{OLD}\n")
    assert both.ids == ("2026", "2025")
    assert both.unwrap(wrapped, OWNER) == b"d" * 32
    assert both.wrap(b"d" * 32, OWNER).by == "2026"


def test_a_key_that_is_missing_or_another_is_named_and_is_no_fault_of_the_data() -> None:
    wrapped = KeyRing.read(f"2025:{OLD}").wrap(b"d" * 32, OWNER)
    with pytest.raises(SealingKeyError, match="lacks the key '2025'"):
        KeyRing.read(f"2026:{NEW}").unwrap(wrapped, OWNER)
    with pytest.raises(SealingKeyError, match="'2025' is not the one"):
        KeyRing.read(f"2025:{NEW}").unwrap(wrapped, OWNER)
    with pytest.raises(SealingKeyError):
        KeyRing.read(f"2025:{OLD}").unwrap(wrapped, b"aggregate:2")


def test_without_a_configured_key_data_keys_rest_unwrapped() -> None:
    vault = Vault(KeyRing.read(""))
    wrapped, box = vault.make(OWNER)
    assert wrapped == Wrapped("", box.key)
    assert vault.open(wrapped, OWNER).key == box.key
    assert Vault(KeyRing.read(f"2026:{NEW}")).open(wrapped, OWNER).key == box.key


@pytest.mark.parametrize(
    "text", ["nonsense", ":" + OLD, f"a:{OLD}x", "a:c2hvcnQ=", f"a:{OLD},a:{NEW}", f"a b:{OLD}"]
)
def test_keys_of_another_form_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KeyRing.read(text)
    assert "sealing.keys" in str(caught.value)
    assert OLD not in str(caught.value)


def test_a_new_key_can_be_configured() -> None:
    assert KeyRing.read(f"2026:{new_key()}").first == "2026"


def test_what_several_own_opens_only_by_all_their_keys() -> None:
    one, two = Box(b"1" * 32), Box(b"2" * 32)
    sealed = joint([one, two]).seal(TEXT, ABOUT)
    assert joint([one, two]).unseal(sealed, ABOUT) == TEXT
    for boxes in ([one], [two], [two, one]):
        with pytest.raises(SealBrokenError):
            joint(boxes).unseal(sealed, ABOUT)
    assert joint([one]) is one


def test_a_token_stands_for_a_tax_id_only_under_its_key() -> None:
    assert token("12345678901", b"k" * 32) == token("12345678901", b"k" * 32)
    assert token("12345678901", b"k" * 32) != token("12345678901", b"x" * 32)
    assert token("12345678901", b"k" * 32) != token("12345678902", b"k" * 32)
    assert len(token("12345678901", b"k" * 32)) == 22
