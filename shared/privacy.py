"""Masking of tax ids in what people get to see."""

import re

_CPF = re.compile(r"(?<![0-9A-Za-z])\d{3}\.?(\d{3})\.?(\d{3})-?\d{2}(?![0-9A-Za-z])")
_CNPJ = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Z]{2}\.?([0-9A-Z]{3})\.?([0-9A-Z]{3})/?[0-9A-Z]{4}-?\d{2}(?![0-9A-Za-z])"
)


def mask_tax_ids(text: str) -> str:
    """Replace what has the form of a CPF or a CNPJ, the alphanumeric one of July 2026 included.

    A CPF keeps its middle six digits, as Brazilian practice has it: ``***.456.789-**``.
    """
    text = _CNPJ.sub(r"**.\1.\2/****-**", text)
    return _CPF.sub(r"***.\1.\2-**", text)
