"""The limit of what goes by the broker: a Celery task that does nothing, on a worker with the agent's pool."""

import os
import sys
import time
from collections.abc import Callable
from uuid import uuid4

import redis
from celery import Celery
from kombu import Queue

from tests.lab.keeper import Part
from tests.lab.lab import Lab

BROKER_URL = "BENCHMARKS_BROKER_URL"
QUEUE = Queue("noop", routing_key="noop")
PART = "noop"
_ANSWER_SECONDS = 30


def make_app(broker_url: str) -> Celery:
    """Celery as it is, with one queue and no results."""
    app = Celery("noop", broker=broker_url, set_as_current=False, fixups=[])
    app.conf.update(task_queues=[QUEUE], task_default_queue="noop", task_ignore_result=True, result_backend=None)
    return app


app = make_app(os.environ.get(BROKER_URL, ""))


@app.task(name="noop.run")
def run(answer: str) -> None:
    """Tells when it was begun; what it costs to tell comes after that."""
    began = time.time()
    with redis.Redis.from_url(os.environ[BROKER_URL]) as client:
        client.rpush(answer, began)


class Noop:
    """The lab's no-op worker; its part is started with the first use."""

    def __init__(self, lab: Lab) -> None:
        self._redis = redis.Redis.from_url(lab.broker.url)
        self._app = make_app(lab.broker.url)
        if PART not in lab.supervisor.pids():
            worker = ["celery", "-A", "benchmarks.noop", "worker", "-Q", "noop", "-P", "solo", "-n", "noop@lab"]
            worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            lab.supervisor.start(Part(PART, [sys.executable, "-m", *worker], {BROKER_URL: lab.broker.url}))
        self.until_begun()

    def publisher(self, queue: Queue = QUEUE) -> Callable[[str], object]:
        """Publishes a task over a pooled connection, which is what a publish costs at least."""

        def publish(answer: str) -> object:
            return self._app.send_task("noop.run", args=[answer], queue=queue, ignore_result=True)  # type: ignore[arg-type]  # the stubs know names only

        return publish

    def until_begun(self) -> float:
        """Seconds from before the publish to the moment when the task began."""
        submitted = time.time()
        self.send(answer := f"noop-{uuid4()}")
        return self.answers(answer, 1)[0] - submitted

    def send(self, answer: str) -> None:
        """One task; its moment goes to the list ``answer``."""
        self.publisher()(answer)

    def answers(self, answer: str, count: int) -> list[float]:
        """The moments at which so many tasks began, waiting for them."""
        found: list[float] = []
        for _ in range(count):
            told = self._redis.blpop([answer], timeout=_ANSWER_SECONDS)
            if told is None:
                raise TimeoutError(f"{count - len(found)} of {count} no-ops were not begun in {_ANSWER_SECONDS} s")
            found.append(float(told[1]))
        return found
