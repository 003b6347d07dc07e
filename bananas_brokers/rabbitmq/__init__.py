"""The driver behind ``amqp://``: RabbitMQ has the messages, and another server the records."""
