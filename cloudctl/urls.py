"""All paths. Each room's ``api.py`` names its own in ``routes``: (prefix, view set, base name)."""

from importlib import import_module
from importlib.util import find_spec

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import SimpleRouter

from cloudctl.health import livez, readyz

ROOMS = [app for app in settings.INSTALLED_APPS if app.endswith("_app")]


def _routes() -> SimpleRouter:
    collected = SimpleRouter()
    for room in ROOMS:
        if find_spec(f"{room}.api"):
            for prefix, viewset, basename in import_module(f"{room}.api").routes:
                collected.register(prefix, viewset, basename=basename)
    return collected


router = _routes()


urlpatterns = [
    path("api/v1/", include(router.urls)),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("livez", livez),
    path("readyz", readyz),
    path("admin/", admin.site.urls),
]

handler400 = "core_app.problems.bad_request"
handler403 = "core_app.problems.permission_denied"
handler404 = "core_app.problems.not_found"
handler500 = "core_app.problems.server_error"
