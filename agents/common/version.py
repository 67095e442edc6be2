"""The version of cloudctl that runs."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Of the installed package; ``unknown`` where it runs from a checkout."""
    try:
        return version("cloudctl")
    except PackageNotFoundError:
        return "unknown"
