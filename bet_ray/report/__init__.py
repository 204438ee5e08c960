"""The report of a run: pure computation, then one self-contained HTML file."""
