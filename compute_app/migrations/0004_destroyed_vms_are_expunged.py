from django.db import migrations, models
from django.utils import timezone


def count_from_now(apps, schema_editor):
    """For VMs that were destroyed before their time was kept."""
    apps.get_model("compute_app", "VM").objects.filter(state="destroyed").update(destroyed_at=timezone.now())


class Migration(migrations.Migration):
    dependencies = [("compute_app", "0003_lists_are_ordered_by_name")]

    operations = [
        migrations.AddField(
            model_name="vm",
            name="destroyed_at",
            field=models.DateTimeField(default=None, editable=False, null=True),
        ),
        migrations.RunPython(count_from_now, migrations.RunPython.noop),
    ]
