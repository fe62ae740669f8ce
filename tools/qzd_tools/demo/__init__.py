"""An example of a user's own model: a made-up factory, a small detector trained on it, and the main job.

`parts`, `belt` and `scene` draw, `dataset` writes images and clips, `model` and `train` made `parts.onnx`
(only they need torch), and `run` is `qzd-tools demo`. Nothing else in qzd knows about any of it.
"""
