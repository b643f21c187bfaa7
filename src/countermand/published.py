"""The documented import names exist twice in the world: in the published packages, and here.

Two distributions that install one folder overwrite each other's files: which code answers "is it revoked?" then depends
on the order of installation, and uninstalling one breaks the other. So each of our documented names refuses to be
imported beside the published package of that name. Where the published files won, ours do not run, and cannot refuse.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import distribution as installed


def refuse_twice(distribution: str) -> None:
    """Refuse if `distribution`, the published owner of one of our import names, is installed.

    Raises:
        ImportError: it is.
    """
    try:
        installed(distribution)
    except PackageNotFoundError:
        return
    name = distribution.replace("-", "_")
    raise ImportError(
        f"{distribution} and countermand are both installed, and both provide {name}: keep one. To keep countermand, "
        f"run `pip uninstall {distribution}`, which also removes files of ours, and then "
        "`pip install --force-reinstall --no-deps countermand`.",
        name=name,
    )
