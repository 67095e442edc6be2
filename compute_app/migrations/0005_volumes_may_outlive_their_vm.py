from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("compute_app", "0004_destroyed_vms_are_expunged")]

    operations = [
        migrations.AddField(
            model_name="volume",
            name="outlives_vm",
            field=models.BooleanField(
                default=False,
                help_text="Expunging its VM detaches it: it was made by itself, or detached once. "
                "Else it is removed with it.",
            ),
        ),
        migrations.AlterField(
            model_name="volume",
            name="device_index",
            field=models.PositiveSmallIntegerField(default=0, help_text="In its VM; 0: the root disk, vda"),
        ),
    ]
