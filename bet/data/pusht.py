"""PushT demonstrations seen through another observation layout than the one they are stored in."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.layouts import PushTLayout, pusht_observations, pusht_states

EXACT = 1e-3  # the pose must give every stored number back to this: a thirtieth of what can be seen, 30 roundings


def layout_of(episodes: Episodes) -> PushTLayout:
    """The layout that observations have, told by their number of columns. Raises `DataError` when none fits."""
    columns = episodes.observations.shape[1]
    for layout in PushTLayout:
        if layout.dim == columns:
            return layout
    known = ", ".join(f"{layout} ({layout.dim})" for layout in PushTLayout)
    raise DataError(f"{episodes.source}: observations have {columns} columns, as no layout of pusht has: {known}")


def states_of(episodes: Episodes) -> NDArray[np.float64]:
    """The simulator's states (N, 5) behind observations, to the rounding of float32.

    Raises `DataError` for the layout `agent`, which does not show the block, and for observations of no rigid block.
    """
    layout = layout_of(episodes)
    if layout is PushTLayout.AGENT:
        raise DataError(f"{episodes.source}: shows the agent only (layout 'agent'): where the block is cannot be told")
    states = pusht_states(episodes.observations, layout)
    errors = np.abs(pusht_observations(states, layout) - episodes.observations).max(axis=1)  # (N,)
    if (errors > EXACT).any():
        row = int(np.argmax(errors > EXACT))
        message = f"{episodes.source}: observations row {row} is {errors[row]:.2g} off any pose of the block"
        raise DataError(f"{message} (layout {layout.value!r}, {EXACT:g} allowed)")
    return states


def in_layout(episodes: Episodes, layout: PushTLayout) -> Episodes:
    """The same demonstrations through a layout. Bit-identical where it shows the same numbers; else by way of the pose.

    Raises `DataError` when the stored observations do not show enough.
    """
    own = layout_of(episodes)
    if layout is own:
        return episodes
    if layout is PushTLayout.AGENT:  # every layout starts with the agent
        return replace(episodes, observations=episodes.observations[:, :2])
    if own is PushTLayout.AGENT:
        message = f"{episodes.source}: offers layout 'agent' only: it does not show the block"
        raise DataError(f"{message}, so {layout.value!r} cannot be had from it")
    return replace(episodes, observations=pusht_observations(states_of(episodes), layout))
