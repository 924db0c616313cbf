"""What a branch has changed, so that tests of a sample also look at what is new."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def changed(folder: str) -> list[str]:
    """Files of a folder that are not as where this branch left the main one, or on that one as in the commit before; none where git does
    not say. Paths are relative to the checkout's root."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return [] if done.returncode else done.stdout.split()

    base = git("merge-base", "HEAD", "origin/main") or git("merge-base", "HEAD", "main")
    if base == git("rev-parse", "HEAD"):
        base = git("rev-parse", "HEAD~1")
    return [*git("diff", "--name-only", *base, "--", folder), *git("ls-files", "--others", "--exclude-standard", folder)] if base else []
