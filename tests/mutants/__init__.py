"""The product with one guard taken out. A suite that does not notice is no suite.

`state` has mutants that the simulation and the fault tests run in process. `guards` lists guards by their text, and
`runner` takes each away in a copy of the tree and runs the tests that must then fail: `python -m tests.mutants`.
"""
