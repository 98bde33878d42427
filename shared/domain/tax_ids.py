"""Tax ids as the events name them: CPF of a person, CNPJ of a company."""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from operator import mul

_FORM = re.compile(r"\d{11}|[0-9A-Z]{12}\d{2}")
_CPF_DIGITS = 11
_PUNCTUATION = str.maketrans("", "", ".-/ ")


def normalise(value: object) -> str | None:
    """A tax id without its punctuation; None for what has neither the form of CPF nor of CNPJ.

    The source may send ciphertext in its place, which is nobody's tax id.
    """
    if not isinstance(value, str):
        return None
    if len(value) == _CPF_DIGITS and value.isascii() and value.isdigit():
        return value
    bare = value.translate(_PUNCTUATION).upper()
    return bare if bare.isascii() and _FORM.fullmatch(bare) else None


class TaxForm(StrEnum):
    """Whether a tax id is what it says it is, by its check digits alone."""

    VALID = "valid"
    INVALID = "invalid"
    UNCHECKED = "unchecked"
    """It has the form of neither CPF nor CNPJ, as ciphertext has: nothing can be said of it."""


_GRAVEST = (TaxForm.INVALID, TaxForm.UNCHECKED, TaxForm.VALID)
_CPF_WEIGHTS = tuple(range(11, 1, -1))
_CNPJ_WEIGHTS = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
_ZERO = ord("0")


def form_of(*given: object) -> TaxForm | None:
    """The gravest form among the tax ids of one event; None if it gives none."""
    try:
        return _gravest(*given)
    except TypeError:  # an object or an array
        return TaxForm.INVALID


@lru_cache(maxsize=4_096)
def _gravest(*given: object) -> TaxForm | None:
    """The same persons come again and again, so the latest answers are kept in memory."""
    found = {_form(one) if isinstance(one, str) else TaxForm.INVALID for one in given if one}
    return next((form for form in _GRAVEST if form in found), None)


def _form(value: str) -> TaxForm:
    bare = value.translate(_PUNCTUATION)
    if not (bare.isascii() and _FORM.fullmatch(bare)):
        digits = bare.isascii() and bare.isdigit()  # too many or too few of them
        return TaxForm.INVALID if digits else TaxForm.UNCHECKED
    weights = _CPF_WEIGHTS if len(bare) == _CPF_DIGITS else _CNPJ_WEIGHTS
    values = [one - _ZERO for one in bare.encode()]
    same = len(set(values)) == 1  # passes the sum, and is given to nobody
    right = (
        _check_digit(values[:-2], weights[1:]) == values[-2]
        and _check_digit(values[:-1], weights) == values[-1]
    )
    return TaxForm.VALID if right and not same else TaxForm.INVALID


def _check_digit(values: Sequence[int], weights: Sequence[int]) -> int:
    """The digit that follows these values, by modulo 11."""
    rest = sum(map(mul, values, weights)) % 11
    return 0 if rest < 2 else 11 - rest  # noqa: PLR2004 - the rule's own number
