"""The plots of a report, as PNG: `optimization` and `pareto`, both on `paper`."""
