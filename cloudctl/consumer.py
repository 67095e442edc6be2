"""How the worker of queue ``control`` reads. Celery is told by name: it imports its consumer only in a worker."""

from celery.worker.consumer import Consumer as CeleryConsumer

from agents.common.broker import SkipUnreadable


class Consumer(SkipUnreadable, CeleryConsumer):
    """Celery's, and nothing that lies in its queue ends it."""
