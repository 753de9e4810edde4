"""A loop over time in a file of its own."""


def scan(cell, x, h):
    """Run ``cell`` over the steps of ``x (N, L, I)``; return all states."""
    states = []
    for step in range(x.size(1)):
        h = cell(x[:, step], h)
        states.append(h)
    return states
