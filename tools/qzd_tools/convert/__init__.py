"""Turn a trained model into a bundle."""
