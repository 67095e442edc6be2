"""Limits of accounts are rows of their own: one conditional UPDATE takes from them."""

import django.db.models.deletion
from django.db import migrations, models

RESOURCES = ("templates", "volumes", "vms", "snapshots", "primary_storage_bytes", "secondary_storage_bytes")


def make_rows(apps, schema_editor):
    account_model = apps.get_model("accounts_app", "Account")
    limit_model = apps.get_model("accounts_app", "Limit")
    for account in account_model.objects.all():
        for resource in RESOURCES:
            limit_model.objects.create(account=account, resource=resource, maximum=account.limits.get(resource))


class Migration(migrations.Migration):
    dependencies = [("accounts_app", "0001_first_rows")]

    operations = [
        migrations.CreateModel(
            name="Limit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "resource",
                    models.CharField(
                        choices=[
                            ("templates", "Templates"),
                            ("volumes", "Volumes"),
                            ("vms", "Vms"),
                            ("snapshots", "Snapshots"),
                            ("primary_storage_bytes", "Primary Storage Bytes"),
                            ("secondary_storage_bytes", "Secondary Storage Bytes"),
                        ],
                        max_length=32,
                    ),
                ),
                (
                    "maximum",
                    models.BigIntegerField(blank=True, default=None, help_text="None: no limit", null=True),
                ),
                ("used", models.BigIntegerField(default=0, editable=False)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limit_rows",
                        to="accounts_app.account",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("account", "resource"), name="limit_once_a_resource"),
                    models.CheckConstraint(condition=models.Q(("used__gte", 0)), name="limit_used_not_negative"),
                ],
            },
        ),
        migrations.RunPython(make_rows, migrations.RunPython.noop),
        migrations.RemoveField(model_name="account", name="limits"),
    ]
