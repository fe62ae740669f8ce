"""Read model files of each format as an OpenVINO model."""
