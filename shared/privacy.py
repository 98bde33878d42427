"""Masking of tax ids and passwords in what people get to see."""

import re

_CPF = re.compile(r"(?<![0-9A-Za-z])\d{3}\.?(\d{3})\.?(\d{3})-?\d{2}(?![0-9A-Za-z])")
_CNPJ = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Z]{2}\.?([0-9A-Z]{3})\.?([0-9A-Z]{3})/?[0-9A-Z]{4}-?\d{2}(?![0-9A-Za-z])"
)
_USERINFO = re.compile(r":((?:\\?/){2})[^/\s@\"\\]+@")


def mask(text: str) -> str:
    """Mask tax ids, and the user and password of every URL; JSON may write its slashes escaped."""
    return mask_tax_ids(_USERINFO.sub(r":\1***@", text))


def mask_tax_ids(text: str) -> str:
    """Replace what has the form of a CPF or a CNPJ, the alphanumeric one of July 2026 included.

    A CPF keeps its middle six digits, as Brazilian practice has it: ``***.456.789-**``.
    """
    text = _CNPJ.sub(r"**.\1.\2/****-**", text)
    return _CPF.sub(r"***.\1.\2-**", text)
