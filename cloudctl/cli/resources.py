"""All that the command line can do, row by row as the API has it; a test compares the two.

A new route is a ``Call`` of its resource, a new field a ``Field`` of its call. Fields of answers need no row: ``show``
and ``--output json`` give all of them; ``listing`` names the columns of a table.
"""

from collections.abc import Mapping
from dataclasses import replace

from cloudctl.cli.table import Answer, Call, Field, Kind, Resource, act, create, delete, listing, show

NOT_FOR_PEOPLE: Mapping[tuple[str, str], str] = {
    ("POST", "agents/join/"): "the one call of an agent; `python -m agents join` makes it",
}
"""Routes that have no command, with the reason."""


def _to(name: str, to: str, *, required: bool = False, text: str = "") -> Field:
    return Field(name, Kind.REFERENCE, required=required, to=to, help=text)


NAME = Field("name")
NEW_NAME = Field("name", required=True)
STATE = Field("state")
ZONE, HOST, POOL = _to("zone", "zones"), _to("host", "hosts"), _to("pool", "storage-pools")
ACCOUNT, TEMPLATE, VM = _to("account", "accounts"), _to("template", "templates"), _to("vm", "vms")
NEW_IN_ZONE = replace(ZONE, required=True)

FORCE = (
    Field("force", Kind.FLAG, help="Do not ask the guest: take the power away, or reset"),
    Field("timeout_seconds", Kind.SECONDS, option="force-after", help="Ask, and use force when this has passed"),
)
DRY_RUN = Field("dry_run", Kind.FLAG, help="Show what would be done, and do nothing")
ROLES = ("admin", "operator", "read-only", "user")
LIMITS = (
    *(Field(name, Kind.NUMBER, nullable=True) for name in ("templates", "volumes", "vms", "snapshots")),
    *(Field(f"{name}_storage_bytes", Kind.BYTES, nullable=True) for name in ("primary", "secondary")),
)
AGENT_ROLES = ("host", "image-store", "management-server")

RESOURCES = (
    Resource(
        "zones",
        "zones/",
        "Places whose hosts work together",
        (
            listing("zones/", "id name enabled deletions_suspended", NAME, Field("enabled", Kind.FLAG)),
            show("zones/"),
            create("zones/", NEW_NAME),
        ),
    ),
    Resource(
        "hosts",
        "hosts/",
        "KVM hosts and their agents",
        (
            listing("hosts/", "id name zone state last_ping agent_version running_commands", NAME, ZONE, STATE),
            show("hosts/"),
        ),
    ),
    Resource(
        "join-tokens",
        "hosts/join-tokens/",
        "Rights of agents to join",
        (
            listing(
                "hosts/join-tokens/",
                "id zone role reusable expires_at used_at",
                ZONE,
                Field("role"),
            ),
            show("hosts/join-tokens/"),
            create(
                "hosts/join-tokens/",
                NEW_IN_ZONE,
                Field("role", choices=AGENT_ROLES, help="Left out: any"),
                Field("reusable", Kind.FLAG),
                Field("valid_seconds", Kind.SECONDS),
                text="Make one; its secret is shown this once.",
            ),
        ),
        named=False,
    ),
    Resource(
        "storage-pools",
        "storage-pools/",
        "Primary storage",
        (
            listing(
                "storage-pools/",
                "id name zone type path host capacity_bytes available_bytes",
                NAME,
                ZONE,
                Field("type"),
                HOST,
            ),
            show("storage-pools/"),
            create(
                "storage-pools/",
                NEW_NAME,
                NEW_IN_ZONE,
                Field("type", required=True, choices=("local", "shared", "nfs")),
                Field("path", required=True, help="Absolute, on its hosts"),
                _to("host", "hosts", text="Of a local pool"),
            ),
        ),
    ),
    Resource(
        "networks",
        "networks/",
        "Bridges and libvirt networks of the hosts",
        (
            listing("networks/", "id name zone kind source", NAME, ZONE, Field("kind")),
            show("networks/"),
            create(
                "networks/",
                NEW_NAME,
                NEW_IN_ZONE,
                Field("kind", required=True, choices=("bridge", "libvirt")),
                Field("source", required=True, help="Its name on the hosts"),
            ),
            delete("networks/", text="Forget one; nothing on the hosts is touched."),
        ),
    ),
    Resource(
        "accounts",
        "accounts/",
        "Who owns templates, volumes and VMs",
        (
            listing("accounts/", "id name created_at", NAME),
            show("accounts/"),
            create("accounts/", NEW_NAME),
            Call(
                "update",
                "PATCH",
                "accounts/{id}/",
                "Set some of its limits; none: no limit.",
                Answer.ROW,
                body=(Field("limits", Kind.OBJECT, required=True, members=LIMITS),),
            ),
        ),
    ),
    Resource(
        "users",
        "users/",
        "People and scripts",
        (
            listing("users/", "id name role active account", ACCOUNT, Field("role")),
            show("users/"),
            Call("me", "GET", "users/me/", "Show whose token this is.", Answer.ROW),
            create(
                "users/",
                NEW_NAME,
                Field("role", required=True, choices=ROLES),
                ACCOUNT,
                Field("password", Kind.SECRET, help="For the admin site; left out: tokens only"),
            ),
            Call(
                "update",
                "PATCH",
                "users/{id}/",
                "Change role, account or password, or lock one out.",
                Answer.ROW,
                body=(
                    Field("role", choices=ROLES),
                    ACCOUNT,
                    Field("active", Kind.FLAG, help="One that is not active gets in no more, at once"),
                    Field("password", Kind.SECRET),
                ),
            ),
            delete("users/", text="Delete one and its tokens."),
        ),
    ),
    Resource(
        "tokens",
        "tokens/",
        "Keys to the API",
        (
            listing("tokens/", "id name user expires_at last_used", _to("user", "users")),
            show("tokens/"),
            create(
                "tokens/",
                NEW_NAME,
                _to("user", "users", text="Left out: your own"),
                Field("valid_seconds", Kind.SECONDS),
                text="Make one; its secret is shown this once.",
            ),
            delete("tokens/", text="Make one invalid at once."),
        ),
    ),
    Resource(
        "templates",
        "templates/",
        "Images that VMs are made from",
        (
            listing(
                "templates/",
                "id name state format size_bytes public account created_at",
                NAME,
                STATE,
                _to("zones", "zones"),
                ACCOUNT,
                Field("format"),
                Field("public", Kind.FLAG),
            ),
            show("templates/"),
            create(
                "templates/",
                NEW_NAME,
                Field("url", required=True),
                Field("format", required=True, choices=("qcow2", "raw", "iso")),
                Field("zones", Kind.REFERENCE, many=True, to="zones", word="all", help="Left out: all"),
                ACCOUNT,
                Field("checksum", help="{SHA-256}hex"),
                Field("direct_download", Kind.FLAG),
                Field("public", Kind.FLAG, help="Every account may use it"),
                Field("headers", Kind.MAP, help="Sent with each download"),
                Field("secret_headers", Kind.SECRET_MAP, help="Sent with each download, never readable again"),
                Field("is_iso", Kind.FLAG, help="Follows from the format"),
                Field("follow_redirects", Kind.FLAG),
                answer=Answer.OPERATION,
                text="Register one by its URL.",
            ),
            Call(
                "placements",
                "GET",
                "templates/{id}/placements/",
                "List where one lies, with the percent of its downloads.",
                Answer.PAGES,
                columns=("id", "kind", "target", "state", "download_state", "percent", "size_bytes", "mirror", "error"),
                ordered=False,
            ),
            act(
                "templates/",
                "prepare",
                "Download one to a pool ahead of a deployment.",
                replace(POOL, required=True),
            ),
            delete("templates/", DRY_RUN, answer=Answer.OPERATION, text="Delete one, with its copies on the pools."),
        ),
        gone=("deleted",),
    ),
    Resource(
        "vms",
        "vms/",
        "Virtual machines",
        (
            listing(
                "vms/",
                "id name state power_state host cpus memory_bytes guest_agent account",
                NAME,
                STATE,
                ZONE,
                ACCOUNT,
                HOST,
                TEMPLATE,
                Field("guest_agent"),
            ),
            show("vms/"),
            create(
                "vms/",
                NEW_NAME,
                replace(TEMPLATE, required=True),
                NEW_IN_ZONE,
                ACCOUNT,
                Field("cpus", Kind.NUMBER),
                Field("memory_bytes", Kind.BYTES, required=True),
                Field("root_size_bytes", Kind.BYTES, help="Left out: as the template"),
                Field(
                    "data_disks",
                    Kind.OBJECT,
                    many=True,
                    members=(Field("size_bytes", Kind.BYTES, required=True),),
                    help="Size of a further disk",
                ),
                _to("pool", "storage-pools", text="Left out: chosen by room"),
                _to("host", "hosts", text="Left out: chosen by room"),
                Field("start", Kind.FLAG),
                replace(_to("networks", "networks", text="A card in each"), many=True),
                Field("restart_after_boot", Kind.FLAG, help="Start it again after a boot of its host"),
                Field("ssh_keys", Kind.CONTENT, many=True),
                Field("user_data", Kind.CONTENT, help="cloud-init's"),
                answer=Answer.OPERATION,
                text="Deploy one from a template.",
            ),
            Call(
                "update",
                "PATCH",
                "vms/{id}/",
                "Change what may be changed at any time.",
                Answer.ROW,
                body=(Field("restart_after_boot", Kind.FLAG, required=True),),
            ),
            act("vms/", "start", "Start a stopped one."),
            act("vms/", "stop", "Stop a running one.", *FORCE),
            act("vms/", "reboot", "Reboot a running one; over when the guest begins to boot.", *FORCE),
            act("vms/", "resume", "Let one go on that was paused, for an error of its storage for instance."),
            act("vms/", "recover", "Take back a destruction without expunge.", answer=Answer.ROW),
            replace(
                act("vms/", "console", "Print the last lines of its serial console.", Field("lines", Kind.NUMBER)),
                prints="text",
            ),
            delete(
                "vms/",
                Field("expunge", Kind.FLAG, help="Remove its volumes too, for good"),
                DRY_RUN,
                answer=Answer.OPERATION,
                text="Destroy one.",
            ),
        ),
        gone=("expunged",),
    ),
    Resource(
        "volumes",
        "volumes/",
        "Disks of VMs",
        (
            listing("volumes/", "id name state vm pool size_bytes chain_length format", NAME, STATE, VM, POOL, ACCOUNT),
            show("volumes/"),
            create(
                "volumes/",
                NEW_NAME,
                NEW_IN_ZONE,
                ACCOUNT,
                _to("pool", "storage-pools", text="Left out: chosen by room"),
                Field("size_bytes", Kind.BYTES, required=True),
                answer=Answer.OPERATION,
                text="Create an empty one, to be attached to a VM.",
            ),
            act("volumes/", "attach", "Attach one to a running or stopped VM.", replace(VM, required=True)),
            act("volumes/", "detach", "Detach a data disk; a guest that runs has to let go of it."),
            act(
                "volumes/",
                "resize",
                "Let one grow, also while its guest runs.",
                Field("size_bytes", Kind.BYTES, required=True),
            ),
            delete("volumes/", DRY_RUN, answer=Answer.OPERATION, text="Delete one that is no VM's disk, for good."),
        ),
        gone=("removed",),
    ),
    Resource(
        "operations",
        "operations/",
        "What was asked for: watch it, cancel it",
        (
            listing(
                "operations/",
                "id kind target state step percent created_at finished_at",
                STATE,
                Field("kind"),
                Field("target_id"),
                Field("target_type"),
                ACCOUNT,
            ),
            show("operations/"),
            replace(act("operations/", "cancel", "Have one put back as it was."), wanted="cancelled"),
            act(
                "operations/",
                "settle",
                "Say what became of a command that nobody could find out.",
                Field("verdict", required=True, choices=("done", "undone", "redo")),
                Field("note", required=True, help="How you know; it is kept with your name"),
                _to("command", "commands", text="Which one, where several are in question"),
                query=(DRY_RUN,),
            ),
        ),
        named=False,
    ),
    Resource(
        "commands",
        "commands/",
        "Pieces of operations, each done by one agent",
        (
            listing(
                "commands/",
                "id kind state agent_state attempt operation label created_at",
                _to("operation", "operations"),
                _to("agent", "hosts"),
                Field("kind"),
                STATE,
            ),
            show("commands/"),
            replace(
                act("commands/", "reconcile", "Ask its host at once what is true about one."), attention_seconds=10.0
            ),
        ),
        named=False,
    ),
    Resource(
        "events",
        "events/",
        "What happened",
        (
            listing(
                "events/",
                "created_at level kind target message",
                Field("kind"),
                Field("level"),
                ACCOUNT,
                Field("target", help="Id of what it happened to"),
            ),
            show("events/"),
        ),
        named=False,
    ),
    Resource(
        "usage-records",
        "usage-records/",
        "What accounts used, from when to when",
        (
            listing(
                "usage-records/",
                "created_at ended_at kind target count size_bytes account",
                Field("kind"),
                ACCOUNT,
                Field("target", help="Id of what was used"),
                Field("after", help="Went on after this time"),
                Field("before", help="Began before it"),
            ),
            show("usage-records/"),
        ),
        named=False,
    ),
    Resource(
        "settings",
        "settings/",
        "What operators may set",
        (
            Call(
                "list",
                "GET",
                "settings/",
                "List them.",
                Answer.ROWS,
                columns=("name", "value", "default", "unit", "bounds"),
            ),
            Call("show", "GET", "settings/{name}/", "Show one with its help.", Answer.ROW),
            Call(
                "set",
                "PUT",
                "settings/{name}/",
                "Change one, at once.",
                Answer.ROW,
                body=(Field("value", Kind.JSON, required=True, argument=True),),
            ),
        ),
        named=False,
    ),
)

BY_NAME: Mapping[str, Resource] = {resource.name: resource for resource in RESOURCES}

SHOWN_BY_NAME: Mapping[str, str] = {
    "account": "accounts",
    "host": "hosts",
    "pool": "storage-pools",
    "user": "users",
    "vm": "vms",
    "zone": "zones",
}
"""Columns that hold an id, and whose object's name a table shows instead."""
