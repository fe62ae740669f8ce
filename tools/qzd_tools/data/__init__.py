"""Read images and data sets: COCO, ImageNet."""
