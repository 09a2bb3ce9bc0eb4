"""The mathematics: plain torch functions, float64 by default."""

from mambaviz.theory.convergence import discretization_errors, observed_order
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    discretize_backward_euler,
    discretize_bilinear,
    discretize_dense,
    discretize_euler,
    discretize_mamba,
    discretize_zoh,
    euler_to_zoh_ratio,
    exp_and_phi1,
    half_life,
    held_state,
    linear_recurrence,
    phi1,
)

__all__ = [
    "DISCRETIZATION_RULES",
    "discretization_errors",
    "discretize_backward_euler",
    "discretize_bilinear",
    "discretize_dense",
    "discretize_euler",
    "discretize_mamba",
    "discretize_zoh",
    "euler_to_zoh_ratio",
    "exp_and_phi1",
    "half_life",
    "held_state",
    "linear_recurrence",
    "observed_order",
    "phi1",
]
