import base64
import time

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from shared.targets import read_secret
from worker.callbacks.signing import sign

FIRST = "whsec_" + base64.b64encode(bytes(range(32))).decode()
SECOND = "whsec_" + base64.b64encode(bytes(range(100, 124))).decode()
BODY = '{"type":"link.created","data":{"name":"João","n":1.0}}'.encode()


def headers(*secrets: str) -> dict[str, str]:
    keys = [read_secret(secret) for secret in secrets]
    return sign(keys, webhook_id="msg_1", timestamp=int(time.time()), body=BODY)


@pytest.mark.parametrize("signed_with", [(FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST)])
def test_the_published_verifier_accepts_every_active_secret(signed_with: tuple[str, ...]) -> None:
    made = headers(*signed_with)
    for secret in signed_with:
        Webhook(secret).verify(BODY, made)
    assert len(made["webhook-signature"].split()) == len(signed_with)


def test_the_first_secret_signs_first() -> None:
    alone = headers(FIRST)["webhook-signature"]
    assert headers(FIRST, SECOND)["webhook-signature"].split()[0] == alone


def test_a_secret_that_is_not_active_is_not_accepted() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECOND).verify(BODY, headers(FIRST))


def test_the_signature_of_a_known_message_is_the_one_of_the_standard() -> None:
    made = sign(
        [read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_secrets_may_come_without_padding(size: int) -> None:
    key = bytes(range(size))
    text = "whsec_" + base64.b64encode(key).decode()
    assert read_secret(text) == read_secret(text.rstrip("=")) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_not base64 at all!",
        "whsec_Zé" + "A" * 40,
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_what_is_no_secret_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"whsec_|key has") as caught:
        read_secret(text)
    assert len(text) < 10 or text[8:] not in str(caught.value)
