"""CPF and CNPJ by their check digits, the alphanumeric CNPJ of July 2026 among them."""

import random
import string

import pytest

from shared.domain.tax_ids import TaxForm, form_of

VALID, INVALID, UNCHECKED = TaxForm.VALID, TaxForm.INVALID, TaxForm.UNCHECKED


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("52998224725", VALID),
        ("529.982.247-25", VALID),
        ("52998224724", INVALID),
        ("12345678901", INVALID),  # the provider's own example
        ("11111111111", INVALID),  # the sum is right, and it is nobody's
        ("11222333000181", VALID),
        ("11.222.333/0001-81", VALID),
        ("11222333000180", INVALID),
        ("00000000000000", INVALID),
        ("12ABC34501DE35", VALID),  # the example of the tax authority
        ("12.ABC.345/01DE-35", VALID),
        ("12ABC34501DE36", INVALID),
        ("1234567890", INVALID),
        ("123456789012", INVALID),
        ("12abc34501de35", UNCHECKED),
        ("12ABC34501DE3X", UNCHECKED),
        ("gAAAAABmJx2v8w==", UNCHECKED),
        ("٥٢٩٩٨٢٢٤٧٢٥", UNCHECKED),
        ("n/a", UNCHECKED),
        (52998224725, INVALID),
        ({"cpf": 1}, INVALID),
        ("", None),
        (None, None),
    ],
)
def test_each_form(value: object, form: TaxForm | None) -> None:
    assert form_of(value) is form


def test_the_gravest_form_of_an_event_counts() -> None:
    assert form_of("52998224725", "52998224724", "cipher") is INVALID
    assert form_of("52998224725", "cipher", None) is UNCHECKED
    assert form_of("52998224725", "") is VALID
    assert form_of() is None


def reference(body: str, weights: list[int]) -> str:
    """A check digit as the rule is written down: weights from 2 on, from the right."""
    total = sum((ord(one) - 48) * weight for one, weight in zip(body[::-1], weights, strict=False))
    return str((11 - total % 11) % 11 % 10)


@pytest.mark.parametrize("seed", range(200))
def test_any_that_is_made_by_the_rule_is_valid_and_any_slip_is_not(seed: int) -> None:
    dice = random.Random(seed)
    cpf = seed % 2 == 0
    letters = string.digits if cpf else string.digits + string.ascii_uppercase
    weights = list(range(2, 12)) if cpf else [2, 3, 4, 5, 6, 7, 8, 9] * 2
    made = "".join(dice.choices(letters, k=9 if cpf else 12))
    made += reference(made, weights)
    made += reference(made, weights)
    assert form_of(made) is VALID
    wrong = str((int(made[-1]) + dice.randrange(1, 10)) % 10)
    assert form_of(made[:-1] + wrong) is INVALID
