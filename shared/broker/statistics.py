"""What only the broker's Prometheus plugin tells: messages delivered and not acknowledged.

AMQP itself has no way to ask. The plugin (``rabbitmq_prometheus``, part of RabbitMQ) serves it per
queue under ``/metrics/detailed``; its own figures are a few seconds old.
"""

from urllib.parse import unquote, urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from shared.config import BrokerConfig
from shared.errors import BrokerUnavailableError

_PATH = "/metrics/detailed?family=queue_coarse_metrics"
_NAME = "rabbitmq_detailed_queue_messages_unacked"
_OK = 200


async def unacknowledged(config: BrokerConfig) -> dict[str, int]:
    """Messages that consumers hold, by queue of our virtual host; empty without ``metrics_url``.

    Raises:
        BrokerUnavailableError: the plugin does not answer, or with something else.
    """
    if not config.metrics_url:
        return {}
    vhost = unquote(urlsplit(config.url.reveal()).path.removeprefix("/")) or "/"
    timeout = aiohttp.ClientTimeout(total=config.connect_timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(config.metrics_url.rstrip("/") + _PATH) as answer,
        ):
            if answer.status != _OK:
                raise BrokerUnavailableError(f"broker.metrics_url answers {answer.status}")
            families = list(text_string_to_metric_families(await answer.text()))
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise BrokerUnavailableError(f"broker.metrics_url: {type(error).__name__}") from error
    return {
        sample.labels["queue"]: int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == _NAME and sample.labels.get("vhost") == vhost
    }
