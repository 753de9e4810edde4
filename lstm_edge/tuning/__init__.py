"""Find, by measuring on this machine, the session options and the file that serve a goal best. No torch."""

__all__: list[str] = []
