"""`fraudline certify`: every decision made again, from the logs and the order that the journal tells, and compared.

`told` and `alerts` pack what was published, `order` reads the journal, `recorder` puts payments and labels into logs,
`replayed` makes decisions again, `compare` holds them to what was published, `outcome` is what is said of it, and
`certify` does all of it.
"""
