"""Snapshots of the original code family, made into policies without running anything that they name."""
