from typing import Any

import pytest

from shared.config import EndpointConfig, Secret
from shared.errors import ConfigError
from shared.targets import read_targets
from tests.support.endpoints import SECOND_SECRET, SECRET


def read(url: str = "https://crm.example.com/hooks", **more: Any) -> Any:
    more.setdefault("secrets", (Secret(SECRET),))
    return read_targets([EndpointConfig(id="crm", url=url, **more)])["crm"]


def test_an_endpoint_is_made_ready_once() -> None:
    target = read(
        secrets=(Secret(SECRET), Secret(SECOND_SECRET)),
        headers={"X-Api-Key": "k"},
        max_in_flight=3,
        allow_private_network=True,
    )
    assert target.url.host == "crm.example.com"
    assert len(target.keys) == 2
    assert target.headers == {"X-Api-Key": "k"}
    assert (target.max_in_flight, target.allow_private) == (3, True)


@pytest.mark.parametrize(
    "url",
    [
        "", "crm", "/hooks", "ftp://crm.example.com/", "unix:///var/run/x", "file:///etc/passwd",
        "http://", "https:///hooks", "https://user:pass@crm.example.com/", "https://u@h/",
        "https://crm.example.com/#part", "https://crm.example.com:0/", "https://[::1",
        "https://crm.example.com:99999/", "gopher://crm.example.com/", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_called_is_named_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint crm: url") as caught:
        read(url)
    assert len(url) < 6 or url not in str(caught.value)


def test_a_bad_secret_is_named_and_not_quoted() -> None:
    with pytest.raises(ConfigError, match="endpoint crm: secrets: a secret starts") as caught:
        read(secrets=(Secret("verysecret"),))
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["Webhook-Id", "webhook-signature", "HOST", "Content-Length", "Transfer-Encoding",
     "content-type", "traceparent", "Connection"],
)  # fmt: skip
def test_headers_of_ours_cannot_be_replaced(name: str) -> None:
    with pytest.raises(ConfigError, match="set by Correio itself"):
        read(headers={name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("X y", "v"), ("", "v"), ("X:", "v"), ("X", "a\r\nwebhook-id: b"), ("X", "a\x00"), ("X", "é")],
)
def test_headers_cannot_smuggle_others(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match="characters"):
        read(headers={name: value})
