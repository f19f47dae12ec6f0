"""`fraudline certify`: every decision made again, from the logs and the order that the journal tells, and compared.

`told` reads what was published, `order` the journal, `replayed` makes a batch of decisions again, `certify` does all of
it and says what came out.
"""
