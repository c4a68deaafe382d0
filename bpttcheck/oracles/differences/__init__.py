"""Derivatives from the forward pass alone: extrapolated differences with an error bar."""
