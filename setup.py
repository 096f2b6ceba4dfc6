"""What pyproject.toml cannot say of the wheel: the files that `mtfscalper init` copies, and where the project lies."""

import os
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# mtfscalper/offline/starter.py and MANIFEST.in have these patterns too.
STARTER = ("configs/*.json", "strategies/*.py", "user_data/freqaimodels/*.py")
# Set where a release is built; elsewhere nobody knows where the project lies.
REPOSITORY = os.environ.get("GITHUB_REPOSITORY")
HOME = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{REPOSITORY}" if REPOSITORY else None


class BuildWithStarter(build_py):
    """Copies them from the top of the project, where they stand once."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "mtfscalper", "starter")
        for pattern in STARTER:
            for source in sorted(ROOT.glob(pattern)):
                copy = target / source.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(copy))


def readme() -> str:
    """README.md with links that also lead somewhere from a package index."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if HOME is None:
        return text
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", lambda link: f"]({_absolute(link[1])})", text)


def _absolute(path: str) -> str:
    return f"{HOME}/{'raw' if path.endswith(('.png', '.svg')) else 'blob'}/HEAD/{path}"


def urls() -> dict[str, str]:
    """Where the project and its documents are."""
    framework = {"freqtrade": "https://www.freqtrade.io"}
    if HOME is None:
        return framework
    owner, _, name = str(REPOSITORY).partition("/")
    return {
        "Homepage": HOME,
        "Documentation": f"https://{owner.lower()}.github.io/{name}/",
        "Issues": f"{HOME}/issues",
        "Changelog": f"{HOME}/blob/HEAD/CHANGELOG.md",
        **framework,
    }


setup(
    cmdclass={"build_py": BuildWithStarter},
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls=urls(),
)
