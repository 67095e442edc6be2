"""Registers what this room offers to the others."""

from django.apps import AppConfig


class TemplatesConfig(AppConfig):
    name = "templates_app"
    verbose_name = "templates"

    def ready(self) -> None:
        from accounts_app import limits
        from accounts_app.models import Resource
        from operations_app import registry
        from templates_app import accounting, rules, waiting, workflows
        from templates_app.models import Placement, Template

        registry.register_lockable("template", Template)
        registry.register_lockable("placement", Placement)
        registry.register_workflow(workflows.RegisterTemplate())
        registry.register_workflow(workflows.DownloadTemplate())
        registry.register_workflow(workflows.DeleteTemplate())
        registry.register_verdict("template.check", rules.judge_check)
        registry.register_verdict("template.download", rules.judge_download)
        registry.register_verdict("template.remove", rules.judge_remove, by_person=registry.BY_PERSON_FORWARD)
        limits.count_by(Resource.TEMPLATES, accounting.count_templates)
        registry.ping_consumers.append(waiting.take_ping)
