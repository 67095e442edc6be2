"""The Django project: settings, urls and the Celery app; and the command line, which needs none of them."""
