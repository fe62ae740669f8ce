"""Run the whole way from a model to a deployable bundle, resumable at each step."""
