"""What this project declares that it needs, read from its installed metadata."""

from collections.abc import Iterable
from importlib.metadata import requires

from packaging.requirements import Requirement

__all__ = ["declared", "lower_bound", "oldest"]


def declared(extras: Iterable[str] = (), *, python: str | None = None) -> list[Requirement]:
    """Return the requirements of the base and of some extras, without their markers.

    Args:
        extras: Names of extras.
        python: The Python that markers are judged for, as "3.10"; the running one by default.
    """
    environment = {"python_version": python} if python else {}
    found = []
    for text in requires("lstm-edge") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ["", *extras]):
            requirement.marker = None
            found.append(requirement)
    return found


def lower_bound(requirement: Requirement) -> str:
    """Return the version after ``>=``; every requirement of this project has one."""
    (bound,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
    return bound


def oldest(requirements: Iterable[Requirement]) -> list[str]:
    """Pin each requirement to its lower bound."""
    return [f"{requirement.name}=={lower_bound(requirement)}" for requirement in requirements]
