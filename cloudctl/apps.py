"""Django's admin, with our site in the place of its own."""

from django.contrib.admin.apps import AdminConfig


class CloudctlAdminConfig(AdminConfig):
    default_site = "cloudctl.admin_site.CloudctlAdminSite"
