"""URLs, queue names and warnings of the RabbitMQ driver; needs no server."""

from __future__ import annotations

import pytest

from bananas_brokers.rabbitmq.facts import facts_of, warnings_of
from bananas_brokers.rabbitmq.names import LEVELS, arguments_of, band_queue, queues_of
from bananas_brokers.rabbitmq.settings import read_settings
from bananas_brokers.rabbitmq.transport import RabbitTransport
from bananas_core.errors import ConfigurationError
from bananas_core.pair import load_pair


def test_forms_of_urls() -> None:
    settings = read_settings("amqp://me:p%40ss@mq:7000/a%2Fb?socket_timeout=2.5&heartbeat=3")
    assert (settings.hosts, settings.vhost) == ((("mq", 7000),), "a/b")
    assert (settings.user, settings.password) == ("me", "p@ss")
    assert (settings.socket_timeout, settings.heartbeat) == (2.5, 3)
    assert read_settings("amqp://mq").hosts == (("mq", 5672),)
    assert read_settings("amqp://mq").vhost == read_settings("amqp://mq/").vhost == "/"
    assert read_settings("amqp://mq/%2F").vhost == "/"
    secure = read_settings("amqps://mq?ssl_ca_certs=/ca.pem&ssl_check_hostname=no")
    assert (secure.hosts, secure.tls, secure.ssl_check_hostname) == ((("mq", 5671),), True, False)


def test_the_other_name_and_several_hosts() -> None:
    settings = read_settings("rabbitmq://me:pw@a:1,b,[::1]:3/jobs")
    assert settings.hosts == (("a", 1), ("b", 5672), ("::1", 3))
    assert (settings.user, settings.vhost, settings.tls) == ("me", "jobs", False)
    assert settings.label == "rabbitmq://a:1,b:5672,::1:3/jobs"
    secure = read_settings("rabbitmqs://a,b?ssl_ca_certs=/ca.pem")
    assert (secure.hosts, secure.tls) == ((("a", 5671), ("b", 5671)), True)
    pair = load_pair("rabbitmq://a,b", "sqlite:///jobs.db", "bananas")
    assert isinstance(pair.transport, RabbitTransport)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://mq?ssl_ca_certs=/ca.pem",
        "amqp://mq?socket_timeout=0",
        "amqp://mq?heartbeat=0",
        "amqp://mq?heartbeat=60",
        "amqp://mq?frame_max=1",
    ],
)
def test_what_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RabbitTransport(url, "bananas")


def test_no_secret_is_shown() -> None:
    settings = read_settings("amqp://me:verysecret@mq/v")
    assert "verysecret" not in repr(settings)
    assert settings.label == "amqp://mq:5672/v"


def test_a_second_url_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="second URL"):
        load_pair("amqp://mq", None, "bananas")
    pair = load_pair("amqp://mq", "sqlite:///jobs.db", "bananas")
    assert not pair.fused
    assert pair.transport.capabilities.levels == LEVELS == 4


def test_names_and_arguments_of_queues() -> None:
    assert queues_of("bananas", "default") == [
        "bananas/default/0-of-4",
        "bananas/default/1-of-4",
        "bananas/default/2-of-4",
        "bananas/default/3-of-4",
        "bananas/default/buried",
    ]
    longest = band_queue("n" * 64, "k" * 128, 3)
    assert len(longest) <= 255
    plain = arguments_of("bananas/default/0-of-4")
    assert plain == {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1}
    assert arguments_of("bananas/bananas.probe.host.0/0-of-4")["x-expires"] == 86_400_000


@pytest.mark.parametrize(
    ("properties", "blocked", "words"),
    [
        ({"product": "RabbitMQ", "version": "3.10.8"}, False, []),
        ({"product": b"RabbitMQ", "version": b"3.13.0"}, False, []),
        ({"product": "RabbitMQ", "version": "3.9.2"}, False, ["older"]),
        ({"product": "RabbitMQ", "version": "4.1.0"}, False, ["3.10"]),
        ({"product": "Other", "version": "1"}, False, ["quorum"]),
        ({"product": "RabbitMQ", "version": "3.10.8"}, True, ["alarm"]),
    ],
)
def test_what_doctor_hears(properties: dict[str, object], blocked: bool, words: list[str]) -> None:
    found = warnings_of(facts_of(properties, blocked=blocked))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
