"""Networks as C99: a const table of operations on a core that all networks share."""

from .folder import CFolder, check_c_folder, to_c

__all__ = ["CFolder", "check_c_folder", "to_c"]
