"""Bananas on RabbitMQ with its ledger on Redis, and the plain aio-pika loop that limits it."""
