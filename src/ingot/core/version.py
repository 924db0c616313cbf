"""Which Ingot this is, said alike by the command line, ledgers and checkpoints."""

from __future__ import annotations


def installed_version() -> str:
    """The version of the installed package; ``uninstalled`` where the sources are used without one."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and help must be instant

    try:
        return version("ingot")
    except PackageNotFoundError:
        return "uninstalled"
