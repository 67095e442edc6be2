"""What is kept for a time only is deleted by the scheduler; operators' edits change the row from then on."""

from django.db import migrations


def schedule(apps, schema_editor):
    interval_model = apps.get_model("django_celery_beat", "IntervalSchedule")
    task_model = apps.get_model("django_celery_beat", "PeriodicTask")
    interval, _ = interval_model.objects.get_or_create(every=3600, period="seconds")
    name = "core.forget_answers"
    task_model.objects.get_or_create(name=name, defaults={"task": name, "interval": interval, "queue": "control"})


class Migration(migrations.Migration):
    dependencies = [
        ("core_app", "0002_answers_to_keys"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [migrations.RunPython(schedule, migrations.RunPython.noop)]
