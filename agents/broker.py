"""The agent's Celery: one worker that hears, one connection that speaks.

The worker's pool is ``solo``: a task here only writes a command down, so the thread that reads the broker may run it.
Measured with Celery 5.7 on Redis: a ``threads`` pool without prefetch took about 12 messages a second, because nothing
wakes the event loop when a slot gets free; ``solo`` takes hundreds, in order, and alternates between both queues.
"""

import logging
import signal
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, bootsteps, platforms, signals
from celery.apps.worker import Worker
from celery.worker import WorkController
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks
from kombu import Connection, Queue

from agents.common.broker import SkipUnreadable, keep_logging, transport_options
from agents.protocol.messages import CONTROL_QUEUE, command_queue, control_queue

log = logging.getLogger(__name__)

COMMAND_TASKS = "agents."
RECONNECT_SECONDS = 0.5

# Without acknowledgement emulation a message is either taken or still in its list, and no other keys are written. One
# that is lost between Redis and the journal is sent again, because no ping lists it.
_ON_REDIS = {"ack_emulation": False, "socket_keepalive": True, "health_check_interval": 5}

Accept = Callable[[Mapping[str, Any]], None]


def make_app(broker_url: str, agent_id: str) -> Celery:
    """An application that consumes this agent's two queues and may publish to the server's."""
    # No fixups: Celery's own would load Django wherever DJANGO_SETTINGS_MODULE happens to be set.
    app = Celery("agents", broker=broker_url, set_as_current=False, fixups=[])
    app.conf.update(
        task_queues=[Queue(command_queue(agent_id)), Queue(control_queue(agent_id))],
        # No exchange: messages go into a queue by its name, and a broker restarted empty has no binding to miss.
        task_default_exchange="",
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        broker_transport_options=transport_options(broker_url, **_ON_REDIS),
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_disable_prefetch=True,
        worker_redirect_stdouts=False,
    )
    return app


class Publisher:
    """Speaks to the server, for one thread. A dead broker costs an exception within seconds, never a hang."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._queue = Queue(CONTROL_QUEUE)
        self._connection: Connection | None = None

    def __call__(self, task: str, message: Mapping[str, Any], names: str) -> None:
        """Send ``message`` to a task of the server. ``names``: ids, all that may be shown of it."""
        connection = self._connection or self._app.connection_for_write()
        self._connection = connection
        try:
            self._app.send_task(
                task,
                kwargs={"message": message},
                queue=self._queue,  # type: ignore[arg-type]  # celery-types knows names only
                connection=connection,
                # The queue is the server's: an agent needs no right but to push to it.
                declare=[],
                retry=False,
                argsrepr="",
                kwargsrepr=names[:200],
            )
        except Exception:
            self._connection = None
            connection.release()
            raise


class _AgentConsumer(SkipUnreadable, Consumer):
    """Celery's, but it notices a restarted broker at once and knows what to do with a command that it does not know."""

    accept: Accept

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try twice a second, for as long as it takes."""

        def on_error(error: Exception, _interval: float) -> None:
            log.warning("broker.unreachable", extra={"error": str(error)})

        return conn.ensure_connection(
            on_error,
            max_retries=None,  # type: ignore[arg-type]  # for ever; celery-types wants a number
            interval_start=RECONNECT_SECONDS,  # type: ignore[arg-type]  # celery-types wants whole seconds
            interval_step=0,
            interval_max=RECONNECT_SECONDS,  # type: ignore[arg-type]
            callback=worker_state.maybe_shutdown,
        )

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A kind from a newer server: it is journaled as failed, so that the server is told why."""
        name = message.headers["task"]
        if not name.startswith(COMMAND_TASKS):
            super().on_unknown_task(body, message, exc)
            return
        message.ack()
        _args, arguments, _embed = message.decode()
        self.accept(arguments.get("message", {}))


class _AgentWorker(Worker):
    """Celery's, with signals that only ask it to end: its own also restart the process or dump it."""

    def install_platform_tweaks(self, worker: WorkController) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _on_signal)


def _on_signal(number: int, _frame: types.FrameType | None) -> None:
    log.info("agent.signal", extra={"signal": signal.Signals(number).name})
    end_worker(0)


def end_worker(exit_code: int) -> None:
    """Let the worker end at its next turn (a second at most), warm: what was taken is journaled first."""
    worker_state.should_stop = exit_code  # type: ignore[assignment]  # celery-types knows only its first value


def run_worker(
    app: Celery, agent_id: str, tasks: Mapping[str, Accept], unknown: Accept, on_connected: Callable[[], None]
) -> int:
    """Hear until asked to end; blocks. Returns the exit code that :func:`end_worker` was given."""
    for name, accept in tasks.items():
        _register(app, name, accept)

    class Connected(bootsteps.StartStopStep):
        """A consumer's step runs again on every reconnect."""

        requires = (Tasks,)

        def start(self, parent: Any) -> None:
            on_connected()

    class AgentConsumer(_AgentConsumer):
        accept = staticmethod(unknown)

    app.steps["consumer"].add(Connected)
    signals.setup_logging.connect(keep_logging)
    # Celery's warning to root is about pickle; this worker takes JSON only, and QEMU's files need root.
    warnings.simplefilter("ignore", platforms.SecurityWarning)  # type: ignore[attr-defined]
    worker = _AgentWorker(
        app=app,
        hostname=f"agent@{agent_id}",
        pool="solo",
        consumer_cls=AgentConsumer,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _register(app: Celery, name: str, accept: Accept) -> None:
    def task(message: Mapping[str, Any]) -> None:
        accept(message)

    app.task(name=name)(task)
