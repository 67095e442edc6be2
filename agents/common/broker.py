"""What the agent's worker and the server's have in common: options of the broker, and that no message ends them.

Anything may lie in a queue: what another program pushed, a newer version's, a broken one. Left alone, kombu 5.7 and
Celery 5.7 end the worker for much of it, and again after each start. Here it is skipped: taken out of its queue,
counted, and logged without what is in it.
"""

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import Empty

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5
REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")
AMQP_SCHEMES = ("amqp://", "amqps://", "pyamqp://")


def transport_options(url: str, **more_for_redis: Any) -> dict[str, Any]:
    """Options for the broker behind ``url``; kombu hands them verbatim to its transport, so each scheme has its own."""
    if url.startswith(REDIS_SCHEMES):
        timeouts = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": ANSWER_SECONDS}
        return timeouts | more_for_redis
    if url.startswith(AMQP_SCHEMES):
        return {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    return {}


def keep_logging(**_: Any) -> None:
    """A receiver of Celery's ``setup_logging``: where somebody listens to it, Celery sets up no logging of its own."""


class _Skipped:
    """How many messages this process has skipped."""

    count = 0


def skip(queue: str, error: Exception) -> None:
    """Note that a message was not readable. Only the error's name is told: its text may quote the message."""
    _Skipped.count += 1
    fields = {"queue": queue, "error": type(error).__name__, "skipped": _Skipped.count}
    log.error("message.skipped", extra={"fields": fields})


def _is_of_broker(error: Exception, errors: tuple[type[BaseException], ...]) -> bool:
    """kombu counts KeyError among them, for one that comes from elsewhere; here a message lacks a part."""
    return isinstance(error, errors) and not isinstance(error, KeyError)


class Channel(redis.Channel):
    """Reads on after what is no message at all."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs leave it out
        except Exception as error:
            if _is_of_broker(error, (Empty, *self.connection.connection_errors, *self.connection.channel_errors)):
                raise
            skip(", ".join(sorted(self.active_queues)), error)
            return True


class Transport(redis.Transport):
    """kombu's, with our channel."""

    Channel = Channel


# By these names, since a URL's scheme outranks Celery's setting `broker_transport`.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))


def _check(message: Any) -> None:
    """Raise for what is no task of Celery's protocol 2, and drop the headers of which we use none.

    Celery trusts them all, and one that fails it half-way holds its place among those that may be begun for good.
    """
    arguments, options, embedded = message.decode()
    if not isinstance(arguments, list) or not isinstance(options, dict) or any((embedded or {}).values()):
        raise TypeError("not a list, a dictionary and nothing more")
    message.headers = {name: str(message.headers[name]) for name in ("task", "id")}


class SkipUnreadable:
    """Goes before Celery's ``Consumer`` among a class's bases: it skips what is a message and yet no task."""

    connection_errors: tuple[type[Exception], ...]

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **options)  # type: ignore[misc]  # the next base's

        def on_message(message: Any) -> None:
            try:
                _check(message)
                handle(message)
            except Exception as error:
                if _is_of_broker(error, self.connection_errors):
                    raise
                self.on_decode_error(message, error)

        return on_message

    def on_decode_error(self, message: Any, error: Exception) -> None:
        skip(str(message.delivery_info.get("routing_key", "")), error)
        if not message.acknowledged:
            message.reject_log_error(log, self.connection_errors)

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        self.on_decode_error(message, LookupError("it names no task"))

    def on_unknown_task(self, _body: Any, message: Any, error: Exception) -> None:
        self.on_decode_error(message, error)

    def on_invalid_task(self, _body: Any, message: Any, error: Exception) -> None:
        self.on_decode_error(message, error)
