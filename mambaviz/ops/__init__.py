"""The operations that models stand on, and the only home of Triton.

Doors: ``mambaviz.ops.selective_scan``, ``mambaviz.ops.causal_conv1d`` and
``mambaviz.ops.rms_norm``.
"""
