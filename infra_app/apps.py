from django.apps import AppConfig


class InfraConfig(AppConfig):
    name = "infra_app"
    default_auto_field = "django.db.models.BigAutoField"
