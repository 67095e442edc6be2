"""Registers what this room offers to the others."""

from django.apps import AppConfig


class ComputeConfig(AppConfig):
    name = "compute_app"
    verbose_name = "compute"

    def ready(self) -> None:
        from accounts_app import limits
        from accounts_app.models import Resource
        from compute_app import accounting, in_use, rules, sights, sweep, workflows
        from compute_app.models import VM, Volume
        from operations_app import registry
        from templates_app.models import Template

        registry.register_lockable("vm", VM)
        registry.register_lockable("volume", Volume)
        for workflow in workflows.WORKFLOWS:
            registry.register_workflow(workflow())
        registry.register_verdict("volume.create", rules.judge_volume_create, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("volume.remove", rules.judge_volume_remove, by_person=registry.BY_PERSON_FORWARD)
        registry.register_verdict("volume.attach", rules.judge_volume_attach, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("volume.detach", rules.judge_volume_detach, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("volume.resize", rules.judge_volume_resize, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("seed.create", rules.judge_seed_create, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("vm.start", rules.judge_vm_start, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("vm.stop", rules.judge_vm_stop, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("vm.reboot", rules.judge_vm_reboot, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("vm.resume", rules.judge_vm_resume, by_person=registry.BY_PERSON_ANY)
        registry.register_verdict("vm.console", rules.judge_vm_console)
        registry.register_guard(Template, in_use.of_template)
        limits.count_by(Resource.VMS, accounting.count_vms)
        limits.count_by(Resource.VOLUMES, accounting.count_volumes)
        limits.count_by(Resource.PRIMARY_STORAGE_BYTES, accounting.count_bytes)
        registry.ping_consumers.append(sights.take_ping)
        registry.sweeps += [sweep.expunge_destroyed, sweep.restart_after_boot]
