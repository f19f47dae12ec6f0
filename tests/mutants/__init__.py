"""The product with one guard taken out. A suite that does not notice is no suite."""
