"""Fault tests: real workers on a real Kafka and a real Redis are killed, stalled and cut off, and then judged.

`payments` makes the history, `scoring` a model whose score tells the features to the bit, `worker` is the child process
with its fault point, `scene` runs children and collects the evidence, `check` judges it without any code of the product
but the record types, and `report` shows the table.
"""
