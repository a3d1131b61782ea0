"""Networks of the classifiers: MobileNetV2, ResNet-50, and ArcFace as their last layer."""
