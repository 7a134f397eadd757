"""Side-by-side measurements: what is promised, each against another way to do the same.

`python -m benchmarks` runs them all. A benchmark is a module with one function, `measure`, whose
docstring says what is measured, against what, and what is promised. Both arms of a comparison run
on the same server in the same run and take turns, so that the ratio of their times means something
on any machine.
"""
