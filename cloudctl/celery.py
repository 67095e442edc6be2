"""The Celery app of a management server: its worker takes queue ``control``, its beat rings the sweeps.

The database row is the record and a message only a bell, so: early acknowledgement, no results, no expiry.
"""

import os

from celery import Celery, signals
from kombu import Queue

from agents.common.broker import CONNECT_SECONDS, keep_logging, transport_options

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudctl.settings")

BROKER_URL = os.environ.get("CLOUDCTL_BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("cloudctl")
app.conf.update(
    broker_url=BROKER_URL,
    broker_connection_timeout=CONNECT_SECONDS,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # a broker may be away for a day
    broker_transport_options=transport_options(BROKER_URL),
    accept_content=["json"],
    task_serializer="json",
    result_backend=None,  # with one, a publish hangs for 19 s while Redis is down
    task_ignore_result=True,
    task_acks_late=False,  # late acks run a long task several times on Redis
    task_publish_retry=False,  # the sweep rings again
    task_queues=[Queue("control")],
    task_default_queue="control",
    task_create_missing_queues=False,  # a misspelt queue would silently make a list that nobody reads
    worker_cancel_long_running_tasks_on_connection_loss=False,  # Celery 6 changes the default
    # Measured with Celery 5.7 on Redis: a threads pool that may not prefetch takes 5 messages a second, since nothing
    # wakes its event loop when a thread gets free. What a killed worker had prefetched is lost like any other message.
    worker_prefetch_multiplier=32,
    worker_consumer="cloudctl.consumer:Consumer",
    worker_enable_remote_control=False,
    enable_utc=True,
    timezone="UTC",
    beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler",
)
app.autodiscover_tasks()


signals.setup_logging.connect(keep_logging)
