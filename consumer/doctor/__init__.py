"""`fraudline doctor`: a list of checks, each of which says what it saw and how to mend it.

`surgery` puts the list together; the other modules look at one thing each. What needs Kafka's client is in
`consumer.kafka.examine`, what needs Redis' in `features.redis_store.examine`.
"""
