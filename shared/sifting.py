"""Whether a text that nobody could read names somebody who was erased."""

import re
from collections.abc import Callable, Sequence

import orjson
from msgspec import Struct

from shared.domain.tax_ids import normalise

_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z./-]{9,17}")


class Sought(Struct, frozen=True):
    """What is looked for: an id, None for no particular one, and the tokens of people."""

    about: str
    id: str | None
    tokens: frozenset[str]


def names_any(body: bytes, sought: Sequence[Sought], token: Callable[[str], str]) -> set[str]:
    """What of `sought` the text names, by `about`: the id in quotes, or a tax id of its people.

    Args:
        body: anything, be it JSON or not.
        sought: what is looked for.
        token: from a tax id without punctuation to its token.
    """
    text = body.decode("utf-8", "replace").replace("\\/", "/")
    escaped = text if "\\u" not in text else _unescaped(text)
    wanted = any(one.tokens for one in sought)
    people = {
        token(tax_id) for word in _WORD.finditer(escaped) if (tax_id := normalise(word[0]))
    } if wanted else set[str]()  # fmt: skip
    return {
        one.about
        for one in sought
        if one.tokens & people or (one.id is not None and orjson.dumps(one.id).decode() in escaped)
    }


def _unescaped(text: str) -> str:
    r"""The text with its ``\u`` escapes resolved, lone surrogates left as they are."""
    return re.sub(
        r"\\u([0-9a-fA-F]{4})",
        lambda match: chr(int(match[1], 16)) if not 0xD800 <= int(match[1], 16) < 0xE000  # noqa: PLR2004 - surrogates
        else match[0],
        text,
    )  # fmt: skip
