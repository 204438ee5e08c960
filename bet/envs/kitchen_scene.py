"""Pictures of the kitchen: MuJoCo's own renderer without a window."""

import atexit
import os
from ctypes.util import find_library
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from bet.envs.vector import RenderError

_mujoco: Any = mujoco  # compiled, and without types

FRAME = (240, 320)  # pixels, height and width
_LOOK_AT, _DISTANCE, _AZIMUTH, _ELEVATION = (-0.2, 0.5, 2.0), 2.2, 70.0, -35.0  # as in the original
_LARGEST = 10000  # shapes in the scene, at most
_NO_GL = (
    "the kitchen cannot be drawn without a screen here: {reason}; install Mesa's software renderer (apt-get install "
    "libosmesa6) and set MUJOCO_GL=osmesa, or on a machine with a GPU MUJOCO_GL=egl"
)


def light_visuals(model: Any) -> None:
    """Make a model (`MjModel`) cheap to draw on a CPU, from seconds to 0.05 s a frame; nothing else changes.

    Buffers are no larger than a frame, and there are no shadows and no more than one sample a pixel.
    """
    model.vis.global_.offheight, model.vis.global_.offwidth = FRAME
    model.vis.quality.shadowsize = model.vis.quality.offsamples = 0


class Camera:
    """Draws states of a model. It holds a GL context: one for the process is enough, and some drivers allow no more.

    Raises `RenderError` where there is no OpenGL.
    """

    def __init__(self, model: Any) -> None:
        height, width = FRAME
        try:
            self._gl = _gl_context()(width, height)
            self._gl.make_current()
            self._context = _mujoco.MjrContext(model, _mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each library raises its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RenderError(_NO_GL.format(reason=reason)) from error
        atexit.register(self._free)
        _mujoco.mjr_setBuffer(_mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._model = model
        self._world = _mujoco.MjData(model)  # of its own: to be looked at must change nothing
        self._scene, self._options = _mujoco.MjvScene(model, _LARGEST), _mujoco.MjvOption()
        self._view = _mujoco.MjvCamera()
        self._view.lookat[:] = _LOOK_AT
        self._view.distance, self._view.azimuth, self._view.elevation = _DISTANCE, _AZIMUTH, _ELEVATION

    def picture(self, positions: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A frame (240, 320, 3) of the model with its joints at positions (nq,)."""
        height, width = FRAME
        self._world.qpos[:] = positions
        _mujoco.mj_forward(self._model, self._world)
        self._gl.make_current()
        everything = _mujoco.mjtCatBit.mjCAT_ALL
        _mujoco.mjv_updateScene(self._model, self._world, self._options, None, self._view, everything, self._scene)
        area, frame = _mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        _mujoco.mjr_render(area, self._scene, self._context)
        _mujoco.mjr_readPixels(frame, None, area, self._context)
        return frame[::-1].copy()  # OpenGL counts rows from the bottom

    def _free(self) -> None:
        """Drop what the driver holds, in this order and while its libraries are there."""
        del self._context
        del self._gl


def _gl_context() -> Any:
    """The class of contexts: as MUJOCO_GL says; where it says nothing and there is no screen, Mesa's, if there."""
    if not (os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY")) and find_library("OSMesa"):
        from mujoco.osmesa import GLContext

        return GLContext
    return _mujoco.GLContext
