"""Tax ids as the events name them: CPF of a person, CNPJ of a company."""

import re

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
