"""What is measured: speed and latency on real Kafka and real Redis, against the loop that most people write."""
