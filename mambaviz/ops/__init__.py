"""The operations that models stand on, and the only home of Triton.

Doors: ``mambaviz.ops.selective_scan`` and ``mambaviz.ops.causal_conv1d``.
"""
