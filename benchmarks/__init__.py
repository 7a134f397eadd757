"""Side-by-side measurements: what is promised, each against another way to do the same.

`python -m benchmarks` runs them all. A benchmark is a function whose docstring says what is
measured, against what, and what is promised. Each figure is a ratio of two arms that run on the
same server in the same run and take turns, so that it means something on any machine.
"""
