"""The report of a sweep: pure computation into dataclasses, then one self-contained HTML file."""

from bet_ray.report.render import write_report

__all__ = ["write_report"]
