"""The only package that speaks AMQP."""
