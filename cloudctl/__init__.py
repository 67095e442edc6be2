"""The Django project: settings, urls and the Celery app, which is loaded with it so that tasks find it."""

from cloudctl.celery import app as celery_app

__all__ = ["celery_app"]
