"""Every message of the lab, put into its queue three times."""

import threading

import redis

from tests.lab.broker import Broker

_LAST_WORD = "cloudctl-echo-ends"


class Echo:
    """While it lasts, each message that anybody puts into a queue is put there twice more, as it is.

    It listens with MONITOR (Redis), so the doubled messages are the very ones, in both directions.
    """

    def __init__(self, broker: Broker) -> None:
        self._client = redis.Redis(port=broker.port, decode_responses=True)
        self._seen: dict[str, str] = {}
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Echo":
        self._thread.start()
        assert self._listening.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.echo(_LAST_WORD)
        self._thread.join(10)
        self._client.close()

    def once_more(self, times: int) -> int:
        """Puts every message heard so far into its queue so many times; returns how many messages there were."""
        heard = list(self._seen.items())
        for message, queue in heard:
            self._push(queue, message, times)
        return len(heard)

    def heard(self, text: str) -> int:
        """How many of the messages, each counted once, have this in them."""
        return sum(text in message for message in list(self._seen))

    def _listen(self) -> None:
        with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
            self._listening.set()
            for said in monitor.listen():
                verb, _, rest = said["command"].partition(" ")
                if verb == "ECHO" and rest == _LAST_WORD:
                    return
                if verb == "LPUSH":
                    self._repeat(*rest.split(" ", 1))

    def _repeat(self, queue: str, message: str) -> None:
        if queue.startswith(("agent.", "control")) and message not in self._seen:
            self._seen[message] = queue
            self._push(queue, message, 2)

    def _push(self, queue: str, message: str, times: int) -> None:
        for _ in range(times):
            self._client.lpush(queue, message)
