"""The structures of ``native.h``, field by field: a change there must be made here too."""

from __future__ import annotations

import ctypes


class Projection(ctypes.Structure):
    """``struct projection``."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class Model(ctypes.Structure):
    """``struct model``."""

    _fields_ = (
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("most_inputs", ctypes.c_int64),
        ("most_outputs", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("activation", ctypes.c_int64),
    )


class Residual(ctypes.Structure):
    """``struct residual``."""

    _fields_ = (
        ("norm", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    )


class Layer(ctypes.Structure):
    """``struct layer``."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("query_norm_width", ctypes.c_int64),
        ("key_norm_width", ctypes.c_int64),
        ("score_scale", ctypes.c_float),
        ("place", ctypes.c_int64),
        ("attention_residual", Residual),
        ("mlp_residual", Residual),
        ("qkv", Projection),
        ("o", Projection),
        ("gate_up", Projection),
        ("down", Projection),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


class Change(ctypes.Structure):
    """``struct change``."""

    _fields_ = (
        ("inner", ctypes.c_void_p),
        ("outer", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class Place(ctypes.Structure):
    """``struct place``."""

    _fields_ = (
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("rotary", ctypes.c_int64),
        ("mask", ctypes.c_void_p),
        ("mask_stride", ctypes.c_int64),
        ("is_causal", ctypes.c_int64),
    )


class Pass(ctypes.Structure):
    """``struct pass``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("base", ctypes.c_int64),
        ("writes", ctypes.c_int64),
        ("places", Place * 2),
        ("start", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("skips", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("changes", ctypes.c_void_p),
        ("first_changed", ctypes.c_int64),
    )
