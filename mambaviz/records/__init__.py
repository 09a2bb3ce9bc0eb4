"""Results with their provenance: what was measured, where and how."""
