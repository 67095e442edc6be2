"""Django settings. What differs between installations comes from the environment:

CLOUDCTL_DATABASE_URL   default: SQLite file ``db.sqlite3`` in the checkout
CLOUDCTL_BROKER_URL     default: ``redis://127.0.0.1:6379/0``
CLOUDCTL_SECRETS_DIR    folder (0700) for the server's keys; default: ``db.sqlite3.secrets`` in the checkout
CLOUDCTL_ALLOWED_HOSTS  comma-separated names under which the server is reached; default: this machine only
CLOUDCTL_LOG_FORMAT     ``json`` (default) or ``text``
"""

import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from django.urls import reverse_lazy

from cloudctl.celery import BROKER_URL
from core_app.keys import key_from_file

BASE_DIR = Path(__file__).resolve().parent.parent

CLOUDCTL_BROKER_URL = BROKER_URL
CLOUDCTL_SECRETS_DIR = Path(os.environ.get("CLOUDCTL_SECRETS_DIR", BASE_DIR / "db.sqlite3.secrets"))

SECRET_KEY = key_from_file(CLOUDCTL_SECRETS_DIR / "django.key").hex()
DEBUG = False
ALLOWED_HOSTS = os.environ.get("CLOUDCTL_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "core_app",  # first: its templates replace unfold's, whose layout needs scripts in the page
    "unfold.apps.BasicAppConfig",
    "cloudctl.apps.CloudctlAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "django_filters",
    "django_celery_beat",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts_app",
    "infra_app",
    "operations_app",
    "templates_app",
    "compute_app",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",  # ETag and 304: polling is cheap
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "cloudctl.policy.content_security_policy",
]

ROOT_URLCONF = "cloudctl.urls"
WSGI_APPLICATION = "cloudctl.wsgi.application"
APPEND_SLASH = False  # a redirect would turn a POST into a GET

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database() -> dict[str, Any]:
    default = f"sqlite:///{BASE_DIR / 'db.sqlite3'}"
    url = os.environ.get("CLOUDCTL_DATABASE_URL", default)
    config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    # A transaction of ours never spans a request: with ATOMIC_REQUESTS a GET would take SQLite's write lock.
    config["ATOMIC_REQUESTS"] = False
    if config["ENGINE"] == "django.db.backends.sqlite3":
        config["OPTIONS"] = {
            "timeout": 20,
            # Takes the write lock at BEGIN, so that no transaction fails half-way at its first write.
            "transaction_mode": "IMMEDIATE",
            # FULL: what was committed survives a power cut; the row is the record.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }
        # Tests use a file as production does: an in-memory database locks differently.
        config["TEST"] = {"NAME": Path(tempfile.gettempdir()) / f"cloudctl-test-{os.getpid()}.sqlite3"}
    return config


DATABASES = {"default": _database()}

AUTH_USER_MODEL = "accounts_app.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
KNOX_TOKEN_MODEL = "accounts_app.Token"  # noqa: S105  (a model's name)
# Knox's own migrations would create its default table even though the model is replaced.
MIGRATION_MODULES = {"knox": None}
REST_KNOX = {"TOKEN_TTL": timedelta(days=90), "AUTH_HEADER_PREFIX": "Token"}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts_app.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts_app.permissions.RolePermission"],
    "DEFAULT_THROTTLE_CLASSES": ["accounts_app.throttling.TokenThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core_app.parsers.BoundedJSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["accounts_app.tenancy.TenancyFilter", "core_app.filters.FieldFilter"],
    "DEFAULT_PAGINATION_CLASS": "core_app.pagination.KeysetPagination",
    "DEFAULT_SCHEMA_CLASS": "core_app.schema.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "core_app.problems.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "cloudctl",
    "DESCRIPTION": "A crash-safe KVM cloud controller. Errors are RFC 9457 problem details.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "UserRole": "accounts_app.models.Role",
        "AgentRole": "infra_app.models.Agent.Role",
        "AgentState": "infra_app.models.Agent.State",
        "PoolType": "infra_app.models.StoragePool.Type",
        "EventLevel": "core_app.models.Event.Level",
    },
}


def _page(icon: str, title: str, model: str) -> dict[str, Any]:
    return {"icon": icon, "title": title, "link": reverse_lazy(f"admin:{model}_changelist")}


UNFOLD = {
    "SITE_TITLE": "cloudctl",
    "SITE_HEADER": "cloudctl",
    "SIDEBAR": {
        "navigation": [
            {
                "title": "",
                "items": [
                    {"icon": "monitor_heart", "title": "Fleet", "link": reverse_lazy("admin:index")},
                    _page("pending_actions", "Operations", "operations_app_operation"),
                    _page("notifications", "Events", "core_app_event"),
                ],
            },
            {
                "title": "Compute",
                "items": [
                    _page("computer", "VMs", "compute_app_vm"),
                    _page("hard_drive", "Volumes", "compute_app_volume"),
                    _page("deployed_code", "Templates", "templates_app_template"),
                ],
            },
            {
                "title": "Places",
                "items": [
                    _page("public", "Zones", "infra_app_zone"),
                    _page("dns", "Hosts", "infra_app_host"),
                    _page("database", "Storage pools", "infra_app_storagepool"),
                    _page("key", "Join tokens", "infra_app_jointoken"),
                ],
            },
            {
                "title": "People",
                "items": [
                    _page("apartment", "Accounts", "accounts_app_account"),
                    _page("group", "Users", "accounts_app_user"),
                    _page("vpn_key", "API tokens", "accounts_app_token"),
                    _page("receipt_long", "Usage", "accounts_app_usagerecord"),
                ],
            },
            {
                "title": "System",
                "items": [
                    _page("tune", "Settings", "core_app_setting"),
                    _page("terminal", "Commands", "operations_app_command"),
                    _page("smart_toy", "Agents", "infra_app_agent"),
                    _page("schedule", "Schedule", "django_celery_beat_periodictask"),
                ],
            },
        ],
    },
}

LANGUAGE_CODE = "en-us"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "/static/"
# Serves the packages' static files from where they are, without a collectstatic step.
WHITENOISE_USE_FINDERS = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "core_app.logs.JsonFormatter"},
        "text": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": os.environ.get("CLOUDCTL_LOG_FORMAT", "json")}
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django.server": {"handlers": [], "propagate": True}},
}
