"""What Fraudline concludes about a payment: the model bundle, scores, decisions, reasons and training."""
