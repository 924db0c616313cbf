"""Puts the recipes into the wheel, as ``ingot/recipes``; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """An editable install has none: there the checkout's own are found."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "ingot" / "recipes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "recipes", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": WithRecipes})
