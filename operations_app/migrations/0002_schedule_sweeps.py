"""The sweeps are scheduled once; operators' edits and the settings change the rows from then on."""

from django.db import migrations

SWEEPS = {"operations.sweep": 60, "operations.watch": 60}


def schedule(apps, schema_editor):
    interval_model = apps.get_model("django_celery_beat", "IntervalSchedule")
    task_model = apps.get_model("django_celery_beat", "PeriodicTask")
    for task, seconds in SWEEPS.items():
        interval, _ = interval_model.objects.get_or_create(every=seconds * 1_000_000, period="microseconds")
        task_model.objects.get_or_create(name=task, defaults={"task": task, "interval": interval, "queue": "control"})


class Migration(migrations.Migration):
    dependencies = [
        ("operations_app", "0001_initial"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [migrations.RunPython(schedule, migrations.RunPython.noop)]
